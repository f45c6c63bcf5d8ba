//! Memories that begin without what they hold, as hosts see them: host functions and WASI have the ranges that they ask for, and
//! are told what is lost.

use std::sync::{Arc, Mutex};

use cwasm_artifact::check::Part;
use cwasm_loader::{Caller, Engine, Error, HostError, Linker, Memory, Store};
use cwasm_tests::compile;
use cwasm_tests::pattern::{data, pattern};
use cwasm_tests::program_file::ProgramFile;
use cwasm_wasi::WasiCtx;

const PAGE: usize = 65536;

/// Runs `body` as a host function of an instance with an image in its memory.
fn in_host(
    file: &ProgramFile,
    before: impl FnOnce(),
    body: impl Fn(Caller<'_, '_, Vec<u8>>) -> Result<(), HostError> + Send + Sync + 'static,
) -> (Result<(), Error>, Vec<u8>, usize) {
    let engine = Engine::default();
    let artifact = file.lazy();
    let mut store = Store::new(&engine, Vec::new());
    let mut linker = Linker::new(&engine);
    linker.func("host", "f", body).unwrap();
    let instance = linker.instantiate(&mut store, &artifact).unwrap();
    before();
    let result = instance.typed_func::<(), ()>(&store, "f").unwrap().call(&mut store, ());
    (result, store.into_data(), artifact.lazy_image_parts().0)
}

#[test]
fn host_functions_have_the_ranges_that_they_ask_for() {
    let file = ProgramFile::of(&compile(&format!(
        r#"(module (import "host" "f" (func $f)) (memory (export "memory") 50) {} (export "f" (func $f)))"#,
        data(0, 0, 3 << 20)
    )));
    let wanted: Vec<u8> = pattern(0, 0..3 << 20).collect();
    let (result, found, loaded) = in_host(
        &file,
        || {},
        |mut caller| {
            let (mut bytes, data) = caller.memory_bytes_and_data_mut().unwrap();
            assert_eq!(bytes.len(), 50 * PAGE);
            data.extend(bytes.get((1 << 20) - 5..(1 << 20) + 5)?);
            let several = bytes.get_disjoint_mut(&[1 << 21..(1 << 21) + 3, 5..10])?;
            several.iter().for_each(|part| data.extend(part.iter()));
            bytes.get_mut(5..6)?[0] = 0;
            data.extend(bytes.get(4..7)?);
            assert!(matches!(bytes.get(0..50 * PAGE + 1), Err(Error::MemoryAccess { .. })));
            Ok(())
        },
    );
    result.unwrap();
    assert!(loaded <= 5 * file.image_piece(), "{loaded}");
    let mut parts = wanted[(1 << 20) - 5..(1 << 20) + 5].to_vec();
    parts.extend(&wanted[1 << 21..(1 << 21) + 3]);
    parts.extend(&wanted[5..10]);
    parts.extend([wanted[4], 0, wanted[6]]);
    assert_eq!(found, parts);
    let (result, found, _) = in_host(
        &file,
        || {},
        |mut caller| {
            let (bytes, data) = caller.memory_and_data_mut().unwrap();
            data.extend_from_slice(bytes);
            Ok(())
        },
    );
    result.unwrap();
    assert!(found[..3 << 20] == wanted);
    // What is lost is reported, and passed on as it is.
    type Body = fn(Caller<'_, '_, Vec<u8>>) -> Result<(), HostError>;
    let bodies: [Body; 3] = [
        |mut caller| {
            let (bytes, _) = caller.memory_bytes_and_data_mut().unwrap();
            bytes.get(3 << 20..50 * PAGE)?;
            bytes.get(1 << 20..(1 << 20) + 1)?;
            Ok(())
        },
        |mut caller| {
            assert!(caller.memory_and_data_mut().is_none());
            caller.memory().unwrap().data_mut(&mut caller)?;
            Ok(())
        },
        |caller| {
            let memory: Memory<'_> = caller.memory().unwrap();
            Ok(memory.read(&caller, 1 << 20, &mut [0])?)
        },
    ];
    for body in bodies {
        let (result, ..) = in_host(&file, || file.cut(Part::Image), body);
        assert!(matches!(result, Err(Error::CodeLost(_))), "{result:?}");
        file.repair();
    }
}

/// A program that writes a part of its image to the standard output, and reads into another part.
fn wasi_program() -> ProgramFile {
    ProgramFile::of(&compile(&format!(
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 100) {}
        (func $vector (param $at i32)
            (i32.store (i32.const 5000000) (local.get $at))
            (i32.store (i32.const 5000004) (i32.const 70000))
            (i32.store (i32.const 5000008) (i32.add (local.get $at) (i32.const 1000000)))
            (i32.store (i32.const 5000012) (i32.const 5)))
        (func (export "write") (param i32) (result i32)
            (call $vector (local.get 0))
            (call $write (i32.const 1) (i32.const 5000000) (i32.const 2) (i32.const 5000016)))
        (func (export "read") (param i32) (result i32)
            (call $vector (local.get 0))
            (call $read (i32.const 0) (i32.const 5000000) (i32.const 2) (i32.const 5000016)))
        ;; The vector and the result are in the image, too.
        (func (export "all") (result i32)
            (call $write (i32.const 1) (i32.const 2000000) (i32.const 0) (i32.const 2500000))))"#,
        data(0, 0, 3 << 20)
    )))
}

#[test]
fn wasi_has_what_it_is_given_and_no_more() {
    let file = wasi_program();
    let wanted: Vec<u8> = pattern(0, 0..3 << 20).collect();
    let run = |name: &str, at: u32, before: &dyn Fn()| {
        let artifact = file.lazy();
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut builder = WasiCtx::builder();
        builder.capture_stdout(Arc::clone(&output)).stdin_bytes(vec![9; 70_003]);
        let engine = Engine::default();
        let mut store = Store::new(&engine, builder.build().unwrap());
        let mut linker = Linker::new(&engine);
        cwasm_wasi::add_to_linker(&mut linker, |ctx| ctx).unwrap();
        let instance = linker.instantiate(&mut store, &artifact).unwrap();
        before();
        let result = match name {
            "all" => instance.typed_func::<(), i32>(&store, name).unwrap().call(&mut store, ()),
            _ => instance.typed_func::<u32, i32>(&store, name).unwrap().call(&mut store, at),
        };
        let loaded = artifact.lazy_image_parts().0;
        let memory = instance.memory(&store, "memory").unwrap();
        let bytes = memory.data(&store).map(<[u8]>::to_vec).unwrap_or_default();
        let output = output.lock().unwrap().clone();
        (result, loaded, output, bytes)
    };
    for at in [0, 1_000_003] {
        let (result, loaded, output, bytes) = run("write", at, &|| {});
        assert_eq!(result.unwrap(), 0);
        assert!(loaded > file.image_piece() && loaded <= 4 * file.image_piece(), "{loaded}");
        let at = at as usize;
        let parts = [&wanted[at..at + 70_000], &wanted[at + 1_000_000..at + 1_000_005]];
        assert!(output == parts.concat());
        assert!(bytes[..3 << 20] == wanted);

        let (result, loaded, _, bytes) = run("read", u32::try_from(at).unwrap(), &|| {});
        assert_eq!(result.unwrap(), 0);
        assert!(loaded > file.image_piece() && loaded <= 4 * file.image_piece(), "{loaded}");
        let mut read = wanted.clone();
        read[at..at + 70_000].fill(9);
        read[at + 1_000_000..at + 1_000_003].fill(9);
        assert!(bytes[..3 << 20] == read);
    }
    let (result, loaded, _, bytes) = run("all", 0, &|| {});
    assert_eq!((result.unwrap(), loaded), (0, file.image_piece()));
    assert_eq!(bytes[2_500_000..2_500_004], [0; 4]);
    for name in ["write", "read", "all"] {
        let (result, loaded, output, _) = run(name, 0, &|| file.damage(Part::Image));
        assert!(matches!(result, Err(Error::CodeLost(_))), "{name}: {result:?}");
        assert_eq!((loaded, output.len()), (0, 0));
        file.repair();
    }
}
