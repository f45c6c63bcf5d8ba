//! Many threads that load, link, call, trap and drop at once; loading without end;
//! and code that is replaced while requests run on it.
//!
//! Short by default; `CWASM_SOAK_SECONDS` says how long the random work goes on.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, RwLock};
use std::time::{Duration, Instant};

use cwasm_loader::{Artifact, Caller, Digest, Engine, Error, Linker, Ref, Store, TrapKind, Trust};
use cwasm_tests::fault::random::Random;
use cwasm_tests::fault::{child, process};
use cwasm_tests::{artifact, compile, load};

/// Offers a table, and calls whatever others put into it.
const CALLS: &str = r#"(module
    (type $t (func (param i32) (result i32)))
    (table (export "table") 64 funcref)
    (memory (export "memory") 1 20)
    (func (export "call") (param i32 i32) (result i32)
        (call_indirect (type $t) (local.get 1) (local.get 0))))"#;

/// Puts its functions into the table of another module. `SEED` makes each code different.
const PLUGIN: &str = r#"(module
    (type $t (func (param i32) (result i32)))
    (import "main" "table" (table 64 funcref))
    (import "main" "memory" (memory 1))
    (import "host" "log" (func $log (param i32)))
    (global $calls (mut i32) (i32.const 0))
    (elem (i32.const SLOT) $add $trap $store)
    (func $add (type $t)
        (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (call $log (local.get 0))
        (i32.add (local.get 0) (i32.const SEED)))
    (func $trap (type $t) (i32.div_u (local.get 0) (i32.const 0)))
    (func $store (type $t) (i32.store (local.get 0) (i32.const SEED)) (i32.const SEED)))"#;

fn plugin(number: usize) -> Vec<u8> {
    let slot = (number % 20) * 3;
    compile(&PLUGIN.replace("SEED", &number.to_string()).replace("SLOT", &slot.to_string()))
}

/// One round of a thread's work: a few modules, linked through a table, called and dropped.
fn round(random: &mut Random, shared: &Artifact, plugins: &[Vec<u8>], engine: &Engine) {
    // Some of the code is this round's own, and unmapped at its end.
    let own: Vec<(usize, Artifact)> = (0..1 + random.below(4))
        .map(|_| random.below(plugins.len()))
        .map(|number| (number, load(&plugins[number])))
        .collect();
    let mut store = Store::new(engine, 0_usize);
    let mut linker = Linker::new(engine);
    linker
        .func("host", "log", |mut caller: Caller<'_, '_, usize>, _: i32| {
            *caller.data_mut() += 1;
        })
        .unwrap();
    let main = linker.instantiate(&mut store, shared).unwrap();
    linker.instance(&store, "main", main).unwrap();
    let mut owner = [None; 64];
    for (number, code) in &own {
        linker.instantiate(&mut store, code).unwrap();
        let slot = (number % 20) * 3;
        owner[slot..slot + 3].fill(Some(*number));
    }
    let call = main.typed_func::<(i32, i32), i32>(&store, "call").unwrap();
    let mut logged = 0;
    for _ in 0..random.below(60) {
        let slot = random.below(64);
        let value = i32::try_from(random.below(100_000)).unwrap();
        let result = call.call(&mut store, (i32::try_from(slot).unwrap(), value));
        let kind = result.as_ref().err().and_then(|error| error.trap()).map(|trap| trap.kind());
        let Some(number) = owner[slot] else {
            assert_eq!(kind, Some(TrapKind::UninitializedElement), "{result:?}");
            continue;
        };
        let number = i32::try_from(number).unwrap();
        match slot % 3 {
            0 => {
                assert_eq!(result.unwrap(), value + number);
                logged += 1;
            }
            1 => assert_eq!(kind, Some(TrapKind::IntegerDivisionByZero), "{result:?}"),
            _ if value > 65_532 => {
                assert_eq!(kind, Some(TrapKind::MemoryOutOfBounds), "{result:?}");
            }
            _ => assert_eq!(result.unwrap(), number),
        }
    }
    assert_eq!(store.into_data(), logged);
}

#[test]
fn threads_load_link_call_trap_and_drop_at_random() {
    let seconds = std::env::var("CWASM_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    let length = Duration::from_secs(seconds.unwrap_or(3));
    let plugins: Vec<_> = (0..24).map(plugin).collect();
    let shared = artifact(CALLS);
    let engine = Engine::default();
    let begin = Instant::now();
    let rounds = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let (plugins, shared, engine, rounds) = (&plugins, &shared, &engine, &rounds);
            scope.spawn(move || {
                let mut random = Random::new(seed);
                while begin.elapsed() < length {
                    round(&mut random, shared, plugins, engine);
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(rounds.load(Ordering::Relaxed) > 50, "{rounds:?} rounds");
}

#[test]
fn stores_and_artifacts_move_between_threads() {
    // Made on one thread, called on a second, dropped on a third.
    let bytes = compile(CALLS);
    for _ in 0..100 {
        let code = std::thread::scope(|scope| scope.spawn(|| load(&bytes)).join().unwrap());
        let engine = Engine::default();
        let linker = Linker::<()>::new(&engine);
        let mut store = Store::new(&engine, ());
        std::thread::scope(|scope| {
            let (store, code) = (&mut store, &code);
            scope.spawn(move || {
                let instance = linker.instantiate(store, code).unwrap();
                let call = instance.typed_func::<(i32, i32), i32>(&*store, "call").unwrap();
                assert!(call.call(store, (0, 0)).unwrap_err().trap().is_some());
            });
        });
        std::thread::scope(|scope| {
            scope.spawn(move || drop(store));
        });
        std::thread::spawn(move || drop(code)).join().unwrap();
    }
}

#[test]
fn ten_thousand_loads_and_drops_leave_nothing_behind() {
    // In a process of its own: other tests map and allocate too.
    child::run("ten_thousand_loads_and_drops_leave_nothing_behind", || {
        let texts: Vec<String> = (0..50)
            .map(|n| {
                // Types that no other artifact has, for the registry of types.
                let params = "i64 ".repeat(n + 1);
                format!(
                    r#"(module (memory 1) (table (export "t") 10 funcref) (elem (i32.const 0) $f)
                        (func $f (export "f") (param {params}) (result i32) (i32.const {n}))
                        (func (export "trap") (result i32) (i32.load (i32.const -1))))"#
                )
            })
            .collect();
        let bytes: Vec<_> = texts.iter().map(|text| compile(text)).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program.cwasm");
        std::fs::write(&path, &bytes[0]).unwrap();
        let trust = Trust::digest(Digest::stated_in(&bytes[0]).unwrap());
        let cycle = |number: usize| {
            let code = match number % 3 {
                0 => Artifact::load(&path, &trust).unwrap(),
                // SAFETY: nobody knows of the file but this test, which leaves it alone.
                1 => unsafe { Artifact::map_shared(&path, &trust) }.unwrap(),
                _ => load(&bytes[number % bytes.len()]),
            };
            if number.is_multiple_of(4) {
                let engine = Engine::default();
                let mut store = Store::new(&engine, ());
                let instance = Linker::new(&engine).instantiate(&mut store, &code).unwrap();
                let trap = instance.typed_func::<(), i32>(&store, "trap").unwrap();
                assert!(trap.call(&mut store, ()).unwrap_err().trap().is_some());
                let table = instance.table(&store, "t").unwrap();
                assert!(matches!(table.get(&store, 0).unwrap(), Ref::Func(Some(_))));
            }
        };
        (0..500).for_each(cycle);
        let (mappings, resident) = (process::mappings(), process::resident_kib());
        let descriptors = process::descriptors();
        (0..10_000).for_each(cycle);
        let (mappings_after, resident_after) = (process::mappings(), process::resident_kib());
        println!(
            "{mappings} mappings and {resident} KiB became {mappings_after} and {resident_after}"
        );
        assert!(mappings_after <= mappings + 2);
        assert!(resident_after <= resident + 2048);
        assert_eq!(process::descriptors(), descriptors);
        assert_eq!(process::anonymous_code_mappings(), 0);
    })
    .well();
}

#[test]
fn refused_artifacts_and_failed_instances_leave_nothing_behind() {
    child::run("refused_artifacts_and_failed_instances_leave_nothing_behind", || {
        let good =
            compile(r#"(module (import "nobody" "has" (func)) (memory 1) (func (export "f")))"#);
        let failing = compile(r#"(module (memory 1) (data (i32.const 65536) "x"))"#);
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        let trust = Trust::digest(Digest::stated_in(&good).unwrap());
        let engine = Engine::default();
        let cycle = || {
            assert!(Artifact::from_bytes(&bad, &trust).is_err());
            assert!(Artifact::from_bytes(&bad, &Trust::digest(Digest([0; 32]))).is_err());
            let code = load(&good);
            let linker = Linker::new(&engine);
            assert!(linker.instantiate(&mut Store::new(&engine, ()), &code).is_err());
            let code = load(&failing);
            assert!(linker.instantiate(&mut Store::new(&engine, ()), &code).is_err());
        };
        (0..200).for_each(|_| cycle());
        let (mappings, resident) = (process::mappings(), process::resident_kib());
        (0..2000).for_each(|_| cycle());
        assert!(process::mappings() <= mappings + 2);
        assert!(process::resident_kib() <= resident + 1024);
    })
    .well();
}

/// A service that always answers with the newest code: a request takes a share of the
/// artifact that is current when it begins, and a store of its own.
struct Service {
    engine: Engine,
    current: RwLock<Arc<Artifact>>,
}

impl Service {
    /// Answers with the version of the code, asked for before and after `during`.
    fn request(&self, during: impl Fn() + Send + Sync) -> Result<(i32, i32), Error> {
        let code = Arc::clone(&self.current.read().unwrap());
        let mut linker = Linker::new(&self.engine);
        linker.func("host", "wait", |_: Caller<'_, '_, ()>| during())?;
        let mut store = Store::new(&self.engine, ());
        let instance = linker.instantiate(&mut store, &code)?;
        let run = instance.typed_func::<(), (i32, i32)>(&store, "run")?;
        run.call(&mut store, ())
    }

    fn replace(&self, code: Artifact) {
        *self.current.write().unwrap() = Arc::new(code);
    }
}

fn version(number: i32) -> Vec<u8> {
    compile(&format!(
        r#"(module (import "host" "wait" (func $wait))
            (func $version (result i32) (i32.const {number}))
            (func (export "run") (result i32 i32) (call $version) (call $wait) (call $version)))"#
    ))
}

#[test]
fn a_request_ends_on_the_code_that_it_began_on() {
    child::run("a_request_ends_on_the_code_that_it_began_on", || {
        let service = Service {
            engine: Engine::default(),
            current: RwLock::new(Arc::new(load(&version(1)))),
        };
        let inside = Barrier::new(2);
        let replaced = Barrier::new(2);
        let next = version(2);
        assert_eq!(process::anonymous_code_mappings(), 1);
        std::thread::scope(|scope| {
            let old = scope.spawn(|| {
                service.request(|| {
                    inside.wait();
                    replaced.wait();
                })
            });
            inside.wait();
            service.replace(load(&next));
            assert_eq!(service.request(|| {}).unwrap(), (2, 2), "new requests run new code");
            assert_eq!(process::anonymous_code_mappings(), 2, "the old code still runs");
            replaced.wait();
            assert_eq!(old.join().unwrap().unwrap(), (1, 1), "the old request ends on its code");
        });
        assert_eq!(process::anonymous_code_mappings(), 1, "then the old code is gone");
        assert_eq!(service.request(|| {}).unwrap(), (2, 2));
    })
    .well();
}

#[test]
fn code_is_replaced_under_load() {
    child::run("code_is_replaced_under_load", || {
        let versions: Vec<_> = (0..10).map(version).collect();
        let service = Service {
            engine: Engine::default(),
            current: RwLock::new(Arc::new(load(&versions[0]))),
        };
        let done = AtomicBool::new(false);
        let seen = Mutex::new([0_usize; 10]);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let (before, after) = service.request(std::thread::yield_now).unwrap();
                        assert_eq!(before, after, "no request sees two versions");
                        seen.lock().unwrap()[usize::try_from(after).unwrap()] += 1;
                    }
                });
            }
            for round in 1..300 {
                service.replace(load(&versions[round % 10]));
                std::thread::sleep(Duration::from_millis(2));
            }
            done.store(true, Ordering::Relaxed);
        });
        let seen = seen.lock().unwrap();
        assert!(seen.iter().all(|count| *count > 0), "every version answered: {seen:?}");
        assert_eq!(process::anonymous_code_mappings(), 1, "only the last version is mapped");
    })
    .well();
}
