//! Replacing a module while requests run on it.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use cwasm_compiler::Settings;
use cwasm_loader::{Artifact, Caller, Digest, Engine, Linker, Trust};
use hot_swap::{Modules, RequestError};

/// A version: says which it is, after it has waited for the host.
fn version(number: i32) -> Artifact {
    let wasm = wat::parse_str(format!(
        r#"(module (import "host" "wait" (func $wait))
            (func (export "version") (result i32) (call $wait) (i32.const {number})))"#
    ))
    .unwrap();
    let bytes = cwasm_compiler::compile(&wasm, &Settings::default()).unwrap();
    let digest = Digest::stated_in(&bytes).unwrap();
    Artifact::from_bytes(&bytes, &Trust::digest(digest)).unwrap()
}

/// How many mappings of this process are executable and belong to no file: code of
/// artifacts.
fn code_mappings() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter(|line| {
            let mut fields = line.split_whitespace();
            let permissions = fields.nth(1).unwrap_or_default();
            permissions == "r-xp" && fields.nth(3).is_none()
        })
        .count()
}

/// One test, since it counts the mappings of the process.
#[test]
fn modules_are_replaced_under_load() {
    old_requests_finish_on_old_code_which_is_unmapped_when_the_last_ends();
    requests_never_get_older_code_than_was_there();
}

fn old_requests_finish_on_old_code_which_is_unmapped_when_the_last_ends() {
    // The host function blocks while the gate is closed.
    let open = Arc::new(AtomicBool::new(true));
    let waiting = Arc::new(AtomicUsize::new(0));
    let mut linker = Linker::new(&Engine::default());
    let (gate, count) = (Arc::clone(&open), Arc::clone(&waiting));
    let wait = move |_: Caller<'_, '_, ()>| {
        count.fetch_add(1, Ordering::SeqCst);
        while !gate.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    };
    linker.func("host", "wait", wait).unwrap();
    let modules = Modules::new(linker);
    let ask = || modules.request("m", "version", &[]).map(|results| results[0].i32().unwrap());

    assert!(matches!(ask(), Err(RequestError::Unknown(_))));
    let before = code_mappings();
    modules.replace("m", version(1));
    assert_eq!(ask().unwrap(), 1);
    assert_eq!(code_mappings(), before + 1);

    open.store(false, Ordering::SeqCst);
    waiting.store(0, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let (send, old) = mpsc::channel();
        for _ in 0..4 {
            let send = send.clone();
            scope.spawn(move || send.send(ask().unwrap()).unwrap());
        }
        while waiting.load(Ordering::SeqCst) < 4 {
            std::thread::yield_now();
        }
        modules.replace("m", version(2));
        assert_eq!(code_mappings(), before + 2, "four requests still run the old code");
        let new = scope.spawn(ask);
        while waiting.load(Ordering::SeqCst) < 5 {
            std::thread::yield_now();
        }
        assert!(old.try_recv().is_err(), "the old requests are still running");
        open.store(true, Ordering::SeqCst);
        assert_eq!(new.join().unwrap().unwrap(), 2);
        for _ in 0..4 {
            assert_eq!(old.recv().unwrap(), 1);
        }
    });
    assert_eq!(code_mappings(), before + 1, "the old code is unmapped");
    assert!(modules.remove("m"));
    assert_eq!(code_mappings(), before);
}

fn requests_never_get_older_code_than_was_there() {
    let mut linker = Linker::new(&Engine::default());
    linker.func("host", "wait", |_: Caller<'_, '_, ()>| {}).unwrap();
    let modules = Modules::new(linker);
    let latest = AtomicUsize::new(0);
    modules.replace("m", version(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let oldest = latest.load(Ordering::SeqCst);
                    let found = modules.request("m", "version", &[]).unwrap()[0].i32().unwrap();
                    let found = usize::try_from(found).unwrap();
                    assert!(found >= oldest, "a request that started later got older code");
                    if found >= 100 {
                        break;
                    }
                }
            });
        }
        for number in 1..=100 {
            modules.replace("m", version(number));
            latest.store(usize::try_from(number).unwrap(), Ordering::SeqCst);
        }
    });
}
