//! Real programs, compiled and run: their output must be what is expected, byte
//! for byte but for white space at the end.
//!
//! The programs are those of the sightglass benchmark suite. They lie beside
//! the repository (`../shared/corpora/sightglass`) or where `CWASM_CORPORA` says;
//! where there are none, the one test says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use cwasm_compiler::{OptLevel, Settings};
use cwasm_loader::{Caller, Engine, Error, Linker, Store};
use cwasm_tests::load;
use cwasm_wasi::{ProcExit, WasiCtx};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let corpora = std::env::var_os("CWASM_CORPORA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora"),
        PathBuf::from,
    );
    let root = corpora.join("sightglass");
    let trials = if root.is_dir() {
        programs(&root).into_iter().map(trial).collect()
    } else {
        println!("skipped: no programs in {}; set CWASM_CORPORA", root.display());
        vec![Trial::test("sightglass", || Ok(())).with_ignored_flag(true)]
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Every program, sorted.
fn programs(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    found.sort();
    found
}

fn trial(program: PathBuf) -> Trial {
    let folder = program.parent().and_then(Path::file_name).unwrap_or_default();
    let stem = program.file_stem().unwrap_or_default();
    let name = format!("sightglass/{}/{}", folder.display(), stem.display());
    Trial::test(name, move || check(&program))
}

fn check(program: &Path) -> Result<(), Failed> {
    for opt_level in [OptLevel::Speed, OptLevel::SpeedAndSize] {
        check_at(program, opt_level)?;
    }
    Ok(())
}

fn check_at(program: &Path, opt_level: OptLevel) -> Result<(), Failed> {
    let output = run(program, opt_level).map_err(|error| Failed::from(error.to_string()))?;
    if output.code != 0 {
        return Err(format!("it exited with {}", output.code).into());
    }
    for (stream, found) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let Some(wanted) = expected(program, stream) else { continue };
        let wanted = wanted.trim_ascii_end();
        if found.trim_ascii_end() != wanted {
            return Err(format!(
                "{stream} differs: expected {} bytes, {:?}; found {} bytes, {:?}",
                wanted.len(),
                String::from_utf8_lossy(&wanted[..wanted.len().min(200)]),
                found.len(),
                String::from_utf8_lossy(&found[..found.len().min(200)]),
            )
            .into());
        }
    }
    Ok(())
}

/// `NAME.stdout.expected`, else `default.stdout.expected`.
fn expected(program: &Path, stream: &str) -> Option<Vec<u8>> {
    fs::read(program.with_extension(format!("{stream}.expected")))
        .or_else(|_| fs::read(program.with_file_name(format!("default.{stream}.expected"))))
        .ok()
}

struct Output {
    code: u32,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn run(program: &Path, opt_level: OptLevel) -> Result<Output, Box<dyn std::error::Error>> {
    let wasm = fs::read(program)?;
    let settings = Settings { jobs: 1, opt_level, ..Settings::default() };
    let artifact = load(&cwasm_compiler::compile(&wasm, &settings)?);
    let (stdout, stderr) = (Arc::new(Mutex::default()), Arc::new(Mutex::default()));
    let wasi = WasiCtx::builder()
        .arg(program.file_name().unwrap_or_default().as_encoded_bytes())
        .capture_stdout(Arc::clone(&stdout))
        .capture_stderr(Arc::clone(&stderr))
        .preopened_dir(program.parent().unwrap_or(Path::new(".")), ".")
        .build()?;
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    cwasm_wasi::add_to_linker(&mut linker, |wasi: &mut WasiCtx| wasi)?;
    linker.func("bench", "start", |_: Caller<'_, '_, WasiCtx>| {})?;
    linker.func("bench", "end", |_: Caller<'_, '_, WasiCtx>| {})?;
    let mut store = Store::new(&engine, wasi);
    let instance = linker.instantiate(&mut store, &artifact)?;
    let start = instance.typed_func::<(), ()>(&store, "_start")?;
    let code = match start.call(&mut store, ()) {
        Ok(()) => 0,
        Err(error) => match error.downcast_host::<ProcExit>() {
            Some(exit) => exit.0,
            None => {
                return Err(match error {
                    Error::Trap(trap) => trap.to_string().into(),
                    other => other.into(),
                });
            }
        },
    };
    drop(store);
    let take = |buffer: &Mutex<Vec<u8>>| {
        std::mem::take(&mut *buffer.lock().unwrap_or_else(PoisonError::into_inner))
    };
    Ok(Output { code, stdout: take(&stdout), stderr: take(&stderr) })
}
