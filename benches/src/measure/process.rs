//! The commands as processes: how long `cwasm run hello.cwasm` and `cwasm compile` take, and what they hold.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::child;
use crate::clock::{Clock, Samples};
use crate::corpus;
use crate::report::{Report, Row, Unit};
use crate::{Options, Result};

pub const HELLO: &str = include_str!("../../kernels/hello.wat");

/// A command that can be found: by an environment variable, beside the workspace, or in `PATH`.
pub fn find(variable: &str, name: &str, places: &[&str]) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = places.iter().map(|place| Path::new(env!("CARGO_MANIFEST_DIR")).join(place));
    named
        .into_iter()
        .chain(places)
        .chain(std::env::split_paths(&path).map(|folder| folder.join(name)))
        .find(|file| file.is_file())
}

/// What a process used.
pub struct Usage {
    pub wall: f64,
    /// User and system time.
    pub cpu: f64,
}

/// Runs a command to its end, without output.
pub fn usage(command: &mut Command) -> Result<Usage> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Clock::Wall.now();
    let child = command.spawn()?;
    let mut status = 0;
    // SAFETY: zero is a valid value of the structure, and both are valid during the call.
    let (waited, used) = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        (libc::wait4(child.id() as libc::pid_t, &mut status, 0, &mut used), used)
    };
    let wall = Clock::Wall.now() - start;
    if waited < 0 || status != 0 {
        return Err(format!("{command:?} ended with {status}").into());
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    Ok(Usage { wall, cpu: seconds(used.ru_utime) + seconds(used.ru_stime) })
}

/// Runs a command to its end, without output; returns how many bytes of memory it held at
/// most. What the kernel reports of a child that has ended includes what this process
/// held when it made the child, so the command is stopped when it is about to end and looked at.
fn peak_memory(mut command: Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: `ptrace` may be called between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let child = command.spawn()?;
    let pid = child.id() as libc::pid_t;
    let mut peak = None;
    let mut asked = false;
    loop {
        let mut status = 0;
        // SAFETY: the status is valid during the call.
        if unsafe { libc::waitpid(pid, &mut status, 0) } < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        if !libc::WIFSTOPPED(status) {
            return peak.ok_or_else(|| format!("{command:?} ended with {status}").into());
        }
        let mut signal = libc::WSTOPSIG(status);
        if !asked {
            // SAFETY: the child is stopped; the call only changes how it is traced.
            unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, libc::PTRACE_O_TRACEEXIT) };
            asked = true;
            signal = 0;
        } else if status >> 8 == libc::SIGTRAP | libc::PTRACE_EVENT_EXIT << 8 {
            peak = Some(child::status_of(&pid.to_string(), "VmHWM")?);
            signal = 0;
        }
        // SAFETY: the child is stopped, and goes on with the signal that stopped it.
        unsafe { libc::ptrace(libc::PTRACE_CONT, pid, 0, signal) };
    }
}

/// Copies a command, as installing does. The pages of a file that a linker has just written lie one by one in the
/// system's cache, those of a copy in larger pieces, which take fewer faults: both commands have to be treated alike.
fn installed(command: &Path, copy: &Path) -> Result<PathBuf> {
    std::fs::copy(command, copy)?;
    Ok(copy.to_owned())
}

/// Both commands by turns.
fn pairs(
    rounds: usize,
    mut ours: impl FnMut() -> Command,
    mut theirs: impl FnMut() -> Command,
) -> Result<(Vec<Usage>, Vec<Usage>)> {
    usage(&mut ours())?;
    usage(&mut theirs())?;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        a.push(usage(&mut ours())?);
        b.push(usage(&mut theirs())?);
    }
    Ok((a, b))
}

fn pick(all: &(Vec<Usage>, Vec<Usage>), get: fn(&Usage) -> f64) -> (Samples, Samples) {
    (Samples(all.0.iter().map(get).collect()), Samples(all.1.iter().map(get).collect()))
}

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let Some(cwasm) = find("CWASM", "cwasm", &["../target/release/cwasm"]) else {
        report.note("process: skipped, there is no cwasm; run `make build`, or set CWASM");
        return Ok(());
    };
    let Some(wasmtime) = find("WASMTIME", "wasmtime", &[]) else {
        report.note("process: skipped, there is no wasmtime in PATH; or set WASMTIME");
        return Ok(());
    };
    let version = Command::new(&wasmtime).arg("--version").output()?;
    report.note(format!("process: {}", String::from_utf8_lossy(&version.stdout).trim()));

    let folder = tempfile::tempdir()?;
    let cwasm = installed(&cwasm, &folder.path().join("cwasm"))?;
    let wasmtime = installed(&wasmtime, &folder.path().join("wasmtime"))?;
    let hello = folder.path().join("hello.wasm");
    std::fs::write(&hello, wat::parse_str(HELLO)?)?;
    let programs = [("hello", hello.clone(), folder.path().to_owned())].into_iter().chain(
        ["bz2", "pulldown-cmark", "shootout-ed25519"].into_iter().filter_map(|name| {
            let program = corpus::program(name)?;
            Some((name, program.path.clone(), program.folder().to_owned()))
        }),
    );
    for (name, wasm, directory) in programs {
        let (ours, theirs) = (folder.path().join("ours.cwasm"), folder.path().join("theirs.cwasm"));
        let compile = |engine: &Path, out: &Path| {
            let mut command = Command::new(engine);
            command.arg("compile").arg(&wasm).arg("-o").arg(out);
            command
        };
        usage(&mut compile(&cwasm, &ours))?;
        usage(&mut compile(&wasmtime, &theirs))?;
        if name != "hello" {
            let what = format!("process: compile {name}.wasm");
            let (ours, theirs) = (|| compile(&cwasm, &ours), || compile(&wasmtime, &theirs));
            let rows = measure(options, options.rounds(9), &what, ours, theirs)?;
            rows.into_iter().for_each(|row| report.add(row));
        }
        let mut link = folder.path().join("bench.cwasm");
        if name == "hello" {
            link.clear();
        } else {
            let bench = folder.path().join("bench.wasm");
            std::fs::write(&bench, wat::parse_str(BENCH)?)?;
            usage(Command::new(&cwasm).arg("compile").arg(&bench).arg("-o").arg(&link))?;
            let link = folder.path().join("bench-theirs.cwasm");
            usage(Command::new(&wasmtime).arg("compile").arg(&bench).arg("-o").arg(&link))?;
        }
        let preload = |command: &mut Command, file: &str| {
            if !link.as_os_str().is_empty() {
                let file = folder.path().join(file);
                command.arg("--preload").arg(join("bench=", file.as_os_str()));
            }
        };
        let rounds = if name == "hello" { options.rounds(41) } else { options.rounds(9) };
        let our_command = || {
            let mut command = Command::new(&cwasm);
            command.current_dir(&directory).args(["run", "--trust-file", "--dir", "."]);
            preload(&mut command, "bench.cwasm");
            command.arg(&ours);
            command
        };
        let their_command = || {
            let mut command = Command::new(&wasmtime);
            command.current_dir(&directory).args(["run", "--allow-precompiled", "--dir", "."]);
            preload(&mut command, "bench-theirs.cwasm");
            command.arg(&theirs);
            command
        };
        let what = format!("process: run {name}.cwasm");
        let [wall, cpu, memory] = measure(options, rounds, &what, our_command, their_command)?;
        report.add(if name == "hello" { wall.bar(0.4) } else { wall });
        report.add(cpu);
        report.add(if name == "hello" { memory.bar(0.7) } else { memory });
    }
    Ok(())
}

/// Runs the commands by turns. Rows for wall time, CPU time, and resident memory at most.
fn measure(
    options: &Options,
    rounds: usize,
    what: &str,
    ours: impl Fn() -> Command,
    theirs: impl Fn() -> Command,
) -> Result<[Row; 3]> {
    let used = pairs(rounds, &ours, &theirs)?;
    let memory = crate::clock::alternate(
        options.rounds(3).min(3),
        || peak_memory(ours()),
        || peak_memory(theirs()),
    )?;
    Ok([
        Row::seconds(format!("{what}, wall"), &pick(&used, |u| u.wall)),
        Row::seconds(format!("{what}, CPU"), &pick(&used, |u| u.cpu)),
        Row::new(format!("{what}, resident memory"), Unit::Bytes, &memory.0, &memory.1),
    ])
}

fn join(front: &str, rest: &OsStr) -> std::ffi::OsString {
    let mut whole = std::ffi::OsString::from(front);
    whole.push(rest);
    whole
}

/// What sightglass programs import besides WASI.
pub const BENCH: &str = r#"(module (func (export "start")) (func (export "end")))"#;
