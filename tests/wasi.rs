//! The official test suite of WASI preview 1, under its own protocol.
//!
//! It lies beside the repository (`../shared/corpora/wasi-testsuite`) or where
//! `CWASM_CORPORA` says; where there is none, the one test says so.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use cwasm_compiler::Settings;
use cwasm_loader::{Engine, Linker, Store};
use cwasm_tests::load;
use cwasm_wasi::{ProcExit, WasiCtx};
use libtest_mimic::{Arguments, Trial};
use serde::Deserialize;

/// What the file beside a test says; `specification.md` of the suite has its meaning.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Specification {
    args: Vec<String>,
    env: BTreeMap<String, String>,
    root: Option<String>,
    exit_code: u32,
    stdout: Option<String>,
    stderr: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let corpora = std::env::var_os("CWASM_CORPORA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora"),
        PathBuf::from,
    );
    let suite = corpora.join("wasi-testsuite");
    let mut trials = Vec::new();
    for language in ["c", "rust", "assemblyscript"] {
        let folder = suite.join(language).join("wasm32-wasip1");
        let files = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<_> =
            files.filter(|file| file.extension().is_some_and(|e| e == "wasm")).collect();
        files.sort();
        for file in files {
            let name = format!("{language}/{}", file.file_stem().unwrap_or_default().display());
            trials.push(Trial::test(name, move || Ok(check(&file)?)));
        }
    }
    if trials.is_empty() {
        println!("skipped: no tests in {}; set CWASM_CORPORA", suite.display());
        trials.push(Trial::test("wasi-testsuite", || Ok(())).with_ignored_flag(true));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn check(test: &Path) -> Result<(), String> {
    let specification: Specification = match fs::read(test.with_extension("json")) {
        Ok(json) => serde_json::from_slice(&json).map_err(|error| error.to_string())?,
        Err(_) => Specification::default(),
    };
    run(test, &specification).map_err(|error| error.to_string())
}

/// Copies a folder, so that the test may write to it.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else if !entry.file_name().as_encoded_bytes().ends_with(b".cleanup") {
            fs::write(&target, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

fn run(test: &Path, specification: &Specification) -> Result<(), Box<dyn std::error::Error>> {
    let settings = Settings { jobs: 1, ..Settings::default() };
    let artifact = load(&cwasm_compiler::compile(&fs::read(test)?, &settings)?);
    let (stdout, stderr) = (Arc::new(Mutex::default()), Arc::new(Mutex::default()));
    let folder = tempfile::tempdir()?;
    let mut wasi = WasiCtx::builder();
    wasi.arg(test.file_name().unwrap_or_default().as_encoded_bytes());
    wasi.args(&specification.args);
    for (name, value) in &specification.env {
        wasi.env(name, value);
    }
    wasi.capture_stdout(Arc::clone(&stdout)).capture_stderr(Arc::clone(&stderr));
    if let Some(root) = &specification.root {
        copy(&test.with_file_name(root), folder.path())?;
        wasi.preopened_dir(folder.path(), "/");
    }
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    cwasm_wasi::add_to_linker(&mut linker, |wasi: &mut WasiCtx| wasi)?;
    let mut store = Store::new(&engine, wasi.build()?);
    let instance = linker.instantiate(&mut store, &artifact)?;
    let result = instance.typed_func::<(), ()>(&store, "_start")?.call(&mut store, ());
    drop(store);
    let text = |buffer: &Mutex<Vec<u8>>| {
        let bytes = std::mem::take(&mut *buffer.lock().unwrap_or_else(PoisonError::into_inner));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    let code = match &result {
        Ok(()) => 0,
        Err(error) => match error.downcast_host::<ProcExit>() {
            Some(exit) => exit.0,
            None => return Err(format!("{error}\n{stdout}{stderr}").into()),
        },
    };
    if code != specification.exit_code {
        return Err(format!("it exited with {code}\n{stdout}{stderr}").into());
    }
    for (stream, wanted, found) in
        [("stdout", &specification.stdout, stdout), ("stderr", &specification.stderr, stderr)]
    {
        if wanted.as_ref().is_some_and(|wanted| *wanted != found) {
            return Err(format!("{stream} is {found:?}, not {wanted:?}").into());
        }
    }
    Ok(())
}
