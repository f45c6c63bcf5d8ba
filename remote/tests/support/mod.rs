//! Artifacts to ship, servers to ship them through, and a server that misbehaves as it is told.

#![allow(dead_code, unreachable_pub, reason = "shared by test binaries that each use a part")]

pub mod server;

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cwasm_artifact::signature::{PublicKey, Signature, Signatures, message};
use cwasm_compiler::{CpuLevel, Settings, compile};
use cwasm_remote::{Options, Reference, Remote};
use ed25519_dalek::{Signer as _, SigningKey};

/// A secret key that is the same in every test.
pub fn secret() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub fn public(secret: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(secret.verifying_key().as_bytes()).unwrap()
}

/// An artifact whose function `answer` returns a number, with code that each CPU level has other instructions for, and `ballast` bytes of data that do not compress.
pub fn artifact(answer: i32, cpu: CpuLevel, ballast: usize) -> Vec<u8> {
    let mut state = 1u32;
    let data: String = (0..ballast)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            format!("\\{:02x}", state >> 24)
        })
        .collect();
    let wasm = wat::parse_str(format!(
        r#"(module (memory 64) (data (i32.const 0) "{data}")
             (func (export "answer") (result i32) i32.const {answer})
             (func (export "v2") (param i64) (result i64) local.get 0 i64.popcnt)
             (func (export "v3") (param i64) (result i64) local.get 0 i64.clz)
             (func (export "v4") (param v128) (result v128)
               local.get 0 local.get 0 i64x2.mul))"#
    ))
    .unwrap();
    compile(&wasm, &Settings { cpu, ..Settings::default() }).unwrap()
}

pub fn signed(mut artifact: Vec<u8>, secret: &SigningKey) -> Vec<u8> {
    let signature = sign(&message(&artifact).unwrap(), secret);
    let mut signatures = Signatures::of(&artifact).unwrap();
    signatures.insert(signature).unwrap();
    signatures.write(&mut artifact).unwrap();
    artifact
}

pub fn sign(message: &[u8], secret: &SigningKey) -> Signature {
    Signature::new(public(secret).id(), secret.sign(message).to_bytes())
}

/// Quick to give up, for tests.
pub fn hasty() -> Options {
    Options::default()
        .attempts(4)
        .backoff(Duration::from_millis(5))
        .timeout(Duration::from_secs(10))
}

pub fn open(reference: &str) -> Remote {
    open_with(reference, hasty())
}

pub fn open_with(reference: &str, options: Options) -> Remote {
    let reference: Reference = reference.parse().unwrap();
    Remote::open(&reference, options).unwrap()
}

/// A process that ends with the test.
pub struct Server {
    child: Child,
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
        let mut server = Self { child: child.spawn().unwrap(), port, _folder: folder };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "the server ended");
            assert!(start.elapsed() < Duration::from_secs(60), "the server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Debian's `docker-registry`, if it is installed; with a password file if there is one to be.
    pub fn registry(htpasswd: Option<&str>) -> Option<Self> {
        let found = Command::new("docker-registry").arg("--version").output();
        if found.is_err() {
            skip("docker-registry is not installed (apt-get install docker-registry)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let storage = folder.path().join("storage");
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            storage.display()
        );
        if let Some(htpasswd) = htpasswd {
            let file = folder.path().join("htpasswd");
            std::fs::write(&file, htpasswd).unwrap();
            config +=
                &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display());
        }
        let path = folder.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path);
        Some(Self::start(command, port, folder))
    }

    /// The S3 server of the Python package `moto`, if it is installed.
    pub fn s3() -> Option<Self> {
        let program = std::env::var("CWASM_MOTO_SERVER").unwrap_or("moto_server".to_owned());
        if Command::new(&program).arg("--help").output().is_err() {
            skip(
                "moto_server is not installed (pip install 'moto[server]'; CWASM_MOTO_SERVER names it)",
            );
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).current_dir(folder.path());
        Some(Self::start(command, port, folder))
    }
}

fn skip(why: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// One request by hand; returns the answer.
pub fn request(port: u16, text: &str) -> String {
    use std::io::Write as _;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
