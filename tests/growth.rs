//! What a compilation does with modules that are large in one direction: it takes them, or names
//! the limit that they exceed. No time is asserted; `cargo run --release -p cwasm-tests --example
//! growth` prints the curves. `CWASM_LONG=1` tries the large sizes.

use cwasm_compiler::{OptLevel, Settings, compile};
use cwasm_loader::{Engine, Linker, Store};
use cwasm_tests::load;
use cwasm_tests::shapes::Shape;

#[test]
fn modules_of_every_shape_compile() {
    let long = std::env::var_os("CWASM_LONG").is_some();
    for shape in Shape::ALL {
        let size = if long { shape.large() } else { shape.large() / 50 };
        let wasm = shape.module(size);
        for opt_level in [OptLevel::None, OptLevel::Speed] {
            let settings = Settings { opt_level, ..Settings::default() };
            let result = compile(&wasm, &settings);
            assert!(result.is_ok(), "{shape} {size}: {}", result.unwrap_err());
        }
    }
}

#[test]
fn what_exceeds_a_limit_is_refused_by_its_name() {
    for (shape, size, limit) in [
        (Shape::Locals, 50_001, "too many locals: locals exceed maximum"),
        (Shape::DataSegments, 100_001, "data segments count exceeds limit of 100000"),
        (Shape::ElementSegments, 100_001, "element segments count exceeds limit of 100000"),
        (Shape::Types, 1_000_001, "types count exceeds limit of 1000000"),
        (Shape::Instructions, 6_000_000, "size"),
    ] {
        let error = compile(&shape.module(size), &Settings::default()).unwrap_err();
        assert!(error.to_string().contains(limit), "{shape} {size}: {error}");
    }
}

/// A function with so many branches gets its registers in another way than others do.
#[test]
fn a_function_of_too_many_branches_computes_what_it_should() {
    const BRANCHES: u32 = 20_000;
    let wanted =
        |argument: i32| {
            (0..BRANCHES).fold(argument.cast_unsigned(), |value, branch| {
                if value < branch { value + 1 } else { value }
            })
        };
    for opt_level in [OptLevel::None, OptLevel::Speed, OptLevel::SpeedAndSize] {
        let settings = Settings { opt_level, ..Settings::default() };
        let file = compile(&Shape::Branches.module(BRANCHES), &settings).unwrap();
        let artifact = load(&file);
        let engine = Engine::default();
        let mut store = Store::new(&engine, ());
        let instance = Linker::new(&engine).instantiate(&mut store, &artifact).unwrap();
        let function = instance.func(&store, "f").unwrap().typed::<i32, i32>(&store).unwrap();
        for argument in [0, 1, 77, 19_999, 20_000, i32::MAX, -1] {
            let found = function.call(&mut store, argument).unwrap();
            assert_eq!(found.cast_unsigned(), wanted(argument), "{argument} at {opt_level:?}");
        }
    }
}
