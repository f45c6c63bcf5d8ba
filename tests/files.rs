//! Files that change while code from them runs, and sources that are no files.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cwasm_loader::{Artifact, Caller, Digest, Engine, Linker, LoadError, Store, Trust};
use cwasm_tests::compile;
use cwasm_tests::fault::child;
use cwasm_tests::fault::mutants::ARTIFACT;

/// Asks the host before every turn of its loop, and reads a large image of its
/// memory, most of which nothing has touched before.
fn program() -> Vec<u8> {
    compile(&format!(
        r#"(module
            (import "host" "tick" (func $tick (param i32)))
            (memory 8)
            (data (i32.const 0) "{}")
            (func $step (param $i i32) (result i64)
                (call $tick (local.get $i))
                (i64.load8_u (i32.mul (local.get $i) (i32.const 1000))))
            (func $unused (param f64) (result f64) (f64.sqrt (f64.nearest (local.get 0))))
            (func (export "run") (param $turns i32) (result i64)
                (local $i i32) (local $sum i64)
                (loop $again
                    (local.set $sum (i64.add (local.get $sum) (call $step (local.get $i))))
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br_if $again (i32.lt_u (local.get $i) (local.get $turns))))
                (local.get $sum)))"#,
        "abcdefghij".repeat(40_000)
    ))
}

const TURNS: i32 = 390;

/// Every thousandth byte is an `a`.
const SUM: i64 = 390 * 97;

/// Runs a program from a file; `harm` is done to the file in the middle of it.
fn runs_through(harm: impl Fn(&Path) + Send + Sync) {
    let bytes = program();
    let trust = Trust::digest(Digest::stated_in(&bytes).unwrap());
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("dir");
    fs::create_dir(&dir).unwrap();
    let path = dir.join("program.cwasm");
    fs::write(&path, &bytes).unwrap();
    let code = Artifact::load(&path, &trust).unwrap();
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    let tick = |_: Caller<'_, '_, ()>, turn: i32| {
        if turn == 3 {
            harm(&path);
        }
    };
    linker.func("host", "tick", tick).unwrap();
    // Before, during and after the harm; the image is first used after it.
    for _ in 0..3 {
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &code).unwrap();
        let run = instance.typed_func::<i32, i64>(&store, "run").unwrap();
        assert_eq!(run.call(&mut store, TURNS).unwrap(), SUM);
    }
}

#[test]
fn code_runs_on_when_its_file_is_overwritten_in_place() {
    runs_through(|path| {
        let length = fs::metadata(path).unwrap().len();
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        // Breakpoints, wherever they would be reached.
        file.write_all(&vec![0xcc; usize::try_from(length).unwrap()]).unwrap();
        file.sync_all().unwrap();
    });
}

#[test]
fn code_runs_on_when_its_file_is_truncated() {
    runs_through(|path| {
        OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
    });
}

#[test]
fn code_runs_on_when_its_file_is_replaced() {
    runs_through(|path| {
        let other = path.with_extension("new");
        fs::write(&other, b"something else").unwrap();
        fs::rename(&other, path).unwrap();
    });
}

#[test]
fn code_runs_on_when_its_file_is_deleted() {
    runs_through(|path| {
        if path.exists() {
            fs::remove_file(path).unwrap();
        }
    });
}

#[test]
fn code_runs_on_when_its_directory_is_removed() {
    runs_through(|path| {
        let dir = path.parent().unwrap();
        if dir.exists() {
            fs::remove_dir_all(dir).unwrap();
        }
    });
}

fn trust() -> Trust {
    Trust::digest(Digest::stated_in(&ARTIFACT).unwrap())
}

/// Loads what must not load, and not take long about it.
fn refused(path: &Path) -> LoadError {
    let path = path.to_owned();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(Artifact::load(path, &trust()).map(drop)));
    let result = receive.recv_timeout(Duration::from_secs(20)).expect("loading hangs");
    result.expect_err("it must not load")
}

fn is_not_a_file(path: &Path, wanted: &str) {
    match refused(path) {
        LoadError::NotAFile { found, .. } => assert_eq!(found, wanted, "{}", path.display()),
        error => panic!("{}: {error}", path.display()),
    }
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    is_not_a_file(dir.path(), "a directory");
    is_not_a_file(Path::new("/dev/zero"), "a device");
    is_not_a_file(Path::new("/dev/null"), "a device");
    let socket = dir.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    is_not_a_file(&socket, "a socket");
    let pipe = dir.path().join("pipe");
    let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
    // SAFETY: the name is a C string that lives during the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    is_not_a_file(&pipe, "a named pipe");
    // Links lead to the same answers, or nowhere.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&pipe, &link).unwrap();
    is_not_a_file(&link, "a named pipe");
    let around = dir.path().join("around");
    std::os::unix::fs::symlink(&around, &around).unwrap();
    assert!(matches!(refused(&around), LoadError::Read { .. }));
    assert!(matches!(refused(&dir.path().join("absent")), LoadError::Read { .. }));
}

#[test]
fn files_of_the_kernel_that_state_no_length_are_refused() {
    for path in ["/proc/self/maps", "/proc/self/mem", "/proc/self/pagemap"] {
        let error = refused(Path::new(path));
        let refused = matches!(
            error,
            LoadError::Changed { .. } | LoadError::Refused(_) | LoadError::Read { .. }
        );
        assert!(refused, "{path}: {error}");
    }
}

#[test]
fn an_empty_file_is_refused_as_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty.cwasm");
    File::create(&path).unwrap();
    assert!(refused(&path).to_string().contains("empty"));
}

#[test]
fn a_huge_file_without_contents_is_refused_at_once() {
    // Eight tebibytes of nothing, with and without the front of an artifact.
    for front in [&[][..], &ARTIFACT[..4096]] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huge.cwasm");
        let mut file = File::create(&path).unwrap();
        file.write_all(front).unwrap();
        if let Err(error) = file.set_len(8 << 40) {
            eprintln!("skipped: no file here can be this large: {error}");
            return;
        }
        let error = refused(&path);
        assert!(matches!(error, LoadError::Refused(_)), "{error}");
    }
}

#[test]
fn a_file_without_permission_is_a_read_error() {
    child::run("a_file_without_permission_is_a_read_error", || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret.cwasm");
        fs::write(&path, &*ARTIFACT).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Root may read everything, so it acts as somebody else for a while. Others cannot do that,
        // and need not.
        //
        // SAFETY: the calls change whom this process acts as, which is a child for this test.
        let user = unsafe { libc::geteuid() };
        // SAFETY: as above.
        unsafe { libc::seteuid(12345) };
        let error = refused(&path);
        // SAFETY: as above.
        unsafe { libc::seteuid(user) };
        match error {
            LoadError::Read { source, path: named } => {
                assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
                assert_eq!(named, path);
            }
            error => panic!("{error}"),
        }
    })
    .well();
}

/// Loads again and again while `change` works on the file. Returns how often it loaded.
fn while_changing(change: impl Fn(&Path, &[u8]) + Send + Sync) -> (usize, usize) {
    let bytes = program();
    let trust = Trust::digest(Digest::stated_in(&bytes).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("changing.cwasm");
    fs::write(&path, &bytes).unwrap();
    let done = AtomicBool::new(false);
    let results = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                change(&path, &bytes);
            }
        });
        let begin = Instant::now();
        let mut results = Vec::new();
        while begin.elapsed() < Duration::from_millis(700) {
            results.push(Artifact::load(&path, &trust).map(|code| code.digest()));
        }
        done.store(true, Ordering::Relaxed);
        results
    });
    let count = results.len();
    let mut loaded = 0;
    for result in results {
        match result {
            Ok(digest) => {
                assert_eq!(Trust::digest(digest), trust);
                loaded += 1;
            }
            Err(LoadError::Changed { .. } | LoadError::Refused(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    (loaded, count)
}

#[test]
fn a_file_that_grows_and_shrinks_loads_whole_or_not_at_all() {
    let (loaded, count) = while_changing(|path, bytes| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(bytes.len() as u64 / 2).unwrap();
        file.set_len(bytes.len() as u64 * 2).unwrap();
        drop(file);
        fs::write(path, bytes).unwrap();
    });
    assert!(count > loaded, "the changes were seen: {loaded} of {count} loaded");
}

#[test]
fn a_file_that_is_rewritten_in_place_loads_whole_or_not_at_all() {
    let (loaded, count) = while_changing(|path, bytes| {
        use std::os::unix::fs::FileExt as _;
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let middle = bytes.len() as u64 / 2;
        file.write_all_at(&[0x90; 64], middle).unwrap();
        std::thread::sleep(Duration::from_micros(200));
        file.write_all_at(&bytes[bytes.len() / 2..][..64], middle).unwrap();
        std::thread::sleep(Duration::from_micros(500));
    });
    assert!(count > loaded && loaded > 0, "{loaded} of {count} loaded");
}

#[test]
fn a_file_that_is_replaced_by_rename_always_loads() {
    let (loaded, count) = while_changing(|path, bytes| {
        let other = path.with_extension("new");
        fs::write(&other, bytes).unwrap();
        fs::rename(&other, path).unwrap();
    });
    assert_eq!(loaded, count);
}

#[test]
fn a_file_that_becomes_a_pipe_never_makes_loading_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program.cwasm");
    let pipe = dir.path().join("pipe");
    let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let other = path.with_extension("new");
                fs::write(&other, &*ARTIFACT).unwrap();
                fs::rename(&other, &path).unwrap();
                // SAFETY: the name is a C string that lives during the call.
                assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
                fs::rename(&pipe, &path).unwrap();
            }
        });
        let (send, receive) = std::sync::mpsc::channel();
        let loads = path.clone();
        std::thread::spawn(move || {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(700) {
                let _ = Artifact::load(&loads, &trust());
            }
            send.send(())
        });
        let ended = receive.recv_timeout(Duration::from_secs(20));
        done.store(true, Ordering::Relaxed);
        ended.expect("loading waits for somebody to write to a pipe");
    });
}
