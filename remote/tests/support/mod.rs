//! Artifacts to ship, and a server that misbehaves as it is told.

#![allow(dead_code, unreachable_pub, reason = "shared by test binaries that each use a part")]

pub mod server;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use cwasm_compiler::{CpuLevel, Settings, compile};
use cwasm_remote::{Options, Reference, Remote};
use cwasm_tests::signing::Key;

/// The key that machines trust.
pub fn trusted() -> Key {
    Key::new(7)
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

/// One request by hand; returns the answer.
pub fn request(port: u16, text: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
