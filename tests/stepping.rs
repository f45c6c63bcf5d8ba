//! What calls and drops execute, instruction by instruction: no lock, and no reference count.
//!
//! The processor's trap flag makes every instruction raise a signal, whose handler notes it. Every
//! atomic read-modify-write on x86-64 has a `lock` prefix or is an `xchg` with memory, so what was
//! noted tells whether a lock was taken or a count touched, on any path through any library.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "addresses have 64 bits here"
)]

use std::arch::asm;
use std::ffi::{CStr, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use cwasm_loader::{Artifact, Caller, Engine, Linker, Store};
use cwasm_tests::artifact;
use cwasm_tests::fault::child;
use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};

/// The most instructions that are noted.
const ROOM: usize = 1 << 20;

static NOTED: [AtomicU64; ROOM] = [const { AtomicU64::new(0) }; ROOM];
static COUNT: AtomicUsize = AtomicUsize::new(0);
static FUTEXES: AtomicUsize = AtomicUsize::new(0);

/// Notes where the thread is.
extern "C" fn note(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid context; the thread is about to execute what its program
    // counter leads to, so two bytes can be read of any instruction but a last one of one byte,
    // behind which functions are padded.
    unsafe {
        let registers = &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let at = registers[libc::REG_RIP as usize] as u64;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        if count < ROOM {
            NOTED[count].store(at, Ordering::Relaxed);
        }
        let syscall = std::ptr::with_exposed_provenance::<[u8; 2]>(at as usize).read() == [0x0f, 5];
        if syscall && registers[libc::REG_RAX as usize] == libc::SYS_futex {
            FUTEXES.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The atomic instructions that the body executes, by the object that they are in: those of the C
/// library, which are its allocator's, and all others. Only in a child process.
fn atomics<R>(body: impl FnOnce() -> R) -> (R, Vec<String>, usize) {
    // SAFETY: the structure is plain data for which zero is valid; the handler has the
    // signature that SA_SIGINFO wants, and touches nothing but atomics.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = note as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(libc::SIGTRAP, &action, std::ptr::null_mut()), 0);
    }
    COUNT.store(0, Ordering::Relaxed);
    FUTEXES.store(0, Ordering::Relaxed);
    // SAFETY: sets the trap flag; its signal has a handler.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    let result = body();
    // SAFETY: clears it again.
    unsafe { asm!("pushfq", "and qword ptr [rsp], -0x101", "popfq") };
    let count = COUNT.load(Ordering::Relaxed);
    assert!((3..ROOM).contains(&count), "{count} instructions");
    assert_eq!(FUTEXES.load(Ordering::Relaxed), 0, "calls of the kernel for locks");
    let (mut ours, mut library) = (Vec::new(), 0);
    for at in NOTED[..count].iter().map(|at| at.load(Ordering::Relaxed)) {
        // SAFETY: the code was just executed and is still mapped; an instruction has at most 15
        // bytes, and no code of this program is in the last 15 of its mapping.
        let bytes = unsafe {
            std::slice::from_raw_parts(std::ptr::with_exposed_provenance(at as usize), 15)
        };
        let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
        let exchange = instruction.mnemonic() == Mnemonic::Xchg
            && (0..2).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        if instruction.has_lock_prefix() || exchange {
            let (object, symbol) = place(at);
            if object.contains("libc") {
                library += 1
            } else {
                ours.push(format!("{symbol} {at:#x}"))
            }
        }
    }
    println!("{count} instructions, {} atomic, {library} of the C library", ours.len());
    (result, ours, library)
}

/// The object and the symbol that an address is in.
fn place(at: u64) -> (String, String) {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the structure is written by the call, and zero is valid for it; names are C strings
    // that live as long as their objects.
    unsafe {
        libc::dladdr(std::ptr::with_exposed_provenance(at as usize), info.as_mut_ptr());
        let info = info.assume_init();
        let text = |name: *const libc::c_char| match name.is_null() {
            true => String::new(),
            false => CStr::from_ptr(name).to_string_lossy().into_owned(),
        };
        (text(info.dli_fname), text(info.dli_sname))
    }
}

const LIBRARY: &str = r#"(module
    (table (export "table") 1 funcref) (elem (i32.const 0) $f)
    (func $f (param i32) (result i32) (i32.mul (local.get 0) (i32.const 3))))"#;

const PROGRAM: &str = r#"(module
    (import "host" "f" (func $host (param i32) (result i32)))
    (import "library" "table" (table $far 1 funcref))
    (type $t (func (param i32) (result i32)))
    (table $near 1 funcref) (elem (table $near) (i32.const 0) func $g)
    (func $g (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
    (func (export "plain") (param i32) (result i32) (i32.add (local.get 0) (i32.const 5)))
    (func (export "host") (param i32) (result i32) (call $host (call $host (local.get 0))))
    (func (export "near") (param i32) (result i32)
        (call_indirect $near (type $t) (local.get 0) (i32.const 0)))
    (func (export "far") (param i32) (result i32)
        (call_indirect $far (type $t) (local.get 0) (i32.const 0))))"#;

fn linker<'code>(engine: &Engine) -> Linker<'code, ()> {
    let mut linker = Linker::new(engine);
    linker.func("host", "f", |_: Caller<'_, '_, ()>, value: i32| value * 2).unwrap();
    linker
}

#[test]
fn calls_touch_no_lock_and_no_reference_count() {
    child::run("calls_touch_no_lock_and_no_reference_count", || {
        let (library, program) = (artifact(LIBRARY), artifact(PROGRAM));
        let engine = Engine::default();
        let mut linker = linker(&engine);
        let mut store = Store::new(&engine, ());
        let first = linker.instantiate(&mut store, &library).unwrap();
        linker.instance(&store, "library", first).unwrap();
        let instance = linker.instantiate(&mut store, &program).unwrap();
        for (name, wanted) in [("plain", 12), ("host", 28), ("near", 8), ("far", 21)] {
            let func = instance.typed_func::<i32, i32>(&store, name).unwrap();
            assert_eq!(func.call(&mut store, 7).unwrap(), wanted);
            let (result, ours, library) = atomics(|| func.call(&mut store, 7));
            assert_eq!(result.unwrap(), wanted);
            assert!(ours.is_empty() && library == 0, "{name}: {ours:?}, {library}");
        }
        // It finds what it looks for.
        let shared = std::sync::Arc::new(0);
        assert_eq!(atomics(|| std::mem::forget(std::sync::Arc::clone(&shared))).1.len(), 1);
    })
    .well();
}

/// The atomic instructions of a drop of a store with so many instances.
fn drop_with(instances: usize, code: &Artifact, linker: &Linker<'_, ()>) -> usize {
    let mut store = Store::new(&Engine::default(), ());
    for _ in 0..instances {
        linker.instantiate(&mut store, code).unwrap();
    }
    let (_, ours, _) = atomics(|| drop(store));
    println!("{instances} instances: {ours:?}");
    ours.len()
}

#[test]
fn the_drop_of_an_instance_touches_no_lock_and_no_reference_count() {
    child::run("the_drop_of_an_instance_touches_no_lock_and_no_reference_count", || {
        let linker = linker(&Engine::default());
        let code = artifact(LIBRARY);
        drop_with(1, &code, &linker);
        // Nothing for an instance, whatever the store itself gives up.
        let (none, one, many) = (
            drop_with(0, &code, &linker),
            drop_with(1, &code, &linker),
            drop_with(20, &code, &linker),
        );
        assert_eq!((one, many), (none, none));
    })
    .well();
}

#[test]
fn the_drop_of_a_memory_tries_one_lock_and_waits_for_none() {
    child::run("the_drop_of_a_memory_tries_one_lock_and_waits_for_none", || {
        let linker = linker(&Engine::default());
        let code = artifact("(module (memory 1))");
        drop_with(20, &code, &linker);
        let (none, one, many) = (
            drop_with(0, &code, &linker),
            drop_with(1, &code, &linker),
            drop_with(20, &code, &linker),
        );
        // To lock and to unlock what waits to be used again: `loader/src/sys/reservation.rs`.
        assert_eq!((one - none, many - none), (2, 40));
    })
    .well();
}

/// A store has one share of each host function, however many instances import it.
#[test]
fn the_drop_of_an_instance_with_host_functions_touches_no_reference_count() {
    child::run("the_drop_of_an_instance_with_host_functions_touches_no_reference_count", || {
        let linker = linker(&Engine::default());
        let code = artifact(r#"(module (import "host" "f" (func (param i32) (result i32))))"#);
        drop_with(1, &code, &linker);
        assert_eq!(drop_with(1, &code, &linker), drop_with(20, &code, &linker));
    })
    .well();
}
