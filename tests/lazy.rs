//! Code that is loaded when it is needed: it does the same, costs nothing before, and what was changed
//! meanwhile never runs.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use cwasm_artifact::builder::reseal;
use cwasm_artifact::check::Deferred;
use cwasm_artifact::header::{
    CHUNK_SIZE, HEADER_OFFSET, Header, LEAVES_OFFSET, Section, SectionRange,
};
use cwasm_loader::{Artifact, Digest, Engine, Error, Instance, Linker, LoadError, Store, Trust};
use cwasm_tests::compile;
use cwasm_tests::fault::process::all_mappings;

/// How many large functions the program has.
const FUNCTIONS: usize = 40;

/// A program with much code: each function `f<n>` adds up many products, and returns a number that depends on `n`.
/// `all` calls them all, `table` one by its number, `vector` uses constants that lie behind code, and `fault` traps far inside.
static PROGRAM: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut text = String::from("(module (memory 1) (type $t (func (param i32) (result i32)))");
    for number in 0..FUNCTIONS {
        text += &format!("(func $f{number} (export \"f{number}\") (type $t) (local $x i32)");
        for step in 0..500 {
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

/// The program in a file.
struct Program {
    folder: tempfile::TempDir,
}

impl Program {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("program.cwasm"), &*PROGRAM).unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("program.cwasm")
    }
}

fn trust() -> Trust {
    Trust::digest(Digest::stated_in(&PROGRAM).unwrap())
}

/// The bytes of the file that are loaded lazily.
fn deferred() -> std::ops::Range<usize> {
    let leaves = Deferred::of(Header::of(&PROGRAM).unwrap()).code;
    leaves.start * CHUNK_SIZE..leaves.end * CHUNK_SIZE
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

fn write(path: &Path, at: usize, byte: u8) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(&[byte]).unwrap();
}

fn overwrite(path: &Path, at: usize) {
    write(path, at, PROGRAM[at] ^ 1);
}

#[test]
fn it_does_the_same() {
    assert!(
        deferred().len() >= 4 * CHUNK_SIZE,
        "the program has too little code: {:?}",
        deferred()
    );
    let file = Program::new();
    let eager = Artifact::load(file.path(), &trust()).unwrap();
    let lazy = Artifact::load_lazily(file.path(), &trust()).unwrap();
    let (before, all) = lazy.lazy_parts();
    assert_eq!((eager.lazy_parts(), all * CHUNK_SIZE), ((0, 0), deferred().len()));
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
    let file = Program::new();
    let artifact = Artifact::load_lazily(file.path(), &trust()).unwrap();
    let mut store = Store::new(&Engine::default(), ());
    let instance = start(&mut store, &artifact);
    let (before, all) = artifact.lazy_parts();
    call(&mut store, instance, "f3", 1).unwrap();
    let (after, _) = artifact.lazy_parts();
    assert!(after > before && after <= before + 2, "{before} {after} {all}");
    artifact.load_rest().unwrap();
    assert_eq!(artifact.lazy_parts(), (all, all));
}

#[test]
fn traps_in_code_that_was_loaded_late_have_their_frames() {
    let file = Program::new();
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
    let file = Program::new();
    let artifact = Artifact::load_lazily(file.path(), &trust()).unwrap();
    let mut store = Store::new(&Engine::default(), ());
    let instance = start(&mut store, &artifact);
    let f0 = call(&mut store, instance, "f0", 1).unwrap();
    // Every chunk is changed; those that are there stay what they are.
    for at in deferred().step_by(CHUNK_SIZE) {
        overwrite(&file.path(), at + 100);
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
fn a_file_that_was_cut_is_an_error_and_one_that_was_deleted_is_none() {
    let file = Program::new();
    let kept = Artifact::load_lazily(file.path(), &trust()).unwrap();
    let other = file.folder.path().join("other");
    fs::write(&other, b"another file").unwrap();
    fs::rename(&other, file.path()).unwrap();
    fs::remove_file(file.path()).unwrap();
    results(&kept);

    let file = Program::new();
    let cut = Artifact::load_lazily(file.path(), &trust()).unwrap();
    File::options().write(true).open(file.path()).unwrap().set_len(100).unwrap();
    let mut store = Store::new(&Engine::default(), ());
    let instance = start(&mut store, &cut);
    assert!(matches!(call(&mut store, instance, "all", 1), Err(Error::CodeLost(_))));
}

#[test]
fn what_is_wrong_from_the_beginning_is_refused() {
    let lazy = deferred();
    for at in [70, 700, lazy.start - 1, lazy.end + 1] {
        let file = Program::new();
        overwrite(&file.path(), at);
        let result = Artifact::load_lazily(file.path(), &trust());
        assert!(matches!(result, Err(LoadError::Refused(_))), "{at}: {result:?}");
    }
    // A bit of every byte of the front, where a lie would decide what is read.
    let file = Program::new();
    for at in 0..LEAVES_OFFSET {
        write(&file.path(), at, PROGRAM[at] ^ 1 << (at % 8));
        let result = Artifact::load_lazily(file.path(), &trust());
        assert!(matches!(result, Err(LoadError::Refused(_))), "{at}: {result:?}");
        write(&file.path(), at, PROGRAM[at]);
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
        let file = Program::new();
        fs::write(file.path(), bytes).unwrap();
        // Whatever it says of it: it says it, and does not crash.
        if let Ok(artifact) = Artifact::load_lazily(file.path(), &Trust::digest(digest)) {
            assert_eq!(artifact.lazy_parts(), (0, 0));
        }
    }
}

#[test]
fn many_threads_need_the_same_code_at_once() {
    let file = Program::new();
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
    let file = Program::new();
    let artifact = Artifact::load_lazily(file.path(), &trust()).unwrap();
    for name in ["f0", "f17", "all"] {
        let mut store = Store::new(&Engine::default(), ());
        let instance = start(&mut store, &artifact);
        call(&mut store, instance, name, 1).unwrap();
        assert!(all_mappings().iter().all(|mapping| !mapping.is_writable_code()));
    }
}
