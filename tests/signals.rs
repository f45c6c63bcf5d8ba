//! Faults that are wasm's become traps; all others stay what they were.
//!
//! Every case runs in a process of its own: signal handlers belong to the process.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cwasm_artifact::builder::reseal;
use cwasm_loader::{Artifact, Caller, Engine, Error, Linker, Store, TrapKind};
use cwasm_tests::fault::child;
use cwasm_tests::{artifact, compile, load};

const PROGRAM: &str = r#"(module
    (import "host" "f" (func $f (param i32)))
    (memory 1)
    (func (export "divide") (param i32) (result i32) (i32.div_s (i32.const 100) (local.get 0)))
    (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
    (func (export "unreachable") (result i32) unreachable)
    (func $down (export "down") (param i32) (result i32)
        (i32.add (call $down (local.get 0)) (i32.const 1)))
    (func (export "host") (param i32) (result i32) (call $f (local.get 0)) (i32.const 7)))"#;

/// Calls an export of the program in a store of its own.
fn call(code: &Artifact, name: &str, argument: i32) -> Result<i32, Error> {
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    linker.func("host", "f", |_: Caller<'_, '_, ()>, value: i32| misbehave(value)).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, code)?;
    if name == "unreachable" {
        return instance.typed_func::<(), i32>(&store, name)?.call(&mut store, ());
    }
    instance.typed_func::<i32, i32>(&store, name)?.call(&mut store, argument)
}

/// What the host function does with its argument.
fn misbehave(value: i32) {
    match value {
        1 => read_null(),
        // SAFETY: raising a signal is always allowed.
        2 => drop(unsafe { libc::raise(libc::SIGFPE) }),
        _ => {}
    }
}

/// Reads address 8, which no process can.
#[inline(never)]
fn read_null() {
    println!("about to fault");
    let address = std::hint::black_box(8_usize);
    // SAFETY: none. It is the fault that these tests are about; the process has
    // a handler for it or dies by it.
    let byte = unsafe { ptr::with_exposed_provenance::<u8>(address).read_volatile() };
    println!("address 8 holds {byte}");
}

fn trap(result: Result<i32, Error>) -> TrapKind {
    match result {
        Err(Error::Trap(trap)) => trap.kind(),
        other => panic!("not a trap: {other:?}"),
    }
}

/// Every kind of signal by which traps arrive, and a call that succeeds.
fn traps_work(code: &Artifact) {
    assert_eq!(trap(call(code, "divide", 0)), TrapKind::IntegerDivisionByZero);
    assert_eq!(trap(call(code, "load", -1)), TrapKind::MemoryOutOfBounds);
    assert_eq!(trap(call(code, "unreachable", 0)), TrapKind::Unreachable);
    assert_eq!(trap(call(code, "down", 0)), TrapKind::StackOverflow);
    assert_eq!(call(code, "divide", 5).unwrap(), 20);
    assert_eq!(call(code, "host", 0).unwrap(), 7);
}

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void);

/// Installs a handler, and returns the action that it replaces.
fn install(signal: libc::c_int, handler: Handler, flags: libc::c_int) -> libc::sigaction {
    // SAFETY: the structures are plain data for which zero is valid, and live
    // during the call; the handler has the signature that SA_SIGINFO wants.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | flags;
        let mut previous: libc::sigaction = MaybeUninit::zeroed().assume_init();
        assert_eq!(libc::sigaction(signal, &action, &mut previous), 0);
        previous
    }
}

/// The application's handler: says that it ran, and where the fault was, and ends.
extern "C" fn report_and_exit(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid structure. `write` and `_exit` are
    // allowed in signal handlers.
    unsafe {
        let message: &[u8] = if (*info).si_addr().addr() == 8 {
            b"the application saw its fault\n"
        } else {
            b"the application saw another fault\n"
        };
        libc::write(1, message.as_ptr().cast(), message.len());
        libc::_exit(42);
    }
}

/// The same, for a handler that needs much more stack than threads usually have for handlers.
extern "C" fn report_with_a_large_frame(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    let mut large = [1_u8; 40 << 10];
    std::hint::black_box(&mut large);
    report_and_exit(signal, info, context);
}

fn reported(ended: &child::Ended) {
    assert_eq!(ended.status.code(), Some(42), "{}: {}", ended.status, ended.output);
    assert!(ended.output.contains("the application saw its fault"), "{}", ended.output);
}

#[test]
fn a_handler_from_before_the_loader_sees_faults_that_are_not_traps() {
    reported(&child::run(
        "a_handler_from_before_the_loader_sees_faults_that_are_not_traps",
        || {
            install(libc::SIGSEGV, report_and_exit, 0);
            let code = artifact(PROGRAM);
            traps_work(&code);
            read_null();
        },
    ));
}

#[test]
fn a_handler_that_is_called_by_the_loaders_has_stack_enough() {
    reported(&child::run("a_handler_that_is_called_by_the_loaders_has_stack_enough", || {
        install(libc::SIGSEGV, report_with_a_large_frame, 0);
        traps_work(&artifact(PROGRAM));
        read_null();
    }));
}

#[test]
fn a_handler_from_before_the_loader_sees_faults_of_host_functions() {
    reported(&child::run("a_handler_from_before_the_loader_sees_faults_of_host_functions", || {
        install(libc::SIGSEGV, report_and_exit, 0);
        let code = artifact(PROGRAM);
        traps_work(&code);
        let _ = call(&code, "host", 1);
    }));
}

/// The action that the application's handler replaced, for it to call.
static REPLACED: AtomicUsize = AtomicUsize::new(0);

/// A handler that is interested in address 8 only, and passes on the rest.
extern "C" fn report_or_pass_on(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    // SAFETY: the kernel passes a valid structure; what was replaced is the
    // loader's handler, which was installed with SA_SIGINFO.
    unsafe {
        if (*info).si_addr().addr() == 8 {
            report_and_exit(signal, info, context);
        }
        let replaced: Handler = std::mem::transmute(REPLACED.load(Ordering::Relaxed));
        replaced(signal, info, context);
    }
}

#[test]
fn a_handler_from_after_the_loader_sees_faults_and_passes_on_traps() {
    reported(&child::run(
        "a_handler_from_after_the_loader_sees_faults_and_passes_on_traps",
        || {
            let code = artifact(PROGRAM);
            traps_work(&code);
            let replaced = install(libc::SIGSEGV, report_or_pass_on, libc::SA_NODEFER);
            REPLACED.store(replaced.sa_sigaction, Ordering::Relaxed);
            traps_work(&code);
            let _ = call(&code, "host", 1);
        },
    ));
}

#[test]
fn a_null_dereference_in_a_host_function_kills_the_process() {
    child::run("a_null_dereference_in_a_host_function_kills_the_process", || {
        let code = artifact(PROGRAM);
        traps_work(&code);
        let _ = call(&code, "host", 1);
    })
    .by_signal(libc::SIGSEGV, "about to fault");
}

#[test]
fn a_null_dereference_after_traps_kills_the_process() {
    child::run("a_null_dereference_after_traps_kills_the_process", || {
        traps_work(&artifact(PROGRAM));
        read_null();
    })
    .by_signal(libc::SIGSEGV, "about to fault");
}

/// A fault in compiled code that the compiler did not foresee is a bug, and no trap.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_fault_at_a_place_that_the_artifact_does_not_list_kills_the_process() {
    child::run("a_fault_at_a_place_that_the_artifact_does_not_list_kills_the_process", || {
        let mut file =
            compile(r#"(module (func (export "f") (result i32) (i32.const 0x1234_5678)))"#);
        traps_work(&artifact(PROGRAM));
        // `mov eax, 0x12345678` becomes `ud2` and `nop`s.
        let mov = [0xb8, 0x78, 0x56, 0x34, 0x12];
        let at: Vec<_> = (0..file.len()).filter(|at| file[*at..].starts_with(&mov)).collect();
        let &[at] = &*at else { panic!("it is at {at:?}") };
        file[at..at + mov.len()].copy_from_slice(&[0x0f, 0x0b, 0x90, 0x90, 0x90]);
        reseal(&mut file).unwrap();
        let code = load(&file);
        let engine = Engine::default();
        let mut store = Store::new(&engine, ());
        let instance = Linker::new(&engine).instantiate(&mut store, &code).unwrap();
        let f = instance.typed_func::<(), i32>(&store, "f").unwrap();
        println!("about to fault");
        println!("{:?}", f.call(&mut store, ()));
    })
    .by_signal(libc::SIGILL, "about to fault");
}

#[test]
fn a_host_function_that_exhausts_the_stack_kills_the_process() {
    #[expect(unconditional_recursion, reason = "it is the fault that this test is about")]
    fn forever(depth: &[u64; 64]) -> u64 {
        forever(&std::hint::black_box(depth.map(|word| word + 1))) + depth[0]
    }
    let ended = child::run("a_host_function_that_exhausts_the_stack_kills_the_process", || {
        let engine = Engine::default();
        let mut linker = Linker::new(&engine);
        let func = |_: Caller<'_, '_, ()>, _: i32| {
            println!("about to recurse");
            std::hint::black_box(forever(&[0; 64]));
        };
        linker.func("host", "f", func).unwrap();
        let code = artifact(PROGRAM);
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &code).unwrap();
        let host = instance.typed_func::<i32, i32>(&store, "host").unwrap();
        let _ = host.call(&mut store, 0);
    });
    // Rust's own handler says so and aborts.
    ended.by_signal(libc::SIGABRT, "has overflowed its stack");
}

#[test]
fn a_signal_that_another_process_could_send_does_what_it_did_before() {
    // The default action of SIGFPE ends the process, whoever sent it.
    child::run("a_signal_that_another_process_could_send_does_what_it_did_before", || {
        let code = artifact(PROGRAM);
        traps_work(&code);
        println!("about to raise");
        let _ = call(&code, "host", 2);
        println!("still here");
    })
    .by_signal(libc::SIGFPE, "about to raise");
}

#[test]
fn an_ignored_signal_stays_ignored_and_traps_go_on() {
    child::run("an_ignored_signal_stays_ignored_and_traps_go_on", || {
        // SAFETY: ignoring a signal is always allowed.
        unsafe { libc::signal(libc::SIGFPE, libc::SIG_IGN) };
        let code = artifact(PROGRAM);
        for _ in 0..3 {
            traps_work(&code);
            assert_eq!(call(&code, "host", 2).unwrap(), 7);
        }
    })
    .well();
}

static SEEN: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    SEEN.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn signals_sent_to_a_thread_in_wasm_are_not_traps() {
    // A SIGSEGV that is sent, not caused, arrives at any instruction, and
    // most of the instructions of this loop may trap.
    child::run("signals_sent_to_a_thread_in_wasm_are_not_traps", || {
        install(libc::SIGSEGV, count, 0);
        let code = artifact(
            r#"(module (memory 1) (func (export "sum") (param i32) (result i32)
                (local $sum i32)
                (loop $again
                    (local.set $sum (i32.add (local.get $sum) (i32.load (local.get 0))))
                    (local.set $sum (i32.add (local.get $sum) (i32.load (local.get $sum))))
                    (local.set $sum (i32.add (local.get $sum) (i32.load (local.get $sum))))
                    (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                    (br_if $again (local.get 0)))
                (local.get $sum)))"#,
        );
        let done = AtomicBool::new(false);
        // SAFETY: asking for the current thread is always allowed.
        let target = unsafe { libc::pthread_self() };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // SAFETY: the thread waits for this one to end.
                    unsafe { libc::pthread_kill(target, libc::SIGSEGV) };
                    std::thread::sleep(Duration::from_micros(50));
                }
            });
            // Before anything is checked: a failure must not leave the other thread running.
            let begin = Instant::now();
            let mut results = Vec::new();
            while SEEN.load(Ordering::Relaxed) < 2000 && begin.elapsed() < Duration::from_secs(5) {
                results.push(call(&code, "sum", 5000));
            }
            done.store(true, Ordering::Relaxed);
            results.into_iter().for_each(|result| assert_eq!(result.unwrap(), 0));
        });
        assert!(SEEN.load(Ordering::Relaxed) > 100, "the signals arrived");
    })
    .well();
}

/// Runs a function on a thread that the standard library knows nothing of.
fn on_bare_thread(stack: usize, body: &(dyn Fn() + Sync)) {
    extern "C" fn start(argument: *mut c_void) -> *mut c_void {
        // SAFETY: `on_bare_thread` passes a reference to its closure, and waits.
        let body = unsafe { &*argument.cast::<&(dyn Fn() + Sync)>() };
        let mut current = MaybeUninit::<libc::stack_t>::zeroed();
        // SAFETY: only asks for the current alternate stack.
        let current = unsafe {
            libc::sigaltstack(ptr::null(), current.as_mut_ptr());
            current.assume_init()
        };
        assert!(current.ss_flags & libc::SS_DISABLE != 0, "the thread begins without");
        body();
        ptr::null_mut()
    }
    // SAFETY: the attributes are initialised before their use and destroyed
    // once; the closure outlives the thread, which is waited for.
    unsafe {
        let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
        assert_eq!(libc::pthread_attr_init(attributes.as_mut_ptr()), 0);
        assert_eq!(libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), stack), 0);
        let mut thread = MaybeUninit::uninit();
        let argument = (&raw const body).cast_mut().cast();
        let created =
            libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), start, argument);
        assert_eq!(created, 0);
        assert_eq!(libc::pthread_join(thread.assume_init(), ptr::null_mut()), 0);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
}

#[test]
fn traps_work_on_threads_without_an_alternate_stack() {
    child::run("traps_work_on_threads_without_an_alternate_stack", || {
        let code = artifact(PROGRAM);
        for stack in [64 << 10, 96 << 10, 128 << 10, 256 << 10, 1 << 20, 8 << 20] {
            for _ in 0..3 {
                on_bare_thread(stack, &|| {
                    println!("stack of {stack}");
                    traps_work(&code);
                });
            }
        }
    })
    .well();
}

#[test]
fn threads_without_an_alternate_stack_leave_nothing_behind() {
    child::run("threads_without_an_alternate_stack_leave_nothing_behind", || {
        let code = artifact(PROGRAM);
        let run = || on_bare_thread(256 << 10, &|| traps_work(&code));
        (0..20).for_each(|_| run());
        let before = cwasm_tests::fault::process::mappings();
        (0..200).for_each(|_| run());
        let after = cwasm_tests::fault::process::mappings();
        assert!(after <= before + 4, "{before} mappings became {after}");
    })
    .well();
}

#[test]
fn traps_work_while_other_threads_load_and_drop_artifacts() {
    child::run("traps_work_while_other_threads_load_and_drop_artifacts", || {
        let bytes = compile(PROGRAM);
        let code = load(&bytes);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let own = load(&bytes);
                        assert_eq!(trap(call(&own, "divide", 0)), TrapKind::IntegerDivisionByZero);
                    }
                });
            }
            (0..200).for_each(|_| traps_work(&code));
            done.store(true, Ordering::Relaxed);
        });
    })
    .well();
}
