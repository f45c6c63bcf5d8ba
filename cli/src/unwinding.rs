//! Tests of the unwinder that `build.rs` chose, at the work that this command has for it.

use std::backtrace::Backtrace;
use std::panic::{AssertUnwindSafe, catch_unwind};

use cwasm_compiler::{Settings, compile};
use cwasm_loader::{Artifact, Caller, Config, Engine, Linker, Store, Trust};

/// Tells that it was dropped.
struct Dropped<'a>(&'a mut bool);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        *self.0 = true;
    }
}

#[test]
fn a_panic_of_a_host_function_passes_wasm_and_drops_what_is_on_the_way() {
    let wasm = wat::parse_str(
        r#"(module (import "host" "f" (func $f)) (func $inner (call $f)) (func (export "g") (call $inner)))"#,
    );
    let bytes = compile(&wasm.unwrap(), &Settings::default()).unwrap();
    let digest = cwasm_loader::Digest::stated_in(&bytes).unwrap();
    let artifact = Artifact::load(&bytes, &Trust::digest(digest)).unwrap();
    let engine = Engine::new(Config::default());
    let mut store = Store::new(&engine, ());
    let mut linker = Linker::new(&engine);
    linker
        .func("host", "f", |_: Caller<'_, '_, ()>| {
            if true {
                std::panic::panic_any("on purpose");
            }
        })
        .unwrap();
    let instance = linker.instantiate(&mut store, &artifact).unwrap();
    let function = instance.typed_func::<(), ()>(&store, "g").unwrap();
    let mut dropped = false;
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _guard = Dropped(&mut dropped);
        function.call(&mut store, ())
    }));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"on purpose"));
    assert!(dropped);
}

#[test]
fn a_backtrace_has_the_names_of_functions() {
    let backtrace = Backtrace::force_capture().to_string();
    assert!(backtrace.contains("a_backtrace_has_the_names_of_functions"), "{backtrace}");
}

/// A process that cannot find the code of a thread's first frame would end in `abort`.
#[test]
fn a_panic_ends_at_the_first_frame_of_a_thread() {
    let thread = std::thread::spawn(|| std::panic::panic_any(7));
    assert_eq!(thread.join().unwrap_err().downcast_ref(), Some(&7));
}

#[test]
#[cfg(target_os = "linux")]
fn there_is_one_unwinder() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let is_static = option_env!("CWASM_UNWINDER") == Some("static");
    assert!(!is_static || !maps.contains("libgcc_s"), "{maps}");
}
