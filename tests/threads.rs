//! Shared memories: atomic operations from several stores on several threads, waiting
//! and notifying, growing while others read, and ends of waiting.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use cwasm_compiler::{CpuLevel, MemoryBounds, Settings};
use cwasm_loader::{
    Artifact, Engine, Error, Extern, IndexType, Instance, Limits, LinkError, Linker, MemoryType,
    SharedMemory, Store, Trap, TrapKind,
};
use cwasm_tests::{artifact, compile_with, load};

fn shared(min: u64, max: u64) -> SharedMemory {
    let limits = Limits { min, max: Some(max) };
    SharedMemory::new(MemoryType { shared: true, ..MemoryType::new(limits) }).unwrap()
}

fn linker_with<'code>(memory: &SharedMemory) -> Linker<'code, ()> {
    let mut linker = Linker::new(&Engine::default());
    linker.shared_memory("env", "memory", memory).unwrap();
    linker
}

fn word(memory: &SharedMemory, address: u64) -> u32 {
    let mut bytes = [0; 4];
    memory.read(address, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

/// All combinations of settings that change the code of a memory access.
fn all_settings() -> [Settings; 3] {
    [
        Settings::default(),
        Settings { memory_bounds: MemoryBounds::Explicit, ..Settings::default() },
        Settings { fuel: true, epoch: true, ..Settings::default() },
    ]
}

fn run(store: &mut Store<'_, ()>, instance: Instance<'_>, name: &str, argument: i32) -> i32 {
    let func = instance.typed_func::<i32, i32>(&*store, name).unwrap();
    func.call(store, argument).unwrap()
}

const COUNTER: &str = r#"(module
    (import "env" "memory" (memory 1 8 shared))
    ;; Increments two words, one by an instruction and one under a lock of its own.
    (func (export "count") (param $n i32) (result i32)
      (loop $again
        (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))
        (block $locked
          (loop $try
            (br_if $locked (i32.eqz (i32.atomic.rmw.cmpxchg (i32.const 8) (i32.const 0) (i32.const 1))))
            (drop (memory.atomic.wait32 (i32.const 8) (i32.const 1) (i64.const 1000000)))
            (br $try)))
        (i32.store (i32.const 4) (i32.add (i32.load (i32.const 4)) (i32.const 1)))
        (i32.atomic.store (i32.const 8) (i32.const 0))
        (drop (memory.atomic.notify (i32.const 8) (i32.const 1)))
        (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
      (i32.atomic.load (i32.const 0))))"#;

#[test]
fn increments_from_many_stores_are_all_counted() {
    for settings in all_settings() {
        let code = load(&compile_with(COUNTER, &settings));
        let memory = shared(1, 8);
        let linker = linker_with(&memory);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut store = Store::new(&Engine::default(), ());
                    store.set_fuel(u64::MAX / 4);
                    store.set_epoch_deadline(1 << 40);
                    let instance = linker.instantiate(&mut store, &code).unwrap();
                    run(&mut store, instance, "count", 2000);
                });
            }
        });
        assert_eq!((word(&memory, 0), word(&memory, 4), word(&memory, 8)), (8000, 8000, 0));
    }
}

#[test]
fn atomic_operations_are_atomic_in_every_width() {
    // Each thread adds one to its own byte of a word, in different widths of the same word.
    let code = artifact(
        r#"(module (import "env" "memory" (memory 1 1 shared))
            (func (export "run") (param $lane i32) (result i32) (local $n i32)
              (loop $again
                (if (i32.eqz (local.get $lane))
                  (then (drop (i32.atomic.rmw8.add_u (i32.const 0) (i32.const 1)))))
                (if (i32.eq (local.get $lane) (i32.const 1))
                  (then (drop (i32.atomic.rmw16.add_u (i32.const 0) (i32.const 0x100)))))
                (if (i32.eq (local.get $lane) (i32.const 2))
                  (then (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 0x10000)))))
                (if (i32.eq (local.get $lane) (i32.const 3))
                  (then (drop (i64.atomic.rmw.add (i32.const 0) (i64.const 0x100000000)))))
                (br_if $again (i32.lt_u
                  (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 200))))
              (i32.const 0)))"#,
    );
    let memory = shared(1, 1);
    let linker = linker_with(&memory);
    thread::scope(|scope| {
        for lane in 0..4 {
            let (linker, code) = (&linker, &code);
            scope.spawn(move || {
                let mut store = Store::new(&Engine::default(), ());
                let instance = linker.instantiate(&mut store, code).unwrap();
                run(&mut store, instance, "run", lane);
            });
        }
    });
    let mut bytes = [0; 8];
    memory.read(0, &mut bytes).unwrap();
    assert_eq!(u64::from_le_bytes(bytes), 0x0000_00c8_00c8_c8c8);
}

#[test]
fn two_threads_pass_a_ball_by_wait_and_notify() {
    let code = artifact(
        r#"(module (import "env" "memory" (memory 1 1 shared))
            ;; Waits until the word is $mine, makes it the other's, and so on.
            (func (export "play") (param $mine i32) (result i32) (local $n i32)
              (loop $again
                (block $turn
                  (loop $wait
                    (br_if $turn (i32.eq (i32.atomic.load (i32.const 64)) (local.get $mine)))
                    (drop (memory.atomic.wait32 (i32.const 64)
                      (i32.sub (i32.const 1) (local.get $mine)) (i64.const -1)))
                    (br $wait)))
                (i32.atomic.store (i32.const 64) (i32.sub (i32.const 1) (local.get $mine)))
                (drop (memory.atomic.notify (i32.const 64) (i32.const 1)))
                (br_if $again (i32.lt_u
                  (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000))))
              (local.get $n)))"#,
    );
    let memory = shared(1, 1);
    let linker = linker_with(&memory);
    thread::scope(|scope| {
        for mine in 0..2 {
            let (linker, code) = (&linker, &code);
            scope.spawn(move || {
                let mut store = Store::new(&Engine::default(), ());
                let instance = linker.instantiate(&mut store, code).unwrap();
                assert_eq!(run(&mut store, instance, "play", mine), 1000);
            });
        }
    });
}

const WAITING: &str = r#"(module (import "env" "memory" (memory 1 4 shared))
    (func (export "wait") (param i32) (result i32)
      (memory.atomic.wait32 (local.get 0) (i32.const 0) (i64.const -1)))
    (func (export "wait64") (param i32) (result i32)
      (memory.atomic.wait64 (local.get 0) (i64.const 0) (i64.const -1)))
    (func (export "briefly") (param i32) (result i32)
      (memory.atomic.wait32 (local.get 0) (i32.const 0) (i64.const 1000)))
    (func (export "other") (param i32) (result i32)
      (memory.atomic.wait64 (local.get 0) (i64.const 1) (i64.const -1)))
    (func (export "notify") (param i32) (result i32)
      (memory.atomic.notify (local.get 0) (i32.const -1))))"#;

fn kind(error: &Error) -> TrapKind {
    error.trap().map(Trap::kind).expect("the program trapped")
}

#[test]
fn waits_end_by_notification_time_or_another_value() {
    let code = artifact(WAITING);
    let memory = shared(1, 4);
    let linker = linker_with(&memory);
    let mut store = Store::new(&Engine::default(), ());
    let instance = linker.instantiate(&mut store, &code).unwrap();
    assert_eq!(run(&mut store, instance, "briefly", 8), 2);
    assert_eq!(run(&mut store, instance, "other", 8), 1);
    assert_eq!(run(&mut store, instance, "notify", 8), 0);
    thread::scope(|scope| {
        for name in ["wait", "wait64", "wait"] {
            let (linker, code) = (&linker, &code);
            scope.spawn(move || {
                let mut store = Store::new(&Engine::default(), ());
                let instance = linker.instantiate(&mut store, code).unwrap();
                assert_eq!(run(&mut store, instance, name, 16), 0);
            });
        }
        let mut woken = 0;
        while woken < 3 {
            assert_eq!(run(&mut store, instance, "notify", 24), 0, "nobody waits there");
            woken += run(&mut store, instance, "notify", 16);
            thread::yield_now();
        }
        assert_eq!(woken, 3);
    });
    // From the host too.
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(run(&mut store, instance, "wait", 4), 0));
        while memory.notify(4, 1).unwrap() == 0 {
            thread::yield_now();
        }
    });
    assert!(matches!(memory.notify(65533, 1), Err(Error::MemoryAccess { .. })));
}

#[test]
fn a_wait_ends_when_the_deadline_of_its_store_passes() {
    for epoch in [true, false] {
        let code = load(&compile_with(WAITING, &Settings { epoch, ..Settings::default() }));
        let memory = shared(1, 4);
        let linker = linker_with(&memory);
        let engine = Engine::default();
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &code).unwrap();
        let wait = instance.typed_func::<i32, i32>(&store, "wait").unwrap();
        store.set_epoch_deadline(1);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    engine.increment_epoch();
                    thread::yield_now();
                }
            });
            assert_eq!(kind(&wait.call(&mut store, 0).unwrap_err()), TrapKind::Interrupted);
            done.store(true, Ordering::Relaxed);
        });
        // Nobody is left in the queue, and the store goes on.
        assert_eq!(memory.notify(0, u32::MAX).unwrap(), 0);
        store.set_epoch_deadline(u64::MAX);
        assert_eq!(run(&mut store, instance, "briefly", 0), 2);
    }
}

#[test]
fn atomic_accesses_trap_when_unaligned_outside_or_waiting_for_nobody() {
    let module = |limits: &str, index: &str| {
        format!(
            r#"(module (memory {index} {limits})
                (func (export "load") (param {t}) (result i32)
                  (drop (i64.atomic.load offset=8 (local.get 0))) (i32.const 0))
                (func (export "add") (param {t}) (result i32)
                  (i32.atomic.rmw.add offset=3 (local.get 0) (i32.const 1)))
                (func (export "byte") (param {t}) (result i32)
                  (i32.atomic.rmw8.xchg_u offset=1 (local.get 0) (i32.const 1)))
                (func (export "notify") (param {t}) (result i32)
                  (memory.atomic.notify offset=4 (local.get 0) (i32.const 1)))
                (func (export "wait") (param {t}) (result i32)
                  (memory.atomic.wait32 offset=4 (local.get 0) (i32.const 1) (i64.const 0))))"#,
            t = if index.is_empty() { "i32" } else { "i64" }
        )
    };
    use TrapKind::{MemoryOutOfBounds, UnalignedAtomic, UnsharedWait};
    for settings in all_settings() {
        for (index, limits) in [
            ("", "1"),
            ("", "1 2 shared"),
            ("i64", "1"),
            ("i64", "1 2 shared"),
            ("i64", "65536 (pagesize 1)"),
        ] {
            let code = load(&compile_with(&module(limits, index), &settings));
            let mut store = Store::new(&Engine::default(), ());
            store.set_fuel(1 << 40);
            let instance = Linker::new(&Engine::default()).instantiate(&mut store, &code).unwrap();
            let mut cases = vec![
                ("load", 0, None),
                ("load", 1, Some(UnalignedAtomic)),
                ("load", 4, Some(UnalignedAtomic)),
                ("load", 65520, None),
                ("load", 65528, Some(MemoryOutOfBounds)),
                ("add", 1, None),
                ("add", 0, Some(UnalignedAtomic)),
                ("add", 65529, None),
                ("add", 65533, Some(MemoryOutOfBounds)),
                ("byte", 65534, None),
                ("byte", 65535, Some(MemoryOutOfBounds)),
                ("notify", 65528, None),
                ("notify", 65532, Some(MemoryOutOfBounds)),
                ("notify", 2, Some(UnalignedAtomic)),
            ];
            if limits.ends_with("shared") {
                cases.push(("wait", 65528, None));
                cases.push(("wait", 65532, Some(MemoryOutOfBounds)));
                cases.push(("wait", 1, Some(UnalignedAtomic)));
            } else {
                cases.push(("wait", 0, Some(UnsharedWait)));
            }
            if !index.is_empty() {
                // An address of 2^64 is not 0.
                cases.push(("load", -8, Some(MemoryOutOfBounds)));
                cases.push(("byte", -1, Some(MemoryOutOfBounds)));
                cases.push(("notify", -4, Some(MemoryOutOfBounds)));
            }
            for (name, argument, wanted) in cases {
                let result = if index.is_empty() {
                    let func = instance.typed_func::<i32, i32>(&store, name).unwrap();
                    func.call(&mut store, i32::try_from(argument).unwrap())
                } else {
                    let func = instance.typed_func::<i64, i32>(&store, name).unwrap();
                    func.call(&mut store, argument)
                };
                let found = result.err().map(|error| kind(&error));
                assert_eq!(found, wanted, "{name} {argument} of ({index} {limits})");
            }
        }
    }
}

#[test]
fn a_memory_grows_while_other_threads_read_it() {
    for (index, settings) in ["i32", "i64"]
        .into_iter()
        .flat_map(|index| all_settings().map(|settings| (index, settings)))
    {
        let (declared, wrap) = match index {
            "i64" => ("i64", "i32.wrap_i64"),
            _ => ("", ""),
        };
        let code = load(&compile_with(
            &format!(
                r#"(module (import "env" "memory" (memory {declared} 1 200 shared))
                    ;; Reads the last byte that there is, until the memory has 200 pages.
                    (func (export "read") (param i32) (result i32)
                      (local $size {index}) (local $sum i32)
                      (loop $again
                        (local.set $size ({index}.mul (memory.size) ({index}.const 65536)))
                        (local.set $sum (i32.add (local.get $sum)
                          (i32.load8_u ({index}.sub (local.get $size) ({index}.const 1)))))
                        (br_if $again
                          ({index}.lt_u (local.get $size) ({index}.const 13107200))))
                      (local.get $sum))
                    (func (export "grow") (param i32) (result i32)
                      (memory.grow ({index}.const 1)) {wrap}))"#
            ),
            &settings,
        ));
        let limits = Limits { min: 1, max: Some(200) };
        let index = if index == "i64" { IndexType::I64 } else { IndexType::I32 };
        let memory =
            SharedMemory::new(MemoryType { shared: true, index, ..MemoryType::new(limits) })
                .unwrap();
        let linker = linker_with(&memory);
        let old_sizes = AtomicUsize::new(0);
        thread::scope(|scope| {
            for number in 0..4 {
                let (linker, code, old_sizes) = (&linker, &code, &old_sizes);
                scope.spawn(move || {
                    let mut store = Store::new(&Engine::default(), ());
                    store.set_fuel(1 << 50);
                    let instance = linker.instantiate(&mut store, code).unwrap();
                    if number < 2 {
                        assert_eq!(run(&mut store, instance, "read", 0), 0);
                        return;
                    }
                    loop {
                        match run(&mut store, instance, "grow", 0) {
                            -1 => break,
                            old => old_sizes
                                .fetch_add(usize::try_from(old).unwrap(), Ordering::Relaxed),
                        };
                    }
                });
            }
        });
        assert_eq!(memory.size_pages(), 200);
        // Each size was somebody's old size once.
        assert_eq!(old_sizes.into_inner(), (1..200).sum::<usize>());
        assert!(matches!(memory.grow(1), Err(Error::MemoryLimit { pages: 201, .. })));
    }
}

#[test]
fn a_store_limits_how_far_it_grows_a_shared_memory() {
    let code = artifact(
        r#"(module (import "env" "memory" (memory 1 100 shared))
            (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#,
    );
    let memory = shared(1, 100);
    let linker = linker_with(&memory);
    let mut store = Store::new(&Engine::default(), ());
    store.limits_mut().memory_pages = 10;
    let instance = linker.instantiate(&mut store, &code).unwrap();
    assert_eq!(run(&mut store, instance, "grow", 10), -1);
    assert_eq!(run(&mut store, instance, "grow", 9), 1);
    // The host, and other stores, have limits of their own.
    assert_eq!(memory.grow(10).unwrap(), 10);
    assert_eq!(run(&mut store, instance, "grow", 0), 20);
    assert_eq!(run(&mut store, instance, "grow", 1), -1);
}

#[test]
fn several_instances_of_a_store_share_too_and_segments_are_copied_once_each() {
    let code = artifact(
        r#"(module (import "env" "memory" (memory 1 2 shared)) (data (i32.const 10) "x")
            (func (export "bump") (param i32) (result i32)
              (i32.atomic.rmw8.add_u (i32.const 10) (local.get 0))))"#,
    );
    let memory = shared(1, 2);
    let linker = linker_with(&memory);
    let mut store = Store::new(&Engine::default(), ());
    let first = linker.instantiate(&mut store, &code).unwrap();
    assert_eq!(run(&mut store, first, "bump", 1), i32::from(b'x'));
    assert_eq!(run(&mut store, first, "bump", 1), i32::from(b'y'));
    // Instantiation copies the segment again, as the specification says.
    let second = linker.instantiate(&mut store, &code).unwrap();
    assert_eq!(run(&mut store, second, "bump", 1), i32::from(b'x'));
    assert_eq!(run(&mut store, first, "bump", 0), i32::from(b'y'));
}

#[test]
fn a_module_may_define_what_others_share() {
    let bytes = "ab".repeat(100_000);
    let owner = artifact(&format!(
        r#"(module (memory (export "memory") 4 9 shared) (data (i32.const 0) "{bytes}"))"#
    ));
    let user = artifact(
        r#"(module (import "env" "memory" (memory 1 9 shared))
            (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0)))
            (func (export "copy") (param i32) (result i32)
              (memory.fill (i32.const 0) (i32.const 122) (i32.const 5))
              (memory.copy (i32.const 3) (i32.const 0) (local.get 0))
              (i32.const 0)))"#,
    );
    let memory = {
        let mut store = Store::new(&Engine::default(), ());
        let instance = Linker::new(&Engine::default()).instantiate(&mut store, &owner).unwrap();
        let memory = instance.export(&store, "memory").and_then(Extern::into_memory).unwrap();
        memory.shared(&store).unwrap().unwrap()
    };
    let mut store = Store::new(&Engine::default(), ());
    let instance = linker_with(&memory).instantiate(&mut store, &user).unwrap();
    assert_eq!(run(&mut store, instance, "load", 199_999), i32::from(b'b'));
    assert_eq!(run(&mut store, instance, "load", 200_000), 0);
    run(&mut store, instance, "copy", 7);
    let mut start = [0; 12];
    memory.read(0, &mut start).unwrap();
    assert_eq!(&start, b"zzzzzzzzbaab");
    let atomics = memory.atomics();
    atomics[1].store(b'!', Ordering::SeqCst);
    assert_eq!(run(&mut store, instance, "load", 1), i32::from(b'!'));
}

#[test]
fn a_shared_memory_fits_only_where_one_is_wanted() {
    let memory = shared(2, 5);
    for (wanted, fits) in [
        ("(memory 2 5 shared)", true),
        ("(memory 1 6 shared)", true),
        ("(memory 3 5 shared)", false),
        ("(memory 2 4 shared)", false),
        ("(memory 2 5)", false),
        ("(memory i64 2 5 shared)", false),
        ("(func)", false),
    ] {
        let code = artifact(&format!("(module (import \"env\" \"memory\" {wanted}))"));
        let mut store = Store::new(&Engine::default(), ());
        match linker_with(&memory).instantiate(&mut store, &code) {
            Ok(_) => assert!(fits, "{wanted}"),
            Err(Error::Link(LinkError::IncompatibleImport { found, .. })) => {
                assert!(!fits, "{wanted}");
                assert_eq!(found, "(memory 2 5 shared)");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn atomics_need_no_cpu_feature_beyond_the_baseline() {
    use cwasm_artifact::header::Header;
    for cpu in [CpuLevel::Baseline, CpuLevel::X86_64V3] {
        let target = "x86_64-unknown-linux-gnu".parse().unwrap();
        let settings = Settings { cpu, target, ..Settings::default() };
        let bytes = compile_with(COUNTER, &settings);
        assert_eq!(Header::of(&bytes).unwrap().cpu_features.get(), 0, "{cpu}");
    }
}

fn assert_send_and_sync<T: Send + Sync>() {}

#[test]
fn a_shared_memory_may_go_to_every_thread() {
    assert_send_and_sync::<SharedMemory>();
    assert_send_and_sync::<Artifact>();
}

/// Messages between threads that only atomics order (litmus tests), as a script of the
/// specification's format with its own threads.
const SCRIPT: &str = r#"
    (module $Mem (memory (export "shared") 1 1 shared))
    (thread $T1 (shared (module $Mem))
      (register "mem" $Mem)
      (module
        (memory (import "mem" "shared") 1 1 shared)
        (func (export "run")
          (i32.store (i32.const 0) (i32.const 42))
          (i32.atomic.store (i32.const 4) (i32.const 1))))
      (invoke "run"))
    (thread $T2 (shared (module $Mem))
      (register "mem" $Mem)
      (module
        (memory (import "mem" "shared") 1 1 shared)
        (func (export "run") (result i32)
          (loop $wait (br_if $wait (i32.eqz (i32.atomic.load (i32.const 4)))))
          (i32.load (i32.const 0))))
      (assert_return (invoke "run") (i32.const 42)))
    (thread $T3 (shared (module $Mem))
      (register "mem" $Mem)
      (module
        (memory (import "mem" "shared") 1 1 shared)
        (func (export "run") (result i32)
          (memory.atomic.wait32 (i32.const 8) (i32.const 0) (i64.const -1))))
      (assert_return (invoke "run") (i32.const 0)))
    (wait $T1)
    (wait $T2)
    (register "mem" $Mem)
    (module
      (memory (import "mem" "shared") 1 1 shared)
      (func (export "wake")
        (loop $again (br_if $again
          (i32.eqz (memory.atomic.notify (i32.const 8) (i32.const 1)))))))
    (invoke "wake")
    (wait $T3)
"#;

#[test]
fn scripts_run_their_threads_and_wait_for_them() {
    let summary = cwasm_wast::run_script("threads", SCRIPT);
    assert_eq!(summary.failures, []);
    assert_eq!(summary.passed, 2);
    let summary = cwasm_wast::run_script("threads", "(module) (wait $T)");
    assert_eq!(summary.failures[0].message, "there is no such thread");
    // Whoever does not wait still hears of failures.
    let (until_t3, _) = SCRIPT.split_once("(thread $T3").unwrap();
    let wrong = until_t3.replace("(i32.const 42)))\n    ", "(i32.const 43)))\n    ");
    let summary = cwasm_wast::run_script("threads", &wrong);
    assert_eq!((summary.failures.len(), summary.passed), (1, 0), "{:?}", summary.failures);
}

#[test]
fn every_atomic_operation_traps_outside_of_its_memory() {
    let mut functions = String::new();
    let mut names = Vec::new();
    for (ty, widths) in [("i32", &["8", "16", ""][..]), ("i64", &["8", "16", "32", ""])] {
        for width in widths {
            let suffix = if width.is_empty() { "" } else { "_u" };
            let mut add = |operator: String, operands: &str, drop: bool| {
                let (open, close) = if drop { ("(drop ", ")") } else { ("", "") };
                functions.push_str(&format!(
                    "(func (export \"{operator}\") (param INDEX) (result i32)
                       {open}({operator} (local.get 0) {operands}){close} (i32.const 0))"
                ));
                names.push(operator);
            };
            let value = format!("({ty}.const 1)");
            add(format!("{ty}.atomic.load{width}{suffix}"), "", true);
            add(format!("{ty}.atomic.store{width}"), &value, false);
            for op in ["add", "sub", "and", "or", "xor", "xchg"] {
                add(format!("{ty}.atomic.rmw{width}.{op}{suffix}"), &value, true);
            }
            add(
                format!("{ty}.atomic.rmw{width}.cmpxchg{suffix}"),
                &format!("{value} {value}"),
                true,
            );
        }
    }
    assert_eq!(names.len(), 63);
    for settings in all_settings() {
        for memory in ["1", "1 2 shared", "i64 1", "i64 0 1 shared", "i64 1 2 shared"] {
            let index = if memory.starts_with("i64") { "i64" } else { "i32" };
            let text = format!("(module (memory {memory}) {})", functions.replace("INDEX", index));
            let code = load(&compile_with(&text, &settings));
            let mut store = Store::new(&Engine::default(), ());
            store.set_fuel(1 << 40);
            let instance = Linker::new(&Engine::default()).instantiate(&mut store, &code).unwrap();
            for name in &names {
                for at in [65528, 65536, 0x7fff_fff8] {
                    let result = if index == "i32" {
                        let func = instance.typed_func::<i32, i32>(&store, name).unwrap();
                        func.call(&mut store, at)
                    } else {
                        let func = instance.typed_func::<i64, i32>(&store, name).unwrap();
                        func.call(&mut store, at.into())
                    };
                    let inside = at == 65528 && memory != "i64 0 1 shared";
                    let found = result.err().map(|error| kind(&error));
                    let wanted = (!inside).then_some(TrapKind::MemoryOutOfBounds);
                    assert_eq!(found, wanted, "{name} at {at} of ({memory})");
                }
            }
        }
    }
}
