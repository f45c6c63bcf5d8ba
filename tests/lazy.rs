//! Code that is loaded when it is needed: it does the same, costs nothing before, and what was changed
//! meanwhile never runs.

use std::fs::{self, File};
use std::io::Write as _;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use cwasm_artifact::builder::reseal;
use cwasm_artifact::check::{Deferred, Part};
use cwasm_artifact::digest;
use cwasm_artifact::header::{HEADER_OFFSET, Header, Section, SectionRange, TREE_OFFSET};
use cwasm_artifact::tree::LEAVES_PER_BRANCH;
use cwasm_loader::{
    Artifact, Caller, Digest, Engine, Error, Frame, HostError, Instance, Linker, LoadError, Store,
    Trust,
};
use cwasm_tests::compile;
use cwasm_tests::fault::process::all_mappings;
use cwasm_tests::program_file::{ProgramFile, chunk_size, overwrite};

/// How many large functions the program has.
const FUNCTIONS: usize = 40;

/// A program with much code: each function `f<n>` adds up many products, and returns a number that depends on `n`.
/// `all` calls them all, `table` one by its number, `vector` uses constants that lie behind code, and `fault` traps far inside.
static PROGRAM: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut text = String::from("(module (memory 1) (type $t (func (param i32) (result i32)))");
    for number in 0..FUNCTIONS {
        text += &format!("(func $f{number} (export \"f{number}\") (type $t) (local $x i32)");
        for step in 0..900 {
            text += &format!(
                "(local.set $x (i32.add (i32.mul (local.get $x) (i32.const {})) (i32.load (i32.and (local.get 0) (i32.const {})))))",
                31 + step * 2 + number,
                4 * step
            );
        }
        text += &format!("(i32.add (local.get $x) (i32.const {number})))");
    }
    text += "(func (export \"all\") (param i32) (result i32) (local $sum i32)";
    for number in 0..FUNCTIONS {
        text +=
            &format!("(local.set $sum (i32.add (local.get $sum) (call $f{number} (local.get 0))))");
    }
    text += "(local.get $sum)) (table funcref (elem";
    for number in 0..FUNCTIONS {
        text += &format!(" $f{number}");
    }
    text += r#")) (func (export "table") (param i32) (result i32)
            (call_indirect (type $t) (i32.const 0) (local.get 0)))
        (func (export "vector") (param i32) (result i32)
            (i32x4.extract_lane 2 (i32x4.add (i32x4.splat (local.get 0)) (v128.const i32x4 10 20 30 40))))
        (func (export "fault") (param i32) (result i32)
            (i32.div_u (call $f20 (i32.const 0)) (local.get 0))))"#;
    compile(&text)
});

/// A program with much of what only traps, exceptions and backtraces need: each of these sections has chunks of its own.
/// `inner` traps in a function that was copied into it, `catch` catches an exception, `throw` does not,
/// `host` calls the host, and `unreachable` traps.
static LATE_PROGRAM: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let long = "x".repeat(1500);
    let mut text = String::from(
        r#"(module $late (import "host" "f" (func $host)) (tag $t (param i32)) (tag $other)
        (func $divide (param i32 i32) (result i32) (i32.div_u (local.get 0) (local.get 1)))
        (func $throw (export "throw") (param i32) (result i32)
            (if (local.get 0) (then (throw $t (local.get 0)))) (i32.const 0))"#,
    );
    for number in 0..200 {
        text += &format!("(func $f{number}{long} (param i32) (result i32) (local $x i32)");
        for step in 0..150 {
            text += &format!(
                "(local.set $x (i32.add (local.get $x) (call $divide (i32.const {step}) (local.get 0))))"
            );
        }
        for step in 0..60 {
            text += &format!(
                "(block $b (result i32) (try_table (catch $t $b) (drop (call $throw (i32.eq (local.get $x) (i32.const {step}))))) (i32.const 1))
                (local.set $x (i32.add (local.get $x)))"
            );
        }
        text += "(local.get $x))";
    }
    text += &format!(
        r#"(func (export "inner") (param i32) (result i32) (call $f70{long} (local.get 0)))
        (func (export "catch") (param i32) (result i32)
            (block $b (result i32)
                (try_table (result i32) (catch $t $b) (call $throw (local.get 0)))))
        (func (export "host") (param i32) (result i32) (call $host) (i32.const 1))
        (func (export "unreachable") (param i32) (result i32) unreachable))"#
    );
    compile(&text)
});

/// The sections of it that have chunks of their own, and the bytes of these.
fn late_sections() -> [(Section, std::ops::Range<usize>); 4] {
    let sections = [Section::Sites, Section::Inlined, Section::Handlers, Section::Strings];
    let header = Header::of(&LATE_PROGRAM).unwrap();
    let deferred = Deferred::of(header);
    sections.map(|section| {
        let range = header.section(section).within(LATE_PROGRAM.len()).unwrap();
        // Chunks that are this section's alone.
        let chunk = chunk_size(&LATE_PROGRAM);
        let first = range.start.next_multiple_of(chunk);
        let end = range.end / chunk * chunk;
        assert!(first < end, "{section:?} has no chunk of its own");
        assert_eq!(deferred.part(first / chunk), Part::Late);
        (section, first..end)
    })
}

fn trust() -> Trust {
    Trust::digest(Digest::stated_in(&PROGRAM).unwrap())
}

/// The bytes of the chunks of a file that are loaded lazily, of one kind. They lie together.
fn chunks(file: &[u8], part: Part) -> std::ops::Range<usize> {
    let deferred = Deferred::of(Header::of(file).unwrap());
    let is = |found: &Part| *found == part;
    let Some(first) = deferred.parts().iter().position(is) else { return 0..0 };
    let last = deferred.parts().iter().rposition(is).unwrap();
    assert!(deferred.parts()[first..=last].iter().all(is));
    let chunk = chunk_size(file);
    first * chunk..((last + 1) * chunk).min(file.len())
}

/// The chunks of code that are loaded lazily.
fn deferred() -> std::ops::Range<usize> {
    chunks(&PROGRAM, Part::Code)
}

fn start<'code>(store: &mut Store<'code, ()>, artifact: &'code Artifact) -> Instance<'code> {
    Linker::new(&Engine::default()).instantiate(store, artifact).unwrap()
}

fn call(
    store: &mut Store<'_, ()>,
    instance: Instance<'_>,
    name: &str,
    argument: i32,
) -> Result<i32, Error> {
    instance.typed_func::<i32, i32>(store, name)?.call(store, argument)
}

/// What all functions return.
fn results(artifact: &Artifact) -> Vec<i32> {
    let mut store = Store::new(&Engine::default(), ());
    let instance = start(&mut store, artifact);
    let mut results = Vec::new();
    for number in (0..FUNCTIONS).rev() {
        results.push(call(&mut store, instance, &format!("f{number}"), 7).unwrap());
    }
    for name in ["all", "table", "vector"] {
        results.push(call(&mut store, instance, name, 3).unwrap());
    }
    results
}

#[test]
fn it_does_the_same() {
    assert!(
        deferred().len() >= 4 * chunk_size(&PROGRAM),
        "the program has too little code: {:?}",
        deferred()
    );
    let file = ProgramFile::of(&PROGRAM);
    let eager = Artifact::load(file.path(), &trust()).unwrap();
    let lazy = Artifact::load_lazily(file.path(), &trust()).unwrap();
    let (before, all) = lazy.lazy_parts();
    assert_eq!((eager.lazy_parts(), all * chunk_size(&PROGRAM)), ((0, 0), deferred().len()));
    assert!(before <= 1, "only what trampolines share with functions is there from the beginning");
    assert_eq!(results(&lazy), results(&eager));
    assert_eq!(lazy.lazy_parts(), (all, all));
    // From an open file, and from bytes, of which nothing is put off.
    let open = File::open(file.path()).unwrap();
    assert_eq!(results(&Artifact::load_lazily(&open, &trust()).unwrap()), results(&eager));
    let bytes = Artifact::load_lazily(&*PROGRAM, &trust()).unwrap();
    assert_eq!(bytes.lazy_parts(), (0, 0));
}

#[test]
fn only_what_is_called_is_loaded() {
    let file = ProgramFile::of(&PROGRAM);
    let artifact = Artifact::load_lazily(file.path(), &trust()).unwrap();
    let mut store = Store::new(&Engine::default(), ());
    let instance = start(&mut store, &artifact);
    let (before, all) = artifact.lazy_parts();
    call(&mut store, instance, "f3", 1).unwrap();
    let (after, _) = artifact.lazy_parts();
    // Its trampoline, and itself, which may begin and end in different chunks.
    assert!(after > before && after <= before + 4, "{before} {after} {all}");
    artifact.load_rest().unwrap();
    assert_eq!(artifact.lazy_parts(), (all, all));
}

#[test]
fn who_needs_more_code_gets_as_much_as_there_is_already() {
    let file = ProgramFile::of(&PROGRAM);
    let artifact = Artifact::load_lazily(file.path(), &trust()).unwrap();
    let (mut loaded, all) = artifact.lazy_parts();
    let mut store = Store::new(&Engine::default(), ());
    let instance = start(&mut store, &artifact);
    let mut steps = Vec::new();
    for number in 0..FUNCTIONS {
        call(&mut store, instance, &format!("f{number}"), 1).unwrap();
        let (now, _) = artifact.lazy_parts();
        steps.extend(Some(now - loaded).filter(|step| *step != 0));
        loaded = now;
    }
    // A call may fault more than once, but never for more than it may.
    let most = (256 << 10) / chunk_size(&PROGRAM);
    assert!(steps[0] <= 4 && steps.iter().all(|step| *step <= 2 * most), "{steps:?}");
    assert!(steps.iter().any(|step| *step > 4), "{steps:?}");
    // In order, one by one, it would be a fault for nearly each.
    assert!(steps.len() < all / 4, "{steps:?} of {all}");
}

#[test]
fn traps_in_code_that_was_loaded_late_have_their_frames() {
    let file = ProgramFile::of(&PROGRAM);
    let artifact = Artifact::load_lazily(file.path(), &trust()).unwrap();
    let mut store = Store::new(&Engine::default(), ());
    let instance = start(&mut store, &artifact);
    match call(&mut store, instance, "fault", 0) {
        Err(Error::Trap(trap)) => {
            assert_eq!(trap.kind(), cwasm_loader::TrapKind::IntegerDivisionByZero);
            // The last of the functions: `all`, `table` and `vector` stand before it.
            let frames = trap.frames().iter().map(|frame| frame.func_index as usize);
            assert_eq!(frames.collect::<Vec<_>>(), [FUNCTIONS + 3]);
        }
        other => panic!("{other:?}"),
    }
    call(&mut store, instance, "fault", 1).unwrap();
}

#[test]
fn what_was_changed_before_it_was_needed_never_runs() {
    let file = ProgramFile::of(&PROGRAM);
    let artifact = Artifact::load_lazily(file.path(), &trust()).unwrap();
    let mut store = Store::new(&Engine::default(), ());
    let instance = start(&mut store, &artifact);
    let f0 = call(&mut store, instance, "f0", 1).unwrap();
    // Every chunk is changed; those that are there stay what they are.
    for at in deferred().step_by(chunk_size(&PROGRAM)) {
        overwrite(&file.path(), at + 8192, PROGRAM[at + 8192] ^ 1);
    }
    assert_eq!(call(&mut store, instance, "f0", 1).unwrap(), f0);
    for _ in 0..2 {
        match call(&mut store, instance, "all", 1) {
            Err(Error::CodeLost(lost)) => {
                assert!(
                    deferred().start as u64 <= lost.range().start
                        && lost.range().end <= deferred().end as u64
                );
                assert_eq!(lost.frames().last().unwrap().func_index as usize, FUNCTIONS);
                assert!(lost.to_string().contains("was changed"), "{lost}");
            }
            other => panic!("{other:?}"),
        }
        // The store is as usable as after a trap.
        assert_eq!(call(&mut store, instance, "f0", 1).unwrap(), f0);
    }
    assert!(matches!(artifact.load_rest(), Err(LoadError::Changed { .. })));
    // Whole again, it goes on.
    let mut whole = File::options().write(true).open(file.path()).unwrap();
    whole.write_all(&PROGRAM).unwrap();
    let sum = call(&mut store, instance, "all", 1).unwrap();
    let eager = Artifact::load(file.path(), &trust()).unwrap();
    let mut store = Store::new(&Engine::default(), ());
    let instance = start(&mut store, &eager);
    assert_eq!(call(&mut store, instance, "all", 1).unwrap(), sum);
}

#[test]
fn leaves_that_are_read_when_they_are_needed_are_those_that_were_sealed() {
    let tree = Header::of(&PROGRAM).and_then(Header::tree).unwrap();
    let first = deferred().start / tree.chunk_size();
    let parts = Deferred::of(Header::of(&PROGRAM).unwrap());
    assert!(parts.has_branch(first / LEAVES_PER_BRANCH), "no leaves are left for later");
    assert!(!parts.has_branch(tree.branch_count() - 1), "all leaves are left for later");
    // With the chunk, in order that they match; and alone.
    for with_chunk in [true, false] {
        let file = ProgramFile::of(&PROGRAM);
        let artifact = file.lazy();
        let mut store = Store::new(&Engine::default(), ());
        let instance = start(&mut store, &artifact);
        for chunk in first..LEAVES_PER_BRANCH {
            let range = tree.chunk(chunk, PROGRAM.len());
            let mut bytes = PROGRAM[range.clone()].to_vec();
            bytes[100] ^= 1;
            if with_chunk {
                overwrite(&file.path(), range.start + 100, bytes[100]);
            }
            for (at, byte) in tree.leaf(chunk).zip(digest::leaf(&bytes)) {
                overwrite(&file.path(), at, byte);
            }
        }
        for _ in 0..2 {
            assert!(matches!(call(&mut store, instance, "all", 1), Err(Error::CodeLost(_))));
            assert!(matches!(artifact.load_rest(), Err(LoadError::Changed { .. })));
        }
        let refused = Artifact::load(file.path(), &trust());
        assert!(matches!(refused, Err(LoadError::Refused(_))), "{refused:?}");
        file.repair();
        call(&mut store, instance, "all", 1).unwrap();
        artifact.load_rest().unwrap();
    }
}

#[test]
fn leaves_of_code_that_is_not_needed_are_not_read() {
    let tree = Header::of(&PROGRAM).and_then(Header::tree).unwrap();
    let file = ProgramFile::of(&PROGRAM);
    let at = tree.leaf(deferred().start / tree.chunk_size()).start;
    overwrite(&file.path(), at, PROGRAM[at] ^ 1);
    let artifact = file.lazy();
    let mut store = Store::new(&Engine::default(), ());
    let instance = start(&mut store, &artifact);
    assert!(matches!(call(&mut store, instance, "all", 1), Err(Error::CodeLost(_))));
}

#[test]
fn a_file_that_was_cut_is_an_error_and_one_that_was_deleted_is_none() {
    let file = ProgramFile::of(&PROGRAM);
    let kept = Artifact::load_lazily(file.path(), &trust()).unwrap();
    let other = file.path().with_file_name("other");
    fs::write(&other, b"another file").unwrap();
    fs::rename(&other, file.path()).unwrap();
    fs::remove_file(file.path()).unwrap();
    results(&kept);

    let file = ProgramFile::of(&PROGRAM);
    let cut = Artifact::load_lazily(file.path(), &trust()).unwrap();
    File::options().write(true).open(file.path()).unwrap().set_len(100).unwrap();
    let mut store = Store::new(&Engine::default(), ());
    let instance = start(&mut store, &cut);
    assert!(matches!(call(&mut store, instance, "all", 1), Err(Error::CodeLost(_))));
}

#[test]
fn what_is_wrong_from_the_beginning_is_refused() {
    let lazy = deferred();
    for at in [70, 700, TREE_OFFSET + 3, lazy.end + 1] {
        let file = ProgramFile::of(&PROGRAM);
        overwrite(&file.path(), at, PROGRAM[at] ^ 1);
        let result = Artifact::load_lazily(file.path(), &trust());
        assert!(matches!(result, Err(LoadError::Refused(_))), "{at}: {result:?}");
    }
    // A bit of every byte of the front, where a lie would decide what is read.
    let file = ProgramFile::of(&PROGRAM);
    for at in 0..TREE_OFFSET {
        overwrite(&file.path(), at, PROGRAM[at] ^ 1 << (at % 8));
        let result = Artifact::load_lazily(file.path(), &trust());
        assert!(matches!(result, Err(LoadError::Refused(_))), "{at}: {result:?}");
        overwrite(&file.path(), at, PROGRAM[at]);
    }
    let result = Artifact::load_lazily(file.path(), &Trust::digest(Digest([1; 32])));
    assert!(matches!(result, Err(LoadError::Refused(_))));
    for length in (0..PROGRAM.len()).step_by(9973) {
        File::options().write(true).open(file.path()).unwrap().set_len(length as u64).unwrap();
        assert!(Artifact::load_lazily(file.path(), &trust()).is_err(), "{length}");
        fs::write(file.path(), &*PROGRAM).unwrap();
    }
}

#[test]
fn a_section_that_shares_chunks_with_code_is_read_at_once() {
    // Sealed again, so that the digest is right: metadata that lie in the code.
    let sections = HEADER_OFFSET + std::mem::offset_of!(Header, sections);
    for section in Section::ALL.into_iter().filter(|section| *section != Section::Text) {
        let mut bytes = PROGRAM.clone();
        let entry = sections + section as usize * size_of::<SectionRange>();
        let place = [(deferred().start + 4096) as u64, 4096].map(u64::to_le_bytes);
        bytes[entry..entry + size_of::<SectionRange>()].copy_from_slice(&place.concat());
        let digest = reseal(&mut bytes).unwrap();
        let file = ProgramFile::of(&PROGRAM);
        fs::write(file.path(), bytes).unwrap();
        // Whatever it says of it: it says it, and does not crash.
        if let Ok(artifact) = Artifact::load_lazily(file.path(), &Trust::digest(digest)) {
            assert_eq!(artifact.lazy_parts(), (0, 0));
        }
    }
}

#[test]
fn many_threads_need_the_same_code_at_once() {
    let file = ProgramFile::of(&PROGRAM);
    let wanted = results(&Artifact::load(file.path(), &trust()).unwrap());
    for _ in 0..20 {
        let artifact = Artifact::load_lazily(file.path(), &trust()).unwrap();
        let ready = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    ready.fetch_add(1, Ordering::Relaxed);
                    while ready.load(Ordering::Relaxed) < 8 {
                        std::hint::spin_loop();
                    }
                    assert_eq!(results(&artifact), wanted);
                });
            }
        });
        let (loaded, all) = artifact.lazy_parts();
        assert_eq!(loaded, all);
    }
}

#[test]
fn no_page_is_ever_writable_and_executable() {
    let file = ProgramFile::of(&PROGRAM);
    let artifact = Artifact::load_lazily(file.path(), &trust()).unwrap();
    for name in ["f0", "f17", "all"] {
        let mut store = Store::new(&Engine::default(), ());
        let instance = start(&mut store, &artifact);
        call(&mut store, instance, name, 1).unwrap();
        assert!(all_mappings().iter().all(|mapping| !mapping.is_writable_code()));
    }
}

/// Calls a function of [`LATE_PROGRAM`] in a new store; the host does `host`.
fn call_late(
    artifact: &Artifact,
    name: &str,
    argument: i32,
    host: fn() -> Result<(), HostError>,
) -> Result<i32, Error> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    linker.func("host", "f", move |_: Caller<'_, '_, ()>| host()).unwrap();
    let instance = linker.instantiate(&mut store, artifact).unwrap();
    let result = call(&mut store, instance, name, argument);
    // Whatever it was, the store can be used.
    assert_eq!(call(&mut store, instance, "throw", 0).unwrap(), 0);
    result
}

/// What can be seen of how a call ended.
fn seen(result: Result<i32, Error>) -> String {
    let show = |frames: &[Frame]| {
        let show = |frame: &Frame| {
            let Frame { module, func_index, func_name, wasm_offset, .. } = frame;
            format!("{module:?} {func_index} {func_name:?} {wasm_offset:?}")
        };
        frames.iter().map(show).collect::<Vec<_>>().join(", ")
    };
    match result {
        Ok(value) => value.to_string(),
        Err(Error::Trap(trap)) => format!("{:?}: {}", trap.kind(), show(trap.frames())),
        Err(Error::Exception(exception)) => format!("exception: {}", show(exception.frames())),
        Err(Error::CodeLost(_)) => "lost".to_owned(),
        Err(other) => other.to_string(),
    }
}

const LATE_CALLS: [(&str, i32); 7] = [
    ("inner", 0),
    ("inner", 1),
    ("catch", 5),
    ("catch", 0),
    ("throw", 3),
    ("host", 0),
    ("unreachable", 0),
];

fn no_host() -> Result<(), HostError> {
    Err("the host refuses".into())
}

#[test]
fn what_only_traps_need_is_the_same_when_it_is_loaded_late() {
    late_sections();
    let file = ProgramFile::of(&LATE_PROGRAM);
    let digest = Digest::stated_in(&LATE_PROGRAM).unwrap();
    let eager = Artifact::load(file.path(), &Trust::digest(digest)).unwrap();
    for (name, argument) in LATE_CALLS {
        // Each is the first to need anything.
        let lazy = file.lazy();
        let wanted = seen(call_late(&eager, name, argument, no_host));
        assert_eq!(seen(call_late(&lazy, name, argument, no_host)), wanted, "{name}");
        assert_eq!(seen(call_late(&lazy, name, argument, no_host)), wanted, "{name} again");
        lazy.load_rest().unwrap();
        assert_eq!(seen(call_late(&lazy, name, argument, no_host)), wanted, "{name} in the end");
    }
    let inner = seen(call_late(&eager, "inner", 0, no_host));
    assert!(inner.starts_with("IntegerDivisionByZero") && inner.contains("f70xxx"), "{inner}");
    assert_eq!(
        inner.matches("Some(\"late\")").count(),
        3,
        "with the function that was copied: {inner}"
    );
    assert_eq!(seen(call_late(&eager, "catch", 5, no_host)), "5");
}

#[test]
fn a_trap_whose_kind_is_gone_is_lost_and_no_more() {
    for cut in [false, true] {
        let file = ProgramFile::of(&LATE_PROGRAM);
        let artifact = file.lazy();
        // The code is there, and what comes after it is not.
        for (name, argument) in [("inner", 1), ("catch", 0), ("throw", 0)] {
            call_late(&artifact, name, argument, no_host).unwrap();
        }
        let (first, end) = {
            let late = late_sections();
            let starts = late.iter().map(|(_, range)| range.start).min().unwrap();
            (starts, late.iter().map(|(_, range)| range.end).max().unwrap())
        };
        if cut {
            File::options().write(true).open(file.path()).unwrap().set_len(first as u64).unwrap();
        } else {
            for at in (first..end).step_by(chunk_size(&LATE_PROGRAM)) {
                overwrite(&file.path(), at + 50, LATE_PROGRAM[at + 50] ^ 1);
            }
        }
        for _ in 0..2 {
            for (name, argument) in LATE_CALLS {
                let result = call_late(&artifact, name, argument, no_host);
                let wanted = match (name, argument) {
                    ("inner", 1) => seen(call_late(&artifact, name, 1, no_host)),
                    ("catch", 0) => "0".to_owned(),
                    // Why the host stopped is known without.
                    ("host", _) => "the host refuses".to_owned(),
                    _ => "lost".to_owned(),
                };
                assert_eq!(seen(result), wanted, "{name} {argument}");
            }
        }
        // A panic of the host goes on, too.
        let panic = std::panic::catch_unwind(|| {
            call_late(&artifact, "host", 0, || std::panic::panic_any(17))
        });
        assert_eq!(panic.unwrap_err().downcast_ref::<i32>(), Some(&17));
        assert!(matches!(
            artifact.load_rest(),
            Err(LoadError::Changed { .. } | LoadError::Read { .. })
        ));
        // Whole again, it goes on.
        fs::write(file.path(), &*LATE_PROGRAM).unwrap();
        assert_eq!(seen(call_late(&artifact, "catch", 5, no_host)), "5");
        assert!(
            seen(call_late(&artifact, "inner", 0, no_host)).starts_with("IntegerDivisionByZero")
        );
        artifact.load_rest().unwrap();
    }
}

#[test]
fn damage_of_a_section_matters_to_those_who_need_it() {
    for (section, range) in late_sections() {
        let file = ProgramFile::of(&LATE_PROGRAM);
        let artifact = file.lazy();
        call_late(&artifact, "inner", 1, no_host).unwrap();
        call_late(&artifact, "throw", 0, no_host).unwrap();
        for at in range.clone().step_by(chunk_size(&LATE_PROGRAM)) {
            overwrite(&file.path(), at + 77, LATE_PROGRAM[at + 77] ^ 0x80);
        }
        let trap = seen(call_late(&artifact, "inner", 0, no_host));
        let caught = seen(call_late(&artifact, "catch", 9, no_host));
        match section {
            Section::Sites => assert_eq!((&*trap, &*caught), ("lost", "9")),
            Section::Handlers => {
                assert!(trap.starts_with("IntegerDivisionByZero"), "{trap}");
                assert_eq!(caught, "lost");
            }
            // The trap is what it is, and its frames lack something.
            Section::Inlined => {
                assert!(trap.starts_with("IntegerDivisionByZero"), "{trap}");
                assert_eq!(trap.matches("Some(\"late\")").count(), 2, "{trap}");
                assert_eq!(caught, "9");
            }
            _ => {
                assert!(trap.starts_with("IntegerDivisionByZero"), "{trap}");
                assert!(!trap.contains("f70xxx") && trap.contains("None"), "{trap}");
                assert_eq!(caught, "9");
            }
        }
        assert!(matches!(artifact.load_rest(), Err(LoadError::Changed { .. })), "{section:?}");
    }
}

#[test]
fn frames_of_functions_that_cannot_be_told_apart_are_left_out() {
    let mut text = String::from("(module (func (export \"trap\") unreachable)");
    (0..3000)
        .for_each(|number| text += &format!("(func $f{number} (result i32) (i32.const {number}))"));
    let bytes = compile(&(text + ")"));
    let file = ProgramFile::of(&bytes);
    let artifact = file.lazy();
    let trap = || {
        let mut store = Store::new(&Engine::default(), ());
        let instance = start(&mut store, &artifact);
        match instance.typed_func::<(), ()>(&store, "trap").unwrap().call(&mut store, ()) {
            Err(Error::Trap(trap)) => (trap.kind(), trap.frames().len()),
            other => panic!("{other:?}"),
        }
    };
    let functions = Header::of(&bytes).unwrap().section(Section::Functions);
    let functions = functions.within(bytes.len()).unwrap();
    let at = functions.start.next_multiple_of(chunk_size(&bytes));
    assert!(at + chunk_size(&bytes) <= functions.end, "the section has no chunk of its own");
    overwrite(&file.path(), at, bytes[at] ^ 1);
    for _ in 0..2 {
        assert_eq!(trap(), (cwasm_loader::TrapKind::Unreachable, 0));
        assert!(matches!(artifact.load_rest(), Err(LoadError::Changed { .. })));
    }
    file.repair();
    assert_eq!(trap(), (cwasm_loader::TrapKind::Unreachable, 1));
    artifact.load_rest().unwrap();
}

#[test]
fn hostile_metadata_that_were_not_validated_are_harmless() {
    let header = Header::of(&LATE_PROGRAM).unwrap();
    let handlers = header.section(Section::Handlers).within(LATE_PROGRAM.len()).unwrap();
    // Every handler gets a vmctx outside of its frame, no address, or a tag that does not exist; sealed again.
    for (field, value) in [(16, u32::MAX), (4, u32::MAX), (4, 0x7fff_ffff), (8, 77)] {
        let mut bytes = LATE_PROGRAM.clone();
        for record in bytes[handlers.clone()].chunks_exact_mut(20) {
            record[field..field + 4].copy_from_slice(&value.to_le_bytes());
        }
        let trust = Trust::digest(reseal(&mut bytes).unwrap());
        let file = ProgramFile::of(&bytes);
        let refused = Artifact::load(file.path(), &trust);
        assert!(matches!(refused, Err(LoadError::Refused(_))), "{field}: {refused:?}");
        let artifact = Artifact::load_lazily(file.path(), &trust).unwrap();
        let caught = seen(call_late(&artifact, "catch", 9, no_host));
        assert!(caught.starts_with("exception"), "{field}: {caught}");
        assert!(matches!(artifact.load_rest(), Err(LoadError::Refused(_))), "{field}");
    }
    // Names that are no text, or lie outside.
    let functions = header.section(Section::Functions).within(LATE_PROGRAM.len()).unwrap();
    for (offset, length) in [(u32::MAX, 1), (0, u32::MAX), (u32::MAX, u32::MAX), (90_000, 1 << 20)]
    {
        let mut bytes = LATE_PROGRAM.clone();
        for record in bytes[functions.clone()].chunks_exact_mut(16) {
            record[8..12].copy_from_slice(&u32::to_le_bytes(offset));
            record[12..16].copy_from_slice(&u32::to_le_bytes(length));
        }
        let trust = Trust::digest(reseal(&mut bytes).unwrap());
        let file = ProgramFile::of(&bytes);
        assert!(matches!(Artifact::load(file.path(), &trust), Err(LoadError::Refused(_))));
        let artifact = Artifact::load_lazily(file.path(), &trust).unwrap();
        let trap = seen(call_late(&artifact, "inner", 0, no_host));
        assert!(trap.starts_with("IntegerDivisionByZero"), "{trap}");
        assert!(matches!(artifact.load_rest(), Err(LoadError::Refused(_))));
    }
}

#[test]
fn many_threads_trap_for_the_first_time_at_once() {
    let file = ProgramFile::of(&LATE_PROGRAM);
    let wanted =
        LATE_CALLS.map(|(name, argument)| seen(call_late(&file.lazy(), name, argument, no_host)));
    for _ in 0..10 {
        let artifact = file.lazy();
        let ready = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (artifact, wanted, ready) = (&artifact, &wanted, &ready);
                scope.spawn(move || {
                    ready.fetch_add(1, Ordering::Relaxed);
                    while ready.load(Ordering::Relaxed) < 8 {
                        std::hint::spin_loop();
                    }
                    for number in 0..LATE_CALLS.len() {
                        let number = (number + thread) % LATE_CALLS.len();
                        let (name, argument) = LATE_CALLS[number];
                        assert_eq!(
                            seen(call_late(artifact, name, argument, no_host)),
                            wanted[number]
                        );
                    }
                });
            }
        });
    }
    assert!(all_mappings().iter().all(|mapping| !mapping.is_writable_code()));
}
