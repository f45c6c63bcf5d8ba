//! Too little of something: address space, files, memory, stack, time.
//!
//! Limits of the system belong to the process, so these cases run in children.

use std::fs;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use cwasm_compiler::{MemoryBounds, Settings};
use cwasm_loader::{
    Artifact, Caller, Config, Digest, Engine, Error, Linker, LoadError, Store, TrapKind, Trust,
};
use cwasm_tests::fault::child;
use cwasm_tests::{artifact, compile, compile_with, load};

const MEMORIES: &str = r#"(module
    (memory (export "memory") 2 60000)
    (table (export "table") 10 funcref)
    (data (i32.const 70000) "here")
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "grow_table") (param i32) (result i32)
        (table.grow (ref.null func) (local.get 0)))
    (func (export "load") (param i32) (result i32) (i32.load (local.get 0))))"#;

const HERE: i32 = i32::from_le_bytes(*b"here");

fn explicit(text: &str) -> Artifact {
    let settings = Settings { memory_bounds: MemoryBounds::Explicit, ..Settings::default() };
    load(&compile_with(text, &settings))
}

/// How much address space this process uses, in bytes.
fn address_space() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    pages * 4096
}

/// Lowers a limit of this process.
fn limit(resource: libc::__rlimit_resource_t, to: u64) {
    let limits = libc::rlimit { rlim_cur: to, rlim_max: to };
    // SAFETY: the structure is valid during the call.
    assert_eq!(unsafe { libc::setrlimit(resource, &limits) }, 0);
}

/// Runs a body under a lower limit of this process.
fn under_limit<R>(resource: libc::__rlimit_resource_t, to: u64, body: impl FnOnce() -> R) -> R {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid during the call.
    assert_eq!(unsafe { libc::getrlimit(resource, &mut before) }, 0);
    let set = |limits: &libc::rlimit| {
        // SAFETY: as above.
        assert_eq!(unsafe { libc::setrlimit(resource, limits) }, 0);
    };
    set(&libc::rlimit { rlim_cur: to, ..before });
    let result = body();
    set(&before);
    result
}

/// An error with all of its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[test]
fn without_address_space_for_guards_explicit_checks_work() {
    child::run("without_address_space_for_guards_explicit_checks_work", || {
        let guarded = artifact(MEMORIES);
        let unguarded = explicit(MEMORIES);
        limit(libc::RLIMIT_AS, address_space() + (1 << 30));
        let engine = Engine::default();
        let linker = Linker::new(&engine);
        let error = linker.instantiate(&mut Store::new(&engine, ()), &guarded).unwrap_err();
        assert!(matches!(error, Error::MemoryReservation { .. }), "{error}");
        let text = chain(&error);
        assert!(text.contains("--memory-checks explicit"), "{text}");
        assert!(text.contains("Cannot allocate memory"), "{text}");

        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &unguarded).unwrap();
        let load = instance.typed_func::<i32, i32>(&store, "load").unwrap();
        let grow = instance.typed_func::<i32, i32>(&store, "grow").unwrap();
        assert_eq!(load.call(&mut store, 70000).unwrap(), HERE);
        assert_eq!(grow.call(&mut store, 100).unwrap(), 2);
        // What the system has no room for is a refusal to grow, not an end.
        assert_eq!(grow.call(&mut store, 50_000).unwrap(), -1);
        assert_eq!(grow.call(&mut store, 1).unwrap(), 102);
        assert_eq!(load.call(&mut store, 70000).unwrap(), HERE);
        let trap = load.call(&mut store, 103 * 65536).unwrap_err();
        assert_eq!(trap.trap().unwrap().kind(), TrapKind::MemoryOutOfBounds);
    })
    .well();
}

#[test]
fn without_address_space_for_the_artifact_loading_is_an_error() {
    child::run("without_address_space_for_the_artifact_loading_is_an_error", || {
        let data = "0123456789abcdef".repeat(2 << 20);
        let bytes = compile(&format!(r#"(module (memory 600) (data (i32.const 0) "{data}"))"#));
        let trust = Trust::digest(Digest::stated_in(&bytes).unwrap());
        limit(libc::RLIMIT_AS, address_space() + (8 << 20));
        match Artifact::from_bytes(&bytes, &trust) {
            Err(error @ LoadError::Map { .. }) => {
                assert!(chain(&error).contains("Cannot allocate memory"), "{}", chain(&error));
            }
            other => panic!("{other:?}"),
        }
    })
    .well();
}

#[test]
fn without_memory_for_the_stacks_of_threads_loading_does_without_them() {
    child::run("without_memory_for_the_stacks_of_threads_loading_does_without_them", || {
        // So large that it is hashed on several threads, where there are several processors.
        let data = "0123456789abcdef".repeat(1 << 20);
        let bytes = compile(&format!(r#"(module (memory 300) (data (i32.const 0) "{data}"))"#));
        let trust = Trust::digest(Digest::stated_in(&bytes).unwrap());
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;

        // Stacks that the C library keeps of threads that ended are taken by these.
        let started = Arc::new(Barrier::new(33));
        for _ in 0..32 {
            let started = Arc::clone(&started);
            std::thread::spawn(move || {
                started.wait();
                std::thread::park();
            });
        }
        started.wait();
        // Room for the copy, and not for a stack beside it.
        limit(libc::RLIMIT_AS, address_space() + bytes.len() as u64 + (1 << 20));
        let copy = memmap2::MmapMut::map_anon(bytes.len()).unwrap();
        std::thread::Builder::new().spawn(|| ()).unwrap_err();
        drop(copy);

        Artifact::from_bytes(&bytes, &trust).unwrap();
        match Artifact::from_bytes(&damaged, &trust) {
            Err(LoadError::Refused(report)) => assert_eq!(report.problems()[0].kind(), "corrupt"),
            other => panic!("{other:?}"),
        }
    })
    .well();
}

#[test]
fn without_memory_for_the_signal_stack_of_a_thread_a_call_is_an_error() {
    child::run("without_memory_for_the_signal_stack_of_a_thread_a_call_is_an_error", || {
        let code = artifact(r#"(module (func (export "f") (result i32) (i32.const 7)))"#);
        let engine = Engine::default();
        let mut store = Store::new(&engine, ());
        let instance = Linker::new(&engine).instantiate(&mut store, &code).unwrap();
        let f = instance.typed_func::<(), i32>(&store, "f").unwrap();
        // The first call of a thread makes a stack for the handler of faults.
        let mut call = || f.call(&mut store, ());
        let error = std::thread::scope(|scope| {
            let other = || under_limit(libc::RLIMIT_AS, address_space(), &mut call);
            scope.spawn(other).join().unwrap().unwrap_err()
        });
        assert!(matches!(error, Error::Thread(_)), "{error}");
        let text = chain(&error);
        assert!(text.contains("prepare this thread"), "{text}");
        assert!(text.contains("Cannot allocate memory"), "{text}");
        assert_eq!(f.call(&mut store, ()).unwrap(), 7);
    })
    .well();
}

#[test]
fn a_table_that_the_system_has_no_room_for_does_not_grow() {
    child::run("a_table_that_the_system_has_no_room_for_does_not_grow", || {
        let code = explicit(MEMORIES);
        limit(libc::RLIMIT_AS, address_space() + (64 << 20));
        let engine = Engine::default();
        let mut store = Store::new(&engine, ());
        store.limits_mut().table_elements = u64::MAX;
        let instance = Linker::new(&engine).instantiate(&mut store, &code).unwrap();
        let grow = instance.typed_func::<i32, i32>(&store, "grow_table").unwrap();
        assert_eq!(grow.call(&mut store, 100_000_000).unwrap(), -1);
        assert_eq!(grow.call(&mut store, -1).unwrap(), -1);
        assert_eq!(grow.call(&mut store, 10).unwrap(), 10);
    })
    .well();
}

#[test]
fn without_file_descriptors_loading_is_a_read_error() {
    child::run("without_file_descriptors_loading_is_a_read_error", || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program.cwasm");
        let bytes = compile(MEMORIES);
        let trust = Trust::digest(Digest::stated_in(&bytes).unwrap());
        fs::write(&path, &bytes).unwrap();
        limit(libc::RLIMIT_NOFILE, 32);
        let open: Vec<_> = (0..64).map_while(|_| fs::File::open("/dev/null").ok()).collect();
        match Artifact::load(&path, &trust) {
            Err(error @ LoadError::Read { .. }) => {
                let text = chain(&error);
                assert!(text.contains("program.cwasm") && text.contains("Too many open files"));
            }
            other => panic!("{other:?}"),
        }
        drop(open);
        Artifact::load(&path, &trust).unwrap();
    })
    .well();
}

/// A module with so large an image of its memory that it is mapped.
fn large_image() -> Vec<u8> {
    let data = "0123456789abcdef".repeat(1 << 16);
    compile(&format!(
        r#"(module (memory 20) (data (i32.const 0) "{data}")
            (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0))))"#
    ))
}

fn image_is_right(code: &Artifact) {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, code).unwrap();
    let load = instance.typed_func::<i32, i32>(&store, "load").unwrap();
    for (address, wanted) in
        [(0, b'0'), (16 * 60_000 + 11, b'b'), ((1 << 20) - 1, b'f'), (1 << 20, 0)]
    {
        assert_eq!(load.call(&mut store, address).unwrap(), i32::from(wanted));
    }
}

#[test]
fn without_file_descriptors_images_are_copied() {
    child::run("without_file_descriptors_images_are_copied", || {
        let code = load(&large_image());
        limit(libc::RLIMIT_NOFILE, 32);
        let _open: Vec<_> = (0..64).map_while(|_| fs::File::open("/dev/null").ok()).collect();
        image_is_right(&code);
    })
    .well();
}

#[test]
fn where_files_may_not_be_large_images_are_copied() {
    // An anonymous file counts too, and exceeding the limit is a deadly signal.
    child::run("where_files_may_not_be_large_images_are_copied", || {
        let code = load(&large_image());
        limit(libc::RLIMIT_FSIZE, 64 << 10);
        image_is_right(&code);
    })
    .well();
}

#[test]
fn the_main_thread_may_have_a_small_stack() {
    // The limit on the stack is read when the thread first runs wasm.
    child::run("the_main_thread_may_have_a_small_stack", || {
        limit(libc::RLIMIT_STACK, 512 << 10);
        let code = artifact(
            r#"(module (func $down (export "down") (param i32) (result i32)
                (i32.add (call $down (local.get 0)) (i32.const 1))))"#,
        );
        let mut config = Config::default();
        config.max_wasm_stack = usize::MAX;
        let engine = Engine::new(config);
        let mut store = Store::new(&engine, ());
        let instance = Linker::new(&engine).instantiate(&mut store, &code).unwrap();
        let down = instance.typed_func::<i32, i32>(&store, "down").unwrap();
        for _ in 0..3 {
            let trap = down.call(&mut store, 0).unwrap_err();
            assert_eq!(trap.trap().unwrap().kind(), TrapKind::StackOverflow);
        }
    })
    .well();
}

#[test]
fn limits_of_a_store_hold_at_instantiation() {
    let code = artifact(MEMORIES);
    let engine = Engine::default();
    let linker = Linker::new(&engine);
    let attempt = |set: &dyn Fn(&mut cwasm_loader::StoreLimits)| {
        let mut store = Store::new(&engine, ());
        set(store.limits_mut());
        let error = linker.instantiate(&mut store, &code).unwrap_err();
        // The store is still good for what fits.
        let small = artifact(r#"(module (func (export "f") (result i32) (i32.const 1)))"#);
        drop(store);
        let mut store = Store::new(&engine, ());
        set(store.limits_mut());
        if store.limits_mut().instances > 0 {
            let instance = linker.instantiate(&mut store, &small).unwrap();
            let f = instance.typed_func::<(), i32>(&store, "f").unwrap();
            assert_eq!(f.call(&mut store, ()).unwrap(), 1);
        }
        error
    };
    let error = attempt(&|limits| limits.memory_pages = 1);
    assert!(matches!(error, Error::MemoryLimit { pages: 2, .. }), "{error}");
    let error = attempt(&|limits| limits.table_elements = 9);
    assert!(matches!(error, Error::TableLimit { elements: 10 }), "{error}");
    let error = attempt(&|limits| limits.memories = 0);
    assert!(matches!(error, Error::StoreLimit { what: "memories", limit: 0 }), "{error}");
    let error = attempt(&|limits| limits.tables = 0);
    assert!(matches!(error, Error::StoreLimit { what: "tables", limit: 0 }), "{error}");
    let error = attempt(&|limits| limits.instances = 0);
    assert!(matches!(error, Error::StoreLimit { what: "instances", limit: 0 }), "{error}");
}

#[test]
fn one_stores_limits_are_not_anothers() {
    let code = artifact(MEMORIES);
    let engine = Engine::default();
    let linker = Linker::new(&engine);
    let mut results = Vec::new();
    for pages in [2, 3, 10] {
        let mut store = Store::new(&engine, ());
        store.limits_mut().memory_pages = pages;
        let instance = linker.instantiate(&mut store, &code).unwrap();
        let grow = instance.typed_func::<i32, i32>(&store, "grow").unwrap();
        let grown = (0..20).take_while(|_| grow.call(&mut store, 1).unwrap() != -1).count();
        let memory = instance.memory(&store, "memory").unwrap();
        assert!(matches!(memory.grow(&mut store, 1), Err(Error::MemoryLimit { .. })));
        results.push(grown);
    }
    assert_eq!(results, [0, 1, 8]);
}

const ENDLESS: &str = r#"(module
    (import "host" "f" (func $f))
    (func (export "spin") (loop (br 0)))
    (func (export "host") (loop (call $f) (br 0)))
    (func $down (export "recurse") (param i32)
        (loop (call $down (i32.const 1)) (br_if 0 (local.get 0)))))"#;

#[test]
fn another_thread_stops_every_kind_of_endless_program() {
    let settings = Settings { epoch: true, ..Settings::default() };
    let code = load(&compile_with(ENDLESS, &settings));
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    linker.func("host", "f", |_: Caller<'_, '_, ()>| ()).unwrap();
    for name in ["spin", "host"] {
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &code).unwrap();
        let run = instance.typed_func::<(), ()>(&store, name).unwrap();
        for _ in 0..3 {
            store.set_epoch_deadline(2);
            let begin = Instant::now();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..2 {
                        std::thread::sleep(Duration::from_millis(10));
                        engine.increment_epoch();
                    }
                });
                let error = run.call(&mut store, ()).unwrap_err();
                assert_eq!(error.trap().unwrap().kind(), TrapKind::Interrupted, "{name}");
            });
            assert!(begin.elapsed() >= Duration::from_millis(20), "{name} stopped too early");
        }
    }
}

#[test]
fn one_epoch_stops_all_stores_whose_deadline_it_is() {
    let settings = Settings { epoch: true, ..Settings::default() };
    let code = load(&compile_with(ENDLESS, &settings));
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    linker.func("host", "f", |_: Caller<'_, '_, ()>| ()).unwrap();
    let (linker, engine, code) = (&linker, &engine, &code);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(move || {
                    let mut store = Store::new(engine, ());
                    store.set_epoch_deadline(1);
                    let instance = linker.instantiate(&mut store, code).unwrap();
                    let spin = instance.typed_func::<(), ()>(&store, "spin").unwrap();
                    spin.call(&mut store, ()).unwrap_err()
                })
            })
            .collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(5));
            engine.increment_epoch();
        }
        for thread in threads {
            let error = thread.join().unwrap();
            assert_eq!(error.trap().unwrap().kind(), TrapKind::Interrupted);
        }
    });
}

#[test]
fn the_same_fuel_goes_the_same_way() {
    let settings = Settings { fuel: true, ..Settings::default() };
    let code = load(&compile_with(ENDLESS, &settings));
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    linker.func("host", "f", |mut caller: Caller<'_, '_, u64>| *caller.data_mut() += 1).unwrap();
    let calls = |fuel: u64| {
        let mut store = Store::new(&engine, 0_u64);
        store.set_fuel(fuel);
        let instance = linker.instantiate(&mut store, &code).unwrap();
        let host = instance.typed_func::<(), ()>(&store, "host").unwrap();
        let error = host.call(&mut store, ()).unwrap_err();
        assert_eq!(error.trap().unwrap().kind(), TrapKind::OutOfFuel);
        assert_eq!(store.fuel(), 0);
        store.into_data()
    };
    assert_eq!(calls(1000), calls(1000));
    let (few, many) = (calls(1000), calls(100_000));
    assert!(many > 90 * few && many < 110 * few, "{few} and {many} calls");
    assert_eq!(calls(0), 0);
}

#[test]
fn recursion_ends_by_whichever_limit_comes_first() {
    let settings = Settings { fuel: true, ..Settings::default() };
    let code = load(&compile_with(ENDLESS, &settings));
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    linker.func("host", "f", |_: Caller<'_, '_, ()>| ()).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &code).unwrap();
    let recurse = instance.typed_func::<i32, ()>(&store, "recurse").unwrap();
    for (fuel, wanted) in
        [(100, TrapKind::OutOfFuel), (u64::MAX, TrapKind::StackOverflow), (50, TrapKind::OutOfFuel)]
    {
        store.set_fuel(fuel);
        let error = recurse.call(&mut store, 1).unwrap_err();
        assert_eq!(error.trap().unwrap().kind(), wanted);
    }
}
