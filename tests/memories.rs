//! Kinds of memories and constant expressions: linking, limits, sizes, images, and what
//! hosts see of them.

use cwasm_artifact::builder::reseal;
use cwasm_artifact::header::{Header, Section};
use cwasm_compiler::{MemoryBounds, Settings};
use cwasm_loader::{
    Artifact, Caller, Digest, Engine, Error, Extern, IndexType, Instance, Limits, LinkError,
    Linker, LoadError, Memory, MemoryType, Ref, SharedMemory, Store, Trust, Val,
};
use cwasm_tests::{artifact, compile, compile_with, load};

fn store<'code>() -> Store<'code, ()> {
    Store::new(&Engine::default(), ())
}

fn instantiate<'code>(store: &mut Store<'code, ()>, artifact: &'code Artifact) -> Instance<'code> {
    Linker::new(&Engine::default()).instantiate(store, artifact).unwrap()
}

#[test]
fn data_goes_to_the_memory_that_it_names() {
    let long = "ab".repeat(100_000);
    let code = artifact(&format!(
        r#"(module
            (memory (export "a") 1) (memory (export "b") 5) (memory (export "memory") i64 2)
            (memory (export "d") 6 (pagesize 1))
            (data (memory 1) (i32.const 3) "{long}") (data (memory 0) (i32.const 65535) "x")
            (data (memory 2) (i64.const 65536) "64") (data (memory 3) (i32.const 4) "yz")
            (data (memory 1) (i32.const 0) "after"))"#
    ));
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let bytes = |name: &str| instance.memory(&store, name).unwrap().data(&store).unwrap();
    assert_eq!(bytes("a")[65535], b'x');
    assert!(bytes("b").starts_with(b"afterababab"));
    assert_eq!(bytes("b")[200_002..200_004], [b'b', 0]);
    assert_eq!(bytes("memory")[65536..65538], *b"64");
    assert_eq!(bytes("d"), b"\0\0\0\0yz");
}

#[test]
fn the_same_memory_may_be_imported_twice() {
    let owner = artifact(r#"(module (memory (export "m") 1) (data (i32.const 0) "abcdefgh"))"#);
    let user = artifact(
        r#"(module (import "o" "m" (memory $a 1)) (import "o" "m" (memory $b 1))
            (func (export "f") (result i32)
              (memory.copy $b $a (i32.const 2) (i32.const 0) (i32.const 6))
              (i32.store8 $a (i32.const 0) (i32.const 33))
              (i32.load8_u $b (i32.const 0))))"#,
    );
    let mut store = store();
    let owner = instantiate(&mut store, &owner);
    let mut linker = Linker::new(&Engine::default());
    linker.instance(&store, "o", owner).unwrap();
    let user = linker.instantiate(&mut store, &user).unwrap();
    let f = user.typed_func::<(), i32>(&store, "f").unwrap();
    assert_eq!(f.call(&mut store, ()).unwrap(), 33);
    let memory = owner.memory(&store, "m").unwrap();
    assert_eq!(&memory.data(&store).unwrap()[..8], b"!babcdef");
}

#[test]
fn imports_must_have_the_index_type_page_size_and_sharing_that_is_wanted() {
    let kinds = [
        "1 1",
        "i64 1 1",
        "1 1 shared",
        "i64 1 1 shared",
        "1 1 (pagesize 1)",
        "i64 1 1 (pagesize 1)",
        "1 1 shared (pagesize 1)",
    ];
    for (have, memory) in kinds.iter().enumerate() {
        let owner = artifact(&format!("(module (memory (export \"m\") {memory}))"));
        for (want, wanted) in kinds.iter().enumerate() {
            let user = artifact(&format!("(module (import \"o\" \"m\" (memory {wanted})))"));
            let mut store = store();
            let mut linker = Linker::new(&Engine::default());
            let instance = linker.instantiate(&mut store, &owner).unwrap();
            linker.instance(&store, "o", instance).unwrap();
            match linker.instantiate(&mut store, &user) {
                Ok(_) => assert_eq!(have, want, "{memory} as {wanted}"),
                Err(Error::Link(LinkError::IncompatibleImport { found, wanted: ty, .. })) => {
                    assert_ne!(have, want, "{memory} as {wanted}");
                    assert_eq!(found, format!("(memory {memory})"));
                    assert_eq!(ty.to_string(), format!("(memory {wanted})"));
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    let owner = artifact("(module (table (export \"t\") i64 1 funcref))");
    let user = artifact("(module (import \"o\" \"t\" (table 1 funcref)))");
    let mut store = store();
    let mut linker = Linker::new(&Engine::default());
    let instance = linker.instantiate(&mut store, &owner).unwrap();
    linker.instance(&store, "o", instance).unwrap();
    let error = linker.instantiate(&mut store, &user).unwrap_err().to_string();
    assert!(error.contains("(table 1 funcref), and it is (table i64 1 funcref)"), "{error}");
}

#[test]
fn code_that_relies_on_guards_gets_no_memory_without_one_unless_it_checks_anyway() {
    let explicit = Settings { memory_bounds: MemoryBounds::Explicit, ..Settings::default() };
    for (memory, fits) in [
        ("1", false),
        ("i64 1", false),
        ("1 2 shared", false),
        ("9 (pagesize 1)", true),
        ("9 9 shared (pagesize 1)", true),
    ] {
        let owner =
            load(&compile_with(&format!("(module (memory (export \"m\") {memory}))"), &explicit));
        let user = artifact(&format!("(module (import \"o\" \"m\" (memory {memory})))"));
        let mut store = store();
        let mut linker = Linker::new(&Engine::default());
        let instance = linker.instantiate(&mut store, &owner).unwrap();
        linker.instance(&store, "o", instance).unwrap();
        let shared = instance.memory(&store, "m").unwrap().shared(&store).unwrap();
        let check = |result: Result<Instance<'_>, Error>| match result {
            Ok(_) => assert!(fits, "{memory}"),
            Err(Error::Link(LinkError::UnguardedMemory { .. })) => assert!(!fits, "{memory}"),
            Err(other) => panic!("{other}"),
        };
        check(linker.instantiate(&mut store, &user));
        // Nor by the way around another store.
        if let Some(shared) = shared {
            let mut linker = Linker::new(&Engine::default());
            linker.shared_memory("o", "m", &shared).unwrap();
            check(linker.instantiate(&mut self::store(), &user));
        }
    }
}

#[test]
fn sizes_are_in_pages_of_the_memory_and_limits_in_bytes() {
    let code = artifact(
        r#"(module (memory (export "small") 3 100000 (pagesize 1)) (memory (export "large") i64 1)
            (func (export "grow_small") (param i32) (result i32) (memory.grow 0 (local.get 0)))
            (func (export "grow_large") (param i64) (result i64) (memory.grow 1 (local.get 0)))
            (func (export "size_large") (result i64) (memory.size 1)))"#,
    );
    let mut store = store();
    store.limits_mut().memory_pages = 1;
    let instance = instantiate(&mut store, &code);
    let grow_small = instance.typed_func::<i32, i32>(&store, "grow_small").unwrap();
    let grow_large = instance.typed_func::<i64, i64>(&store, "grow_large").unwrap();
    assert_eq!(grow_small.call(&mut store, 65534).unwrap(), -1, "65537 bytes are too many");
    assert_eq!(grow_small.call(&mut store, 65533).unwrap(), 3);
    assert_eq!(grow_small.call(&mut store, -1).unwrap(), -1);
    assert_eq!(grow_large.call(&mut store, 1).unwrap(), -1);
    store.limits_mut().memory_pages = 100;
    assert_eq!(grow_large.call(&mut store, 2).unwrap(), 1);
    for delta in [98, 1 << 48, i64::MAX, -1, i64::MIN] {
        assert_eq!(grow_large.call(&mut store, delta).unwrap(), -1, "{delta}");
    }
    let size = instance.typed_func::<(), i64>(&store, "size_large").unwrap();
    assert_eq!(size.call(&mut store, ()).unwrap(), 3);
    let small = instance.memory(&store, "small").unwrap();
    assert_eq!(small.size_pages(&store).unwrap(), 65536);
    assert_eq!(small.ty(&store).unwrap().to_string(), "(memory 65536 100000 (pagesize 1))");
    let error = small.grow(&mut store, 34_465).unwrap_err().to_string();
    assert_eq!(error, "a memory of 100001 pages of 1 bytes exceeds the limit");
    let large = instance.memory(&store, "large").unwrap();
    assert_eq!(large.grow(&mut store, 97).unwrap(), 3);
    assert!(matches!(large.grow(&mut store, u64::MAX), Err(Error::MemoryLimit { .. })));
}

#[test]
fn a_64_bit_memory_holds_more_than_4_gib() {
    for bounds in [MemoryBounds::Guarded, MemoryBounds::Explicit] {
        let settings = Settings { memory_bounds: bounds, ..Settings::default() };
        let code = load(&compile_with(
            r#"(module (memory i64 1)
                (func (export "grow") (param i64) (result i64) (memory.grow (local.get 0)))
                (func (export "store") (param i64 i64) (i64.store (local.get 0) (local.get 1)))
                (func (export "load") (param i64) (result i64) (i64.load (local.get 0))))"#,
            &settings,
        ));
        let mut store = store();
        store.limits_mut().memory_pages = 1 << 20;
        let instance = instantiate(&mut store, &code);
        let grow = instance.typed_func::<i64, i64>(&store, "grow").unwrap();
        let write = instance.typed_func::<(i64, i64), ()>(&store, "store").unwrap();
        let read = instance.typed_func::<i64, i64>(&store, "load").unwrap();
        write.call(&mut store, (8, 77)).unwrap();
        // 5 GiB in all: more than is reserved at first, so the memory moves.
        assert_eq!(grow.call(&mut store, 81919).unwrap(), 1);
        assert_eq!(read.call(&mut store, 8).unwrap(), 77);
        let end = 5 << 30;
        write.call(&mut store, (end - 8, 88)).unwrap();
        assert_eq!(read.call(&mut store, end - 8).unwrap(), 88);
        assert_eq!(read.call(&mut store, end - 8 - (4 << 30)).unwrap(), 0);
        for outside in [end - 7, end, end + (31 << 20), end + (1 << 40), -8, -1] {
            assert!(read.call(&mut store, outside).is_err(), "{outside}");
        }
    }
}

#[test]
fn a_memory_that_is_too_large_compiles_and_fails_to_instantiate() {
    for memory in ["i64 0x1000000000000", "i64 0x4000000", "i64 0xffffffffffffffff (pagesize 1)"] {
        let code = artifact(&format!("(module (memory {memory}))"));
        let result = Linker::new(&Engine::default()).instantiate(&mut store(), &code);
        assert!(matches!(result, Err(Error::MemoryLimit { .. })), "{memory}");
    }
    let code = artifact("(module (table i64 0xffffffffffffffff funcref))");
    let result = Linker::new(&Engine::default()).instantiate(&mut store(), &code);
    assert!(matches!(result, Err(Error::TableLimit { elements: u64::MAX })));
}

#[test]
fn hosts_make_memories_of_every_possible_type_and_of_no_other() {
    let limits = Limits { min: 1, max: Some(3) };
    let mut store = store();
    for index in [IndexType::I32, IndexType::I64] {
        for (page_size_log2, bytes) in [(0, 3), (16, 3 << 16)] {
            for shared in [false, true] {
                let ty = MemoryType { limits, index, page_size_log2, shared };
                let memory = Memory::new(&mut store, ty).unwrap();
                assert_eq!(memory.ty(&store).unwrap(), ty);
                assert_eq!(memory.grow(&mut store, 2).unwrap(), 1);
                assert_eq!(memory.size_bytes(&store).unwrap(), bytes);
                memory.write(&mut store, bytes - 1, b"z").unwrap();
                let mut byte = [0];
                memory.read(&store, bytes - 1, &mut byte).unwrap();
                assert_eq!(byte, *b"z");
                let error = memory.read(&store, bytes, &mut byte).unwrap_err();
                assert!(matches!(error, Error::MemoryAccess { .. }));
                assert_eq!(memory.data(&store).is_ok(), !shared);
                assert_eq!(memory.shared(&store).unwrap().is_some(), shared);
            }
        }
    }
    for (ty, problem) in [
        (
            MemoryType { page_size_log2: 12, ..MemoryType::new(limits) },
            "the size of its pages is unknown",
        ),
        (MemoryType::new(Limits { min: 2, max: Some(1) }), "the minimum exceeds the maximum"),
        (
            MemoryType::new(Limits { min: 0, max: Some(65537) }),
            "the memory is larger than its addresses reach",
        ),
        (
            MemoryType { shared: true, ..MemoryType::new(Limits { min: 0, max: None }) },
            "the memory is shared and has no maximum",
        ),
    ] {
        let error = Memory::new(&mut store, ty).unwrap_err().to_string();
        assert_eq!(error, format!("there is no such memory: {problem}"));
    }
    assert!(matches!(SharedMemory::new(MemoryType::new(limits)), Err(Error::MemoryType { .. })));
}

#[test]
fn a_shared_memory_is_never_borrowed_as_a_slice() {
    let code = artifact(
        r#"(module (import "h" "f" (func $f)) (memory (export "memory") 1 1 shared)
            (func (export "run") (call $f)))"#,
    );
    let mut store = store();
    let mut linker = Linker::new(&Engine::default());
    linker
        .func("h", "f", |mut caller: Caller<'_, '_, ()>| {
            assert!(caller.memory_and_data_mut().is_none());
            let memory = caller.memory().expect("the instance exports its memory");
            memory.write(&mut caller, 3, b"hello").unwrap();
        })
        .unwrap();
    let instance = linker.instantiate(&mut store, &code).unwrap();
    instance.typed_func::<(), ()>(&store, "run").unwrap().call(&mut store, ()).unwrap();
    let memory = instance.memory(&store, "memory").unwrap();
    assert!(matches!(memory.data(&store), Err(Error::SharedMemory)));
    assert!(matches!(memory.data_mut(&mut store), Err(Error::SharedMemory)));
    let shared = memory.shared(&store).unwrap().unwrap();
    drop(store);
    // It outlives the store.
    let mut bytes = [0; 5];
    shared.read(3, &mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    assert_eq!(shared.atomics().len(), 65536);
}

/// A module whose constant expressions need more than one operation, also when compiled.
const CONSTANTS: &str = r#"(module
    (import "h" "i" (global $i i32)) (import "h" "l" (global $l i64))
    (global $twice (export "twice") i32 (i32.mul (global.get $i) (i32.const 2)))
    (global $less (export "less") i64
      (i64.sub (i64.mul (global.get $l) (global.get $l)) (i64.add (i64.const 1) (global.get $l))))
    (global (export "again") i64 (i64.add (global.get $less) (global.get $less)))
    (global (export "folded") i32 (i32.sub (i32.const 2) (i32.mul (i32.const 3) (i32.const 4))))
    (memory (export "memory") 1) (table (export "t") 10 funcref)
    (func $f)
    (elem (i32.add (global.get $i) (i32.const 1)) func $f)
    (data (i32.sub (global.get $twice) (i32.const 1)) "data"))"#;

#[test]
fn constant_expressions_compute_with_imports_and_earlier_globals() {
    let code = artifact(CONSTANTS);
    let run = |i: i32, l: i64| -> Result<[Val<'static>; 4], Error> {
        let mut store = store();
        let mut linker = Linker::new(&Engine::default());
        for (name, value) in [("i", Val::I32(i)), ("l", Val::I64(l))] {
            let ty = cwasm_loader::GlobalType { value: value.ty(), mutable: false };
            let global = cwasm_loader::Global::new(&mut store, ty, value)?;
            linker.define(&store, "h", name, global)?;
        }
        let instance = linker.instantiate(&mut store, &code)?;
        let table = instance.table(&store, "t")?;
        let element = table.get(&store, u64::from(i.cast_unsigned()) + 1)?;
        assert!(matches!(element, Ref::Func(Some(_))));
        let memory = instance.memory(&store, "memory")?;
        let start = usize::try_from(2 * i - 1).unwrap();
        assert_eq!(&memory.data(&store)?[start..start + 4], b"data");
        Ok(["twice", "less", "again", "folded"].map(|name| {
            match instance.global(&store, name).unwrap().get(&store).unwrap() {
                Val::I32(value) => Val::I32(value),
                other => Val::I64(other.i64().unwrap()),
            }
        }))
    };
    let [twice, less, again, folded] = run(4, 5).unwrap();
    assert_eq!((twice.i32(), folded.i32()), (Some(8), Some(-10)));
    assert_eq!((less.i64(), again.i64()), (Some(19), Some(38)));
    let [_, less, again, _] = run(1, i64::MAX).unwrap();
    let wanted = i64::MAX.wrapping_mul(i64::MAX).wrapping_sub(i64::MAX.wrapping_add(1));
    assert_eq!((less.i64(), again.i64()), (Some(wanted), Some(wanted.wrapping_mul(2))));
    assert!(run(9, 0).is_err(), "the element does not fit");
}

/// The refusal of an artifact after one byte of a section has been changed.
fn refusal(bytes: &[u8], section: Section, at: usize, value: u8) -> String {
    let mut bytes = bytes.to_vec();
    let header = Header::of(&bytes).unwrap();
    let start = header.section(section).within(bytes.len()).unwrap().start;
    bytes[start + at] = value;
    reseal(&mut bytes).unwrap();
    let digest = Digest::stated_in(&bytes).unwrap();
    match Artifact::from_bytes(&bytes, &Trust::digest(digest)) {
        Err(error @ LoadError::Refused(_)) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => String::new(),
    }
}

#[test]
fn hostile_constant_expressions_and_types_are_refused() {
    let bytes = compile(CONSTANTS);
    assert_eq!(refusal(&bytes, Section::Tables, 0, 1), "", "the same byte again changes nothing");
    // The operations of `twice`: global.get, i32.const, i32.mul; 24 bytes each.
    for (op, value, problem) in [
        (0, 9, "wrong operands"),
        (1, 9, "wrong operands"),
        (1, 2, "wrong operands"),
        (2, 1, "wrong type"),
        (2, 14, "wrong operands"),
        (2, 99, "unknown"),
        (2, 6, "wrong type"),
    ] {
        let error = refusal(&bytes, Section::ConstOps, op * 24, value);
        assert!(error.contains(problem), "{op} {value}: {error}");
    }
    // Definitions: an extern type of 32 bytes, then the span. The first global borrows
    // the operations of the second.
    let error = refusal(&bytes, Section::Globals, 32, 3);
    assert!(!error.is_empty());
    let error = refusal(&bytes, Section::Globals, 40 + 36, 200);
    assert!(error.contains("outside of its section"), "{error}");
    for (at, value, problem) in [
        (4, 12, "the size of its pages is unknown"),
        (8, 2, "a flag does not belong to its kind"),
        (8, 8, "the memory is shared and has no maximum"),
        (8, 16, "a flag is unknown"),
        (20, 1, "the memory is larger than its addresses reach"),
    ] {
        let error = refusal(&bytes, Section::Memories, at, value);
        assert!(error.contains(problem), "{at} {value}: {error}");
    }
    for (at, value, problem) in [
        (8, 8, "a flag does not belong to its kind"),
        (20, 1, "the table has more elements than indices"),
    ] {
        let error = refusal(&bytes, Section::Tables, at, value);
        assert!(error.contains(problem), "{at} {value}: {error}");
    }
    // With 64-bit indices, the segments have offsets of a wrong type.
    for section in [Section::Tables, Section::Memories] {
        let error = refusal(&bytes, section, 8, 4);
        assert!(error.contains("a constant has a wrong type"), "{error}");
    }
}

#[test]
fn hostile_types_of_objects_are_refused() {
    let bytes = compile(
        r#"(module
            (type $a (sub (struct (field i32))))
            (type $b (sub $a (struct (field i32) (field (ref $a)))))
            (global (ref $b) (struct.new $b (i32.const 1) (struct.new $a (i32.const 2)))))"#,
    );
    let check = |section, at, value, problem| {
        let error = refusal(&bytes, section, at, value);
        assert!(error.contains(problem), "{section:?} {at} {value}: {error}");
    };
    // The second type record begins at 36.
    for (at, value, problem) in [
        (20, 7, "the type or a type of its values is unknown"),
        (20, 0, "the type or a type of its values is unknown"),
        (20, 2, "it refers to a type of another kind"),
        (24, 2, "whether it is final is unknown"),
        (24, 0, "it does not match its supertype"),
        (32, 1, "its recursion group is not in one piece"),
        (36 + 28, 1, "its supertype is not declared before it"),
        (36 + 28, 9, "it refers to a type behind its group"),
    ] {
        check(Section::Types, at, value, problem);
    }
    // Fields: a type, and whether it can change, of four bytes each.
    check(Section::ValTypes, 4, 2, "the type or a type of its values is unknown");
    check(Section::ValTypes, 4, 1, "it does not match its supertype");
    check(Section::ValTypes, 0, 0x7e, "it does not match its supertype");
    // The operations of the global: two constants, then two that make structures.
    for (op, at, value) in [(0, 0, 2), (1, 0, 2), (2, 4, 9), (2, 4, 1), (3, 4, 0), (2, 0, 17)] {
        check(Section::ConstOps, op * 24 + at, value, "wrong");
    }
}

#[test]
fn exports_of_every_kind_say_what_they_are() {
    let code = artifact(
        r#"(module (memory (export "m") i64 1 2 shared) (table (export "t") i64 0 externref))"#,
    );
    let types: Vec<String> = code.exports().map(|export| export.ty.to_string()).collect();
    assert_eq!(types, ["(memory i64 1 2 shared)", "(table i64 0 externref)"]);
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let item: Extern<'_> = instance.export(&store, "m").unwrap();
    assert_eq!(item.ty(&store).unwrap().to_string(), "(memory i64 1 2 shared)");
}
