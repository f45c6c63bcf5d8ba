//! Tests in a process of their own, which may crash or give away its rights.
//!
//! A test calls [`run`] with its own name and what the child shall do. The
//! parent runs this same test binary again for that one test, with a
//! variable that tells the child that it is the child.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const VARIABLE: &str = "CWASM_FAULT_CHILD";

/// How long a child may run. A child that hangs fails its test.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a child ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output and standard error.
    pub output: String,
}

impl Ended {
    /// Checks that it did everything and failed at nothing.
    ///
    /// # Panics
    /// If it did not.
    pub fn well(&self) {
        assert!(
            self.status.success() && self.output.contains("the child is done"),
            "the child failed: {}\n{}",
            self.status,
            self.output
        );
    }

    /// Checks that it wrote `last` and then died by a signal.
    ///
    /// # Panics
    /// If it did not.
    pub fn by_signal(&self, signal: i32, last: &str) {
        assert!(
            self.status.signal() == Some(signal) && self.output.contains(last),
            "the child should have written {last:?} and died by signal {signal}: {}\n{}",
            self.status,
            self.output
        );
        assert!(!self.output.contains("the child is done"), "{}", self.output);
    }
}

/// Runs `body` in a child process. `test` is the name of the calling test.
///
/// # Panics
/// If the child cannot be run, or hangs.
pub fn run(test: &str, body: impl FnOnce()) -> Ended {
    here(test, body);
    start(test, |_| {})
}

/// Runs `body` and ends the process, if it is the child of this test.
pub fn here(test: &str, body: impl FnOnce()) {
    if std::env::var(VARIABLE).is_ok_and(|running| running == test) {
        body();
        println!("the child is done");
        std::process::exit(0);
    }
}

/// Starts the child of a test that calls [`here`], after `prepare` has changed how, and waits for its end.
///
/// # Panics
/// If the child cannot be run, or hangs.
pub fn start(test: &str, prepare: impl FnOnce(&mut Command)) -> Ended {
    let binary = std::env::current_exe().expect("a test knows its own file");
    let mut command = Command::new(binary);
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, test)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    prepare(&mut command);
    let mut child = command.spawn().expect("a test can run its own file");
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child is ours to wait for") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the child for {test} hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let output = [stdout, stderr].map(|reader| reader.join().unwrap_or_default()).concat();
    Ended { status, output }
}

/// Collects what a pipe brings, on a thread of its own, so that no child waits.
fn reader(pipe: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
