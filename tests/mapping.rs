//! How artifacts are mapped: a private copy, or the file itself, shared between
//! processes. No page is ever writable and executable.

use std::fs;
use std::path::{Path, PathBuf};

use cwasm_artifact::builder::reseal;
use cwasm_artifact::header::HEADER_OFFSET;
use cwasm_loader::{Artifact, CacheDir, Digest, Engine, Linker, LoadError, Problem, Store, Trust};
use cwasm_tests::compile;
use cwasm_tests::fault::{child, process};
use cwasm_tests::signing::Key;

const PROGRAM: &str = r#"(module
    (memory 8)
    (table 1 funcref) (elem (i32.const 0) $load)
    (func $load (param i32) (result i32) (i32.load8_u (local.get 0)))
    (func (export "load") (param i32) (result i32)
        (call_indirect (param i32) (result i32) (local.get 0) (i32.const 0)))
    (data (i32.const 0) "DATA"))"#;

/// The file of a program, in a folder of its own.
struct Program {
    _folder: tempfile::TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Program {
    fn new() -> Self {
        let data = "abcdefgh".repeat(30_000);
        let bytes = compile(&PROGRAM.replace("DATA", &data));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program.cwasm");
        fs::write(&path, &bytes).unwrap();
        Self { _folder: folder, path, bytes }
    }

    fn trust(&self) -> Trust {
        Trust::digest(Digest::stated_in(&self.bytes).unwrap())
    }

    /// The file with a change, under another name.
    fn changed(&self, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let mut bytes = self.bytes.clone();
        change(&mut bytes);
        let path = self.path.with_extension("changed");
        // A new file, since the old one may be mapped.
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn map(path: &Path, trust: &Trust) -> Result<Artifact, LoadError> {
    // SAFETY: the file belongs to one test, which does not change it while it is mapped.
    unsafe { Artifact::map_shared(path, trust) }
}

fn map_unchecked(path: &Path) -> Result<Artifact, LoadError> {
    // SAFETY: as above. What tests change in the file is not code.
    unsafe { Artifact::map_shared_unchecked(path) }
}

/// Runs the program, and looks at the mappings of the process while it exists.
fn runs(code: &Artifact) -> Vec<process::Mapping> {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, code).unwrap();
    let load = instance.typed_func::<i32, i32>(&store, "load").unwrap();
    for (address, wanted) in [(0, b'a'), (200_007, b'h'), (300_000, 0)] {
        assert_eq!(load.call(&mut store, address).unwrap(), i32::from(wanted));
    }
    assert!(load.call(&mut store, -1).unwrap_err().trap().is_some());
    let mappings = process::all_mappings();
    assert!(!mappings.iter().any(process::Mapping::is_writable_code), "{mappings:?}");
    mappings
}

/// The rights of the mappings of a file.
fn rights<'a>(mappings: &'a [process::Mapping], path: &Path) -> Vec<&'a str> {
    let name = path.to_str().unwrap();
    let of_file = mappings.iter().filter(|mapping| mapping.name == name);
    of_file.map(|mapping| mapping.rights.as_str()).collect()
}

#[test]
fn a_copy_does_not_hold_on_to_the_file() {
    child::run("a_copy_does_not_hold_on_to_the_file", || {
        let program = Program::new();
        let code = Artifact::load(&program.path, &program.trust()).unwrap();
        let mappings = runs(&code);
        assert_eq!(rights(&mappings, &program.path), [""; 0]);
        assert_eq!(process::anonymous_code_mappings(), 1);
    })
    .well();
}

#[test]
fn a_shared_mapping_is_one_of_the_file_and_its_code_is_read_only() {
    child::run("a_shared_mapping_is_one_of_the_file_and_its_code_is_read_only", || {
        let program = Program::new();
        for checked in [true, false] {
            let path = &program.path;
            let code = if checked { map(path, &program.trust()) } else { map_unchecked(path) };
            let code = code.unwrap();
            assert_eq!(Some(code.digest()), Digest::stated_in(&program.bytes));
            let mappings = runs(&code);
            let rights = rights(&mappings, &program.path);
            assert!(rights.contains(&"r-xp"), "{rights:?}");
            assert!(rights.iter().all(|rights| ["r-xp", "r--p"].contains(rights)), "{rights:?}");
            // No copy of the code.
            assert_eq!(process::anonymous_code_mappings(), 0);
            drop(code);
            let mappings = process::all_mappings();
            assert!(!mappings.iter().any(|mapping| Path::new(&mapping.name) == program.path));
        }
    })
    .well();
}

#[test]
fn an_open_file_can_be_mapped_and_its_name_does_not_matter() {
    let program = Program::new();
    let file = fs::File::open(&program.path).unwrap();
    // SAFETY: nobody writes to the file, which this test alone knows.
    let code = unsafe { Artifact::map_shared(&file, &program.trust()) }.unwrap();
    drop(file);
    fs::write(program.path.with_extension("new"), b"something else").unwrap();
    fs::rename(program.path.with_extension("new"), &program.path).unwrap();
    runs(&code);
    fs::remove_file(&program.path).unwrap();
    runs(&code);
}

#[test]
fn a_shared_mapping_needs_a_reason_like_a_copy() {
    let program = Program::new();
    let signed = program.changed(|bytes| *bytes = Key::new(1).sign(bytes));
    runs(&map(&signed, &Trust::keys([Key::new(1).public()])).unwrap());
    let kinds = |result: Result<Artifact, LoadError>| match result {
        Err(LoadError::Refused(report)) => {
            report.problems().iter().map(Problem::kind).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(kinds(map(&signed, &Trust::keys([Key::new(2).public()]))), ["untrusted"]);
    assert_eq!(kinds(map(&program.path, &Trust::digest(Digest([0; 32])))), ["untrusted"]);
    let damaged = program.changed(|bytes| *bytes.last_mut().unwrap() ^= 1);
    assert_eq!(kinds(map(&damaged, &program.trust())), ["corrupt"]);
    let cut = program.changed(|bytes| bytes.truncate(9000));
    assert_eq!(kinds(map(&cut, &program.trust()))[0], "truncated");
    let longer = program.changed(|bytes| bytes.push(0));
    assert_eq!(kinds(map(&longer, &program.trust())), ["trailing-bytes"]);
    let dir = program.path.parent().unwrap();
    let cache = Trust::cache(&CacheDir::open(dir).unwrap());
    runs(&map(Path::new("program.cwasm"), &cache).unwrap());
    // SAFETY: nothing is mapped.
    match unsafe { Artifact::map_shared(&program.bytes, &program.trust()) } {
        Err(error) => assert_eq!(error.to_string(), "the source is memory, not a file"),
        Ok(_) => panic!("memory was mapped"),
    }
}

#[test]
fn an_unchecked_mapping_still_looks_at_the_header_and_the_metadata() {
    let program = Program::new();
    // What only the digest would notice: a byte behind everything that is loaded.
    let damaged = program.changed(|bytes| *bytes.last_mut().unwrap() ^= 1);
    runs(&map_unchecked(&damaged).unwrap());
    let refused = |change: &dyn Fn(&mut Vec<u8>), wanted: &str| {
        let path = program.changed(|bytes| {
            change(bytes);
            let _ = reseal(bytes);
        });
        match map_unchecked(&path) {
            Err(LoadError::Refused(report)) => {
                let text = report.to_string();
                assert!(text.contains(wanted), "{wanted}: {text}");
            }
            other => panic!("{wanted}: {other:?}"),
        }
    };
    refused(&|bytes| bytes[0] = 0, "not a cwasm artifact");
    refused(&Vec::clear, "not a cwasm artifact: the file is empty");
    refused(&|bytes| bytes.truncate(1000), "truncated");
    refused(&|bytes| bytes.truncate(9000), "truncated: it has 9000 of");
    refused(&|bytes| bytes.push(0), "should end after");
    refused(&|bytes| bytes[HEADER_OFFSET + 8] = 1, "in format 1");
    refused(&|bytes| bytes[HEADER_OFFSET + 16] ^= 1, "for ABI");
    refused(&|bytes| bytes[HEADER_OFFSET + 80] = b'y', "built for y86_64");
    refused(&|bytes| bytes[HEADER_OFFSET + 151] = 0x80, "feature 63");
    refused(&|bytes| bytes[HEADER_OFFSET + 175] = 0x80, "settings that this loader does not know");
    // More leaves than the file has bytes.
    refused(&|bytes| bytes[HEADER_OFFSET + 238] = 0xff, "corrupt: the header");
    // The place of the module record, which is metadata.
    refused(&|bytes| bytes[HEADER_OFFSET + 240 + 16] ^= 1, "invalid: ");
    // SAFETY: nothing is mapped.
    let result = unsafe { Artifact::map_shared_unchecked(&program.bytes) };
    assert!(matches!(result, Err(LoadError::NotAFile { .. })));
    assert!(matches!(map_unchecked(Path::new("/dev/zero")), Err(LoadError::NotAFile { .. })));
}
