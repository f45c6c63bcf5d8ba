//! Memories begin as their modules say, whatever was done to those before them.
//!
//! Address space is used again, with images mapped, by memories of other stores. So each test here dirties all that
//! there is, drops it, and looks at everything again.

use std::sync::Barrier;

use cwasm_compiler::{MemoryBounds, Settings};
use cwasm_loader::{Artifact, Engine, Error, Func, Linker, Ref, Store, TrapKind, Val};
use cwasm_tests::fault::random::Random;
use cwasm_tests::fault::{child, process};
use cwasm_tests::{artifact, compile, compile_with, load};

const PAGE: usize = 65536;

/// A module with one memory, and what that begins with.
struct Subject {
    name: &'static str,
    text: String,
    artifact: Artifact,
    initial: Vec<u8>,
    shared: bool,
}

/// Bytes that tell where they belong.
fn pattern(seed: usize, length: usize) -> Vec<u8> {
    let letters = b"abcdefghijklmnopqrstuvwxyz";
    (0..length).map(|at| letters[(seed * 7 + at * 31 + at / 251) % 26]).collect()
}

fn subject(
    name: &'static str,
    memory: &str,
    size: usize,
    segments: &[(usize, Vec<u8>)],
    settings: &Settings,
) -> Subject {
    let index = if memory.starts_with("i64") { "i64" } else { "i32" };
    let mut initial = vec![0; size];
    let mut data = String::new();
    for (at, bytes) in segments {
        initial[*at..*at + bytes.len()].copy_from_slice(bytes);
        let bytes = std::str::from_utf8(bytes).unwrap();
        data += &format!("(data ({index}.const {at}) \"{bytes}\")\n");
    }
    let text = format!(
        r#"(module
            (memory (export "memory") {memory})
            {data}
            (data $passive "PASSIVE")
            (func (export "fill") (param i32)
              (memory.fill ({index}.const 0) (local.get 0) ({index}.const {size})))
            (func (export "store") (param $at {index}) (i32.store8 (local.get $at) (i32.const 88)))
            (func (export "load") (param $at {index}) (result i32) (i32.load8_u (local.get $at)))
            (func (export "copy") (memory.copy ({index}.const 3) ({index}.const 0) ({index}.const {copied})))
            (func (export "init") (memory.init $passive ({index}.const 1) (i32.const 0) (i32.const 7)))
            (func (export "grow") (param $by {index}) (result {index}) (memory.grow (local.get $by)))
            (func (export "trap") (memory.fill ({index}.const 0) (i32.const 77) ({index}.const {size})) unreachable))"#,
        copied = size - 3,
    );
    let artifact = load(&compile_with(&text, settings));
    Subject { name, artifact, initial, shared: memory.contains("shared"), text }
}

fn subjects() -> Vec<Subject> {
    let guarded = Settings::default();
    let explicit = Settings { memory_bounds: MemoryBounds::Explicit, ..Settings::default() };
    let scattered: Vec<_> = (0..12).map(|n| (n * 3 * 4096 + 4090, pattern(n, 700))).collect();
    let mut many_runs = scattered.clone();
    many_runs.push((50 * 4096, pattern(50, 140_000)));
    vec![
        subject("nothing", "2 9", 2 * PAGE, &[], &guarded),
        subject("small", "2 9", 2 * PAGE, &[(1024, pattern(1, 60))], &guarded),
        subject("the same place", "2 9", 2 * PAGE, &[(1024, pattern(2, 60))], &guarded),
        subject("another size", "3 9", 3 * PAGE, &[(1024, pattern(3, 60))], &guarded),
        subject(
            "segments across pages",
            "2 9",
            2 * PAGE,
            &[
                (4000, pattern(4, 200)),
                (3 * 4096 - 1, pattern(5, 5000)),
                (2 * PAGE - 3, pattern(6, 3)),
            ],
            &guarded,
        ),
        subject(
            "segments over segments",
            "2 9",
            2 * PAGE,
            &[(100, pattern(4, 9000)), (50, pattern(5, 100)), (8000, pattern(6, 3))],
            &guarded,
        ),
        subject("many small runs", "4 9", 4 * PAGE, &scattered, &guarded),
        subject("large", "20 29", 20 * PAGE, &[(77, pattern(7, 1 << 20))], &guarded),
        subject("many runs", "20 29", 20 * PAGE, &many_runs, &guarded),
        subject("64 bits", "i64 2 9", 2 * PAGE, &[(5000, pattern(8, 60))], &guarded),
        subject(
            "64 bits without end",
            "i64 2",
            2 * PAGE,
            &[(5000, pattern(9, 200_000 / 4))],
            &guarded,
        ),
        subject(
            "bytes",
            "70000 90000 (pagesize 1)",
            70_000,
            &[(69_000, pattern(10, 1000))],
            &guarded,
        ),
        subject("shared", "2 9 shared", 2 * PAGE, &[(1024, pattern(11, 60))], &guarded),
        subject("explicit", "2 9", 2 * PAGE, &[(1024, pattern(12, 60))], &explicit),
        subject("explicit and large", "20 29", 20 * PAGE, &[(1, pattern(13, 1 << 20))], &explicit),
    ]
}

fn is_i64(subject: &Subject) -> bool {
    subject.text.contains("(param $at i64)")
}

fn number(subject: &Subject, value: usize) -> Val<'static> {
    let value = i32::try_from(value).unwrap();
    if is_i64(subject) { Val::I64(value.into()) } else { Val::I32(value) }
}

/// Makes an instance, checks every byte of its memory, and the bytes behind it.
fn instance<'code>(
    subject: &'code Subject,
    engine: &Engine,
) -> (Store<'code, ()>, cwasm_loader::Instance<'code>) {
    let mut store = Store::new(engine, ());
    let instance = Linker::new(engine).instantiate(&mut store, &subject.artifact).unwrap();
    let memory = instance.memory(&store, "memory").unwrap();
    let mut found = vec![0xff; subject.initial.len()];
    assert_eq!(memory.size_bytes(&store).unwrap(), found.len() as u64, "{}", subject.name);
    memory.read(&store, 0, &mut found).unwrap();
    let wrong = found.iter().zip(&subject.initial).position(|(found, wanted)| found != wanted);
    assert_eq!(wrong, None, "{}", subject.name);
    (store, instance)
}

fn call<'code>(
    subject: &Subject,
    store: &mut Store<'code, ()>,
    instance: &cwasm_loader::Instance<'code>,
    name: &str,
    argument: Option<usize>,
) -> Result<Option<u64>, Error> {
    let func: Func<'code> = instance.func(&*store, name).unwrap();
    let arguments: Vec<_> = match argument {
        None => Vec::new(),
        Some(value) if name == "fill" => vec![Val::I32(i32::try_from(value).unwrap())],
        Some(value) => vec![number(subject, value)],
    };
    let results = func.call(store, &arguments)?;
    Ok(results.first().map(|value| match value {
        Val::I32(value) => u64::from(value.cast_unsigned()),
        Val::I64(value) => value.cast_unsigned(),
        other => panic!("{other:?}"),
    }))
}

fn traps<'code>(
    subject: &Subject,
    store: &mut Store<'code, ()>,
    instance: &cwasm_loader::Instance<'code>,
    at: usize,
) {
    for name in ["load", "store"] {
        let error = call(subject, store, instance, name, Some(at)).unwrap_err();
        let trap = error.trap().unwrap_or_else(|| panic!("{}: {error}", subject.name));
        assert_eq!(trap.kind(), TrapKind::MemoryOutOfBounds, "{}", subject.name);
    }
}

/// How many ways there are to use a memory.
const WAYS: usize = 12;

/// Uses a memory in one way, most of which leave no byte as it was.
fn dirty<'code>(
    way: usize,
    subject: &Subject,
    mut store: Store<'code, ()>,
    instance: cwasm_loader::Instance<'code>,
) -> Store<'code, ()> {
    let size = subject.initial.len();
    let memory = instance.memory(&store, "memory").unwrap();
    let by = if subject.text.contains("pagesize") { 12_345 } else { 3 };
    let grown = if by == 3 { size + 3 * PAGE } else { size + by };
    match way {
        // Made, and looked at.
        0 => {}
        // By the host alone.
        1 => memory.write(&mut store, (size - 1) as u64, b"!").unwrap(),
        2 if !subject.shared => memory.data_mut(&mut store).unwrap().fill(0xee),
        3 => {
            memory.grow(&mut store, by as u64).unwrap();
        }
        4 => {
            memory.grow(&mut store, by as u64).unwrap();
            memory.write(&mut store, 0, &vec![0xdd; grown]).unwrap();
            traps(subject, &mut store, &instance, grown);
        }
        // By code.
        5 => {
            call(subject, &mut store, &instance, "fill", Some(0x55)).unwrap();
        }
        6 => {
            call(subject, &mut store, &instance, "store", Some(size / 2)).unwrap();
        }
        7 => {
            call(subject, &mut store, &instance, "copy", None).unwrap();
            call(subject, &mut store, &instance, "init", None).unwrap();
        }
        8 => {
            call(subject, &mut store, &instance, "trap", None).unwrap_err();
        }
        9 => {
            call(subject, &mut store, &instance, "grow", Some(by)).unwrap();
            call(subject, &mut store, &instance, "store", Some(grown - 1)).unwrap();
            traps(subject, &mut store, &instance, grown);
        }
        // By both.
        10 => {
            call(subject, &mut store, &instance, "grow", Some(by)).unwrap();
            let mut new = vec![1; grown - size];
            memory.read(&store, size as u64, &mut new).unwrap();
            assert!(new.iter().all(|byte| *byte == 0), "{}", subject.name);
            memory.write(&mut store, 0, &vec![0xcc; grown]).unwrap();
        }
        _ => {
            traps(subject, &mut store, &instance, size);
            memory.write(&mut store, 0, &vec![0xbb; size]).unwrap();
        }
    }
    store
}

#[test]
fn whatever_was_done_to_a_memory_the_next_begins_as_it_should() {
    let engine = Engine::default();
    let subjects = subjects();
    for subject in &subjects {
        for round in 0..3 * WAYS {
            let (store, instance) = instance(subject, &engine);
            drop(dirty(round % WAYS, subject, store, instance));
        }
    }
}

/// Makes, dirties and drops memories, up to `held` at a time, in an order that depends on the seed.
fn churn(subjects: &[Subject], seed: u64, rounds: usize, held: usize) {
    let engine = Engine::default();
    let mut random = Random::new(seed);
    let mut stores = Vec::new();
    for _ in 0..rounds {
        let subject = &subjects[random.below(subjects.len())];
        let (store, instance) = instance(subject, &engine);
        stores.push(dirty(random.below(WAYS), subject, store, instance));
        while stores.len() > held || !stores.is_empty() && random.below(3) == 0 {
            drop(stores.swap_remove(random.below(stores.len())));
        }
    }
}

#[test]
fn memories_of_many_modules_and_threads_have_nothing_in_common() {
    let subjects = subjects();
    std::thread::scope(|scope| {
        for seed in 1..=6 {
            let subjects = &subjects;
            scope.spawn(move || churn(subjects, seed, 400, 5));
        }
    });
}

#[test]
fn a_memory_that_is_dropped_on_another_thread_leaves_nothing_behind() {
    let engine = Engine::default();
    let subjects = subjects();
    for way in 0..WAYS {
        for subject in &subjects {
            let (store, instance) = instance(subject, &engine);
            let store = dirty(way, subject, store, instance);
            std::thread::scope(|scope| {
                scope.spawn(move || drop(store));
            });
        }
    }
}

#[test]
fn more_memories_at_once_than_ever_wait_begin_as_they_should() {
    let engine = Engine::default();
    let subjects = subjects();
    for round in 0..3 {
        let stores: Vec<_> = (0..300)
            .map(|number| {
                let subject = &subjects[(number * 7 + round) % subjects.len()];
                let (store, instance) = instance(subject, &engine);
                dirty(number % WAYS, subject, store, instance)
            })
            .collect();
        drop(stores);
    }
}

#[test]
fn where_all_that_waits_has_the_image_of_another_memories_begin_as_they_should() {
    child::run(
        "where_all_that_waits_has_the_image_of_another_memories_begin_as_they_should",
        || {
            let engine = Engine::default();
            let subjects = subjects();
            let small = subjects.iter().find(|subject| subject.name == "small").unwrap();
            for _ in 0..2 {
                let stores: Vec<_> = (0..200)
                    .map(|number| {
                        let (store, instance) = instance(small, &engine);
                        dirty(number % WAYS, small, store, instance)
                    })
                    .collect();
                drop(stores);
            }
            assert_eq!(mapped_images(), 128);
            for round in 0..3 * WAYS {
                for subject in &subjects {
                    let (store, instance) = instance(subject, &engine);
                    drop(dirty(round % WAYS, subject, store, instance));
                }
            }
        },
    )
    .well();
}

#[test]
fn where_address_space_is_short_memories_begin_as_they_should() {
    child::run("where_address_space_is_short_memories_begin_as_they_should", || {
        let subjects = subjects();
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        // Room for a few.
        let limit = pages * 4096 + (14 << 30);
        let limits = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: the structure is valid during the call.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limits) }, 0);
        churn(&subjects, 1, 1000, 1);
    })
    .well();
}

/// Has a memory wait that was written to. Before the first one of a process does, a file is opened that stays open.
fn settle() {
    let code = artifact("(module (memory (export \"memory\") 1))");
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, &code).unwrap();
    let memory = instance.memory(&store, "memory").unwrap();
    memory.data_mut(&mut store).unwrap().fill(1);
}

/// How many mappings there are of images.
fn mapped_images() -> usize {
    let mappings = process::all_mappings();
    mappings.iter().filter(|mapping| mapping.name.contains("cwasm-images")).count()
}

#[test]
fn an_artifact_takes_its_images_along() {
    child::run("an_artifact_takes_its_images_along", || {
        let engine = Engine::default();
        settle();
        let before = process::descriptors();
        let settings = Settings::default();
        for number in 0..200 {
            let size = if number % 10 == 0 { 150_000 } else { 5000 };
            // All alike, but for the bytes.
            let segments = [(1000, pattern(number, size))];
            let subject = subject("alike", "4 9", 4 * PAGE, &segments, &settings);
            for round in 0..4 {
                let (store, instance) = instance(&subject, &engine);
                drop(dirty((number + round) % WAYS, &subject, store, instance));
            }
            assert_eq!(mapped_images(), 1);
            assert_eq!(process::descriptors(), before + 1);
            drop(subject);
            assert_eq!(mapped_images(), 0);
            assert_eq!(process::descriptors(), before);
        }
    })
    .well();
}

#[test]
fn artifacts_that_are_dropped_while_others_run_leave_no_images() {
    child::run("artifacts_that_are_dropped_while_others_run_leave_no_images", || {
        settle();
        let before = process::descriptors();
        let bytes: Vec<_> = (0..8)
            .map(|number| {
                let data = String::from_utf8(pattern(number, 3000)).unwrap();
                compile(&format!(
                    r#"(module (memory (export "memory") 1) (data (i32.const 2000) "{data}"))"#
                ))
            })
            .collect();
        let start = Barrier::new(6);
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (bytes, start) = (&bytes, &start);
                scope.spawn(move || {
                    let engine = Engine::default();
                    let linker = Linker::<()>::new(&engine);
                    start.wait();
                    for round in 0..300 {
                        let number = (thread + round) % bytes.len();
                        let code = load(&bytes[number]);
                        for _ in 0..4 {
                            let mut store = Store::new(&engine, ());
                            let instance = linker.instantiate(&mut store, &code).unwrap();
                            let memory = instance.memory(&store, "memory").unwrap();
                            let data = memory.data_mut(&mut store).unwrap();
                            assert!(data[2000..5000] == pattern(number, 3000));
                            assert!(
                                data[..2000].iter().chain(&data[5000..]).all(|byte| *byte == 0)
                            );
                            data.fill(9);
                        }
                    }
                });
            }
        });
        // What could not be released at once is by the next that makes or drops a memory.
        drop(Store::new(&Engine::default(), ()));
        let code = artifact("(module (memory 1))");
        let engine = Engine::default();
        Linker::<()>::new(&engine).instantiate(&mut Store::new(&engine, ()), &code).unwrap();
        assert_eq!(mapped_images(), 0);
        assert_eq!(process::descriptors(), before);
    })
    .well();
}

#[test]
fn little_of_what_was_written_stays_with_what_waits() {
    child::run("little_of_what_was_written_stays_with_what_waits", || {
        settle();
        let engine = Engine::default();
        let code = artifact("(module (memory (export \"memory\") 16))");
        let linker = Linker::<()>::new(&engine);
        let fill = || {
            let mut store = Store::new(&engine, ());
            let instance = linker.instantiate(&mut store, &code).unwrap();
            let memory = instance.memory(&store, "memory").unwrap();
            memory.data_mut(&mut store).unwrap().fill(1);
            store
        };
        let before = process::resident_kib();
        for _ in 0..3 {
            let stores: Vec<_> = (0..150).map(|_| fill()).collect();
            assert!(process::resident_kib() >= before + 150 * 1024);
            drop(stores);
            // 128 that wait, with 256 KiB each.
            assert!(process::resident_kib() <= before + 128 * 256 + 2048);
        }
    })
    .well();
}

#[test]
fn what_waits_is_bounded() {
    child::run("what_waits_is_bounded", || {
        settle();
        let engine = Engine::default();
        let linker = Linker::<()>::new(&engine);
        // Nothing waits that has more than eight runs.
        for (runs, waiting) in [(8, 8), (9, 0)] {
            let small = (1..runs).map(|run| (run * 8192, pattern(run, 9)));
            let segments: Vec<_> = small.chain([(100_000, pattern(0, 140_000))]).collect();
            let subject = subject("runs", "4", 4 * PAGE, &segments, &Settings::default());
            drop(instance(&subject, &engine));
            assert_eq!(mapped_images(), waiting);
        }
        let (mappings, descriptors) = (process::mappings(), process::descriptors());
        // Eight runs each, as many as wait, and then one more; and more modules than small images are kept of.
        let codes: Vec<_> = (0..300)
            .map(|number| {
                let runs = 1 + number % 9;
                let segments =
                    (0..runs).map(|run| format!("(data (i32.const {}) \"x\")", run * 8192));
                artifact(&format!("(module (memory 2) {})", segments.collect::<String>()))
            })
            .collect();
        let loaded = process::mappings() - mappings;
        let mut resident = 0;
        for round in 0..4 {
            let stores: Vec<_> = codes
                .iter()
                .map(|code| {
                    let mut store = Store::new(&engine, ());
                    linker.instantiate(&mut store, code).unwrap();
                    store
                })
                .collect();
            drop(stores);
            assert!(process::descriptors() <= descriptors + 128);
            assert!(process::mappings() <= mappings + loaded + 128 * (2 + 2 * 8));
            if round == 1 {
                resident = process::resident_kib();
            }
        }
        assert!(mapped_images() > 0);
        assert!(process::resident_kib() <= resident + 1024);
        drop(codes);
        assert_eq!(mapped_images(), 0);
        assert_eq!(process::descriptors(), descriptors);
        assert!(process::mappings() <= mappings + 2 * 128 + 8);
    })
    .well();
}

#[test]
fn data_are_not_there_before_elements_that_fail() {
    // The function is in another's table by the time that the second segment does not fit. It
    // sees a memory that nothing was written to yet.
    let owner = artifact(r#"(module (table (export "t") 2 funcref))"#);
    for length in [10, 200_000] {
        let data = String::from_utf8(pattern(1, length)).unwrap();
        let code = artifact(&format!(
            r#"(module (import "o" "t" (table 2 funcref)) (memory 4)
                (elem (i32.const 0) $f) (elem (i32.const 2) $f)
                (data (i32.const 1000) "{data}")
                (func $f (result i32) (i32.load8_u (i32.const 1005))))"#
        ));
        let engine = Engine::default();
        for _ in 0..5 {
            let mut store = Store::new(&engine, ());
            let owner = Linker::new(&engine).instantiate(&mut store, &owner).unwrap();
            let mut linker = Linker::new(&engine);
            linker.instance(&store, "o", owner).unwrap();
            let error = linker.instantiate(&mut store, &code).unwrap_err();
            assert_eq!(error.trap().unwrap().kind(), TrapKind::TableOutOfBounds);
            let table = owner.table(&store, "t").unwrap();
            let Ref::Func(Some(f)) = table.get(&store, 0).unwrap() else { panic!("no function") };
            assert!(matches!(f.call(&mut store, &[]).unwrap()[..], [Val::I32(0)]));
        }
    }
}

#[test]
fn each_memory_of_a_module_has_its_own_image() {
    let code = artifact(
        r#"(module
            (memory (export "a") 1) (memory (export "b") 1) (memory (export "c") 1)
            (memory (export "d") 1)
            (data (memory 2) (i32.const 100) "cc") (data (memory 0) (i32.const 100) "aa")
            (data (memory 1) (i32.const 100) "bb"))"#,
    );
    let engine = Engine::default();
    for _ in 0..10 {
        let mut store = Store::new(&engine, ());
        // Two instances in one store are apart, too.
        for _ in 0..2 {
            let instance = Linker::new(&engine).instantiate(&mut store, &code).unwrap();
            for (name, wanted) in [("a", *b"aa"), ("b", *b"bb"), ("c", *b"cc"), ("d", *b"\0\0")] {
                let memory = instance.memory(&store, name).unwrap();
                let data = memory.data_mut(&mut store).unwrap();
                assert_eq!(data[100..102], wanted, "{name}");
                assert!(data[..100].iter().chain(&data[102..]).all(|byte| *byte == 0), "{name}");
                data.fill(7);
            }
        }
    }
}

#[test]
fn a_start_function_and_data_at_unknown_places_count_as_writing() {
    let owner = artifact(r#"(module (global (export "g") i32 (i32.const 3000)))"#);
    let code = artifact(
        r#"(module
            (import "o" "g" (global i32)) (memory (export "memory") 1)
            (data (i32.const 100) "here") (data (global.get 0) "there"))"#,
    );
    let started = artifact(
        r#"(module (memory (export "memory") 1) (data (i32.const 100) "here") (start $s)
            (func $s (i32.store8 (i32.const 9) (i32.add (i32.load8_u (i32.const 9)) (i32.const 1)))))"#,
    );
    let plain = artifact(r#"(module (memory (export "memory") 1))"#);
    let engine = Engine::default();
    for _ in 0..5 {
        for (code, places) in [
            (&code, &[(100, &b"here"[..]), (3000, b"there")][..]),
            (&started, &[(100, b"here"), (9, b"\x01")]),
            (&plain, &[]),
        ] {
            let mut store = Store::new(&engine, ());
            let owner = Linker::new(&engine).instantiate(&mut store, &owner).unwrap();
            let mut linker = Linker::new(&engine);
            linker.instance(&store, "o", owner).unwrap();
            let instance = linker.instantiate(&mut store, code).unwrap();
            let mut wanted = vec![0; PAGE];
            for (at, bytes) in places {
                wanted[*at..*at + bytes.len()].copy_from_slice(bytes);
            }
            let memory = instance.memory(&store, "memory").unwrap();
            assert!(memory.data(&store).unwrap() == wanted);
        }
    }
}
