//! Servers that tests start on this machine, if they are installed.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that ends with the test.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(mut command: Command, port: u16, folder: tempfile::TempDir) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server =
            Self { child: child.spawn().expect("it is installed"), port, _folder: folder };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                server.child.try_wait().expect("the child is ours").is_none(),
                "the server ended"
            );
            assert!(start.elapsed() < Duration::from_secs(60), "the server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Debian's `docker-registry`, if it is installed; with a password file if there is one to be.
    ///
    /// # Panics
    /// If it does not start; so for the other.
    #[must_use]
    pub fn registry(htpasswd: Option<&str>) -> Option<Self> {
        let found = Command::new("docker-registry").arg("--version").output();
        if found.is_err() {
            skip("docker-registry is not installed (apt-get install docker-registry)");
            return None;
        }
        let folder = tempfile::tempdir().expect("there is room");
        let port = free_port();
        let storage = folder.path().join("storage");
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            storage.display()
        );
        if let Some(htpasswd) = htpasswd {
            let file = folder.path().join("htpasswd");
            std::fs::write(&file, htpasswd).expect("there is room");
            config +=
                &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display());
        }
        let path = folder.path().join("config.yml");
        std::fs::write(&path, config).expect("there is room");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path);
        Some(Self::start(command, port, folder))
    }

    /// The S3 server of the Python package `moto`, if it is installed.
    #[must_use]
    pub fn s3() -> Option<Self> {
        let program = std::env::var("CWASM_MOTO_SERVER").unwrap_or("moto_server".to_owned());
        if Command::new(&program).arg("--help").output().is_err() {
            skip(
                "moto_server is not installed (pip install 'moto[server]'; CWASM_MOTO_SERVER names it)",
            );
            return None;
        }
        let folder = tempfile::tempdir().expect("there is room");
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).current_dir(folder.path());
        Some(Self::start(command, port, folder))
    }
}

fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// A port that nobody listens at.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    listener.local_addr().expect("a listener has an address").port()
}
