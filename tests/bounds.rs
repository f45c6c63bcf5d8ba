//! Bounds checks of linear memories and tables, at every edge: each access of a grid of
//! indices, constant offsets and sizes either reads the byte that it should, or traps.
//! The rule is the specification's, computed in 128 bits.

use cwasm_compiler::{MemoryBounds, Settings};
use cwasm_loader::{Artifact, Engine, Func, Linker, Memory, Store, TrapKind, Val};
use cwasm_tests::{compile_with, load};

/// A kind of memory, in the words of the text format.
struct Kind {
    /// `i64` or nothing.
    index: &'static str,
    /// Minimum and maximum in pages, and `shared`.
    limits: &'static str,
    /// The page size, or nothing.
    page: &'static str,
    /// How many pages the memory grows by before the accesses.
    grow: i64,
}

const KINDS: &[Kind] = &[
    Kind { index: "", limits: "1", page: "", grow: 1 },
    Kind { index: "", limits: "2 2", page: "", grow: 0 },
    Kind { index: "", limits: "0 7 shared", page: "", grow: 2 },
    Kind { index: "", limits: "17", page: "(pagesize 1)", grow: 4090 },
    Kind { index: "", limits: "4097 4097", page: "(pagesize 1)", grow: 0 },
    Kind { index: "", limits: "0 9000 shared", page: "(pagesize 1)", grow: 4095 },
    Kind { index: "i64", limits: "1", page: "", grow: 1 },
    Kind { index: "i64", limits: "0", page: "", grow: 3 },
    Kind { index: "i64", limits: "2 2", page: "", grow: 0 },
    Kind { index: "i64", limits: "0 7 shared", page: "", grow: 2 },
    Kind { index: "i64", limits: "17", page: "(pagesize 1)", grow: 4090 },
    Kind { index: "i64", limits: "5 9000 shared", page: "(pagesize 1)", grow: 4090 },
];

/// Constant offsets, around everything that the compiler distinguishes.
fn offsets(is_64: bool) -> Vec<u64> {
    const GUARD: u64 = 32 << 20;
    let mut offsets = vec![0, 1, 15, 16, 17, 4090, 4096, 65535, 65536, 131_071];
    offsets.extend(GUARD - 9..=GUARD + 1);
    offsets.extend([(1 << 31) - 1, 1 << 31, (1 << 32) - 9, (1 << 32) - 1]);
    if is_64 {
        offsets.extend([1 << 32, (1 << 47) + 1, 1 << 63]);
        offsets.extend(u64::MAX - 9..=u64::MAX);
    }
    offsets
}

const LOADS: [(&str, u64); 4] =
    [("i64.load8_u", 1), ("i64.load16_u", 2), ("i64.load32_u", 4), ("i64.load", 8)];

fn module(kind: &Kind) -> String {
    let Kind { index, limits, page, .. } = kind;
    let operand = if *index == "i64" { "i64" } else { "i32" };
    let mut text = format!(
        "(module (memory (export \"m\") {index} {limits} {page})
           (func (export \"grow\") (param {operand}) (result {operand})
             (memory.grow (local.get 0)))"
    );
    for offset in offsets(*index == "i64") {
        for (load, size) in LOADS {
            let store = load.replace("load", "store").replace("_u", "");
            text.push_str(&format!(
                "(func (export \"load{size}+{offset}\") (param {operand}) (result i64)
                   ({load} offset={offset} (local.get 0)))
                 (func (export \"store{size}+{offset}\") (param {operand} i64)
                   ({store} offset={offset} (local.get 0) (local.get 1)))"
            ));
        }
    }
    text.push(')');
    text
}

/// The byte that a test puts at an address.
fn byte_at(address: u64) -> u8 {
    (address * 7 + address / 256 + 1).to_le_bytes()[0]
}

fn index_value(is_64: bool, index: u64) -> Val<'static> {
    match u32::try_from(index) {
        Ok(index) if !is_64 => Val::I32(index.cast_signed()),
        _ => Val::I64(index.cast_signed()),
    }
}

fn load_word(memory: Memory<'_>, store: &Store<'_, ()>, address: u64, size: u64) -> u64 {
    let mut word = [0; 8];
    memory.read(store, address, &mut word[..usize::try_from(size).unwrap()]).unwrap();
    u64::from_le_bytes(word)
}

/// Tries every access of the grid on a memory; returns how many there were.
fn check_memory(kind: &Kind, bounds: MemoryBounds) -> u32 {
    let is_64 = kind.index == "i64";
    let settings = Settings { memory_bounds: bounds, ..Settings::default() };
    let code = load(&compile_with(&module(kind), &settings));
    let mut store = Store::new(&Engine::default(), ());
    let instance = Linker::new(&Engine::default()).instantiate(&mut store, &code).unwrap();
    let grow = instance.func(&store, "grow").unwrap();
    grow.call(&mut store, &[index_value(is_64, kind.grow.cast_unsigned())]).unwrap();
    let memory = instance.memory(&store, "m").unwrap();
    let length = memory.size_bytes(&store).unwrap();
    let bytes: Vec<u8> = (0..length).map(byte_at).collect();
    memory.write(&mut store, 0, &bytes).unwrap();

    let largest = if is_64 { u64::MAX } else { u32::MAX.into() };
    let mut accesses = 0;
    for offset in offsets(is_64) {
        for (_, size) in LOADS {
            let what = |word: &str| format!("{word}{size}+{offset}");
            let load = instance.func(&store, &what("load")).unwrap();
            let write = instance.func(&store, &what("store")).unwrap();
            // The last index inside, if there is one, and others of interest.
            let last = length.wrapping_sub(size).wrapping_sub(offset);
            let wrapped = 0_u64.wrapping_sub(offset);
            let indices = [0, 1, length - 1, length, 1 << 31, (1 << 32) - 1, largest, largest / 2]
                .into_iter()
                .chain((0..=17).map(|near| last.wrapping_add(near).wrapping_sub(8)))
                .chain((0..=9).map(|near| wrapped.wrapping_add(near).wrapping_sub(4)))
                .filter(|index| *index <= largest);
            for index in indices {
                let end = u128::from(index) + u128::from(offset) + u128::from(size);
                let inside = end <= u128::from(length);
                check_access(&mut store, memory, &load, &write, inside, index, offset, size, is_64);
                accesses += 2;
            }
        }
    }
    // Whatever trapped has written nothing.
    let mut after = vec![0; bytes.len()];
    memory.read(&store, 0, &mut after).unwrap();
    assert_eq!(after, bytes);
    accesses
}

#[expect(clippy::too_many_arguments, reason = "a case of the grid has that many coordinates")]
fn check_access<'code>(
    store: &mut Store<'code, ()>,
    memory: Memory<'code>,
    load: &Func<'code>,
    write: &Func<'code>,
    inside: bool,
    index: u64,
    offset: u64,
    size: u64,
    is_64: bool,
) {
    let case = format!("index {index} offset {offset} size {size} inside {inside}");
    let operand = index_value(is_64, index);
    let result = load.call(store, &[operand]);
    if inside {
        let word = load_word(memory, store, index + offset, size);
        assert_eq!(result.unwrap()[0].i64(), Some(word.cast_signed()), "{case}");
        // Another word, and the old one again.
        for value in [!word, word] {
            write.call(store, &[operand, Val::I64(value.cast_signed())]).expect(&case);
            let mask = u64::MAX >> (64 - 8 * size);
            assert_eq!(load_word(memory, store, index + offset, size), value & mask, "{case}");
        }
    } else {
        for result in [result, write.call(store, &[operand, Val::I64(-1)])] {
            let error = result.expect_err(&case);
            assert_eq!(error.trap().expect(&case).kind(), TrapKind::MemoryOutOfBounds, "{case}");
        }
    }
}

#[test]
fn every_access_is_inside_or_traps() {
    for kind in KINDS {
        for bounds in [MemoryBounds::Guarded, MemoryBounds::Explicit] {
            assert!(check_memory(kind, bounds) > 2000);
        }
    }
}

fn instance_of<'code>(code: &'code Artifact) -> (Store<'code, ()>, cwasm_loader::Instance<'code>) {
    let mut store = Store::new(&Engine::default(), ());
    let instance = Linker::new(&Engine::default()).instantiate(&mut store, code).unwrap();
    (store, instance)
}

#[test]
fn bulk_operations_take_64_bits_and_do_not_wrap() {
    let code = load(&compile_with(
        r#"(module
            (memory $a i64 1) (memory $b 1) (memory $c i64 3 (pagesize 1))
            (data $d "0123456789")
            (func (export "fill") (param i64 i64) (memory.fill $a (local.get 0) (i32.const 7) (local.get 1)))
            (func (export "init") (param i64 i32 i32)
              (memory.init $a $d (local.get 0) (local.get 1) (local.get 2)))
            (func (export "copy") (param i64 i64 i64)
              (memory.copy $a $a (local.get 0) (local.get 1) (local.get 2)))
            (func (export "down") (param i32 i64 i32)
              (memory.copy $b $a (local.get 0) (local.get 1) (local.get 2)))
            (func (export "up") (param i64 i32 i32)
              (memory.copy $c $b (local.get 0) (local.get 1) (local.get 2))))"#,
        &Settings::default(),
    ));
    let (mut store, instance) = instance_of(&code);
    let mut call = |name: &str, arguments: &[Val<'_>]| {
        let func = instance.func(&store, name).unwrap();
        let arguments: Vec<Val<'_>> = arguments
            .iter()
            .map(|value| match value {
                Val::I32(value) => Val::I32(*value),
                other => Val::I64(other.i64().unwrap()),
            })
            .collect();
        match func.call(&mut store, &arguments) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.trap().unwrap().kind(), TrapKind::MemoryOutOfBounds, "{name}");
                false
            }
        }
    };
    let (i32, i64) = (Val::I32, Val::I64);
    assert!(call("fill", &[i64(65536), i64(0)]));
    assert!(call("fill", &[i64(0), i64(65536)]));
    for (start, length) in
        [(65537, 0), (1, 65536), (-1, 1), (-1, 2), (1, -1), (1 << 32, 1), (0, 1 << 32)]
    {
        assert!(!call("fill", &[i64(start), i64(length)]), "{start} {length}");
    }
    assert!(call("init", &[i64(65526), i32(0), i32(10)]));
    assert!(!call("init", &[i64(65527), i32(0), i32(10)]));
    assert!(!call("init", &[i64(-10), i32(0), i32(10)]));
    assert!(call("copy", &[i64(8), i64(0), i64(65528)]));
    assert!(!call("copy", &[i64(-8), i64(0), i64(8)]));
    assert!(!call("copy", &[i64(0), i64(-8), i64(16)]));
    assert!(!call("copy", &[i64(0), i64(1 << 32), i64(1)]));
    assert!(call("down", &[i32(0), i64(0), i32(65536)]));
    assert!(!call("down", &[i32(0), i64(1 << 32), i32(1)]));
    assert!(!call("down", &[i32(-1), i64(0), i32(1)]));
    assert!(call("up", &[i64(0), i32(65533), i32(3)]));
    assert!(!call("up", &[i64(1), i32(65533), i32(3)]));
    assert!(!call("up", &[i64(-1), i32(0), i32(2)]));
}

#[test]
fn tables_with_64_bit_indices_are_checked_in_64_bits() {
    let code = load(&compile_with(
        r#"(module
            (type $f (func (result i32)))
            (table $t i64 3 9 funcref) (table $u 4 funcref)
            (elem (table $t) (i64.const 0) func $seven $seven $seven)
            (func $seven (result i32) (i32.const 7))
            (func (export "call") (param i64) (result i32)
              (call_indirect $t (type $f) (local.get 0)))
            (func (export "is_null") (param i64) (result i32)
              (ref.is_null (table.get $t (local.get 0))))
            (func (export "clear") (param i64) (table.set $t (local.get 0) (ref.null func)))
            (func (export "size") (result i64) (table.size $t))
            (func (export "grow") (param i64) (result i64)
              (table.grow $t (ref.null func) (local.get 0)))
            (func (export "fill") (param i64 i64)
              (table.fill $t (local.get 0) (ref.func $seven) (local.get 1)))
            (func (export "copy") (param i32 i64 i32)
              (table.copy $u $t (local.get 0) (local.get 1) (local.get 2))))"#,
        &Settings::default(),
    ));
    let (mut store, instance) = instance_of(&code);
    let call = instance.typed_func::<i64, i32>(&store, "call").unwrap();
    let is_null = instance.typed_func::<i64, i32>(&store, "is_null").unwrap();
    let clear = instance.typed_func::<i64, ()>(&store, "clear").unwrap();
    let size = instance.typed_func::<(), i64>(&store, "size").unwrap();
    let grow = instance.typed_func::<i64, i64>(&store, "grow").unwrap();
    let fill = instance.typed_func::<(i64, i64), ()>(&store, "fill").unwrap();
    let copy = instance.typed_func::<(i32, i64, i32), ()>(&store, "copy").unwrap();
    let trap =
        |result: Result<i32, cwasm_loader::Error>| result.unwrap_err().trap().unwrap().kind();
    assert_eq!(call.call(&mut store, 2).unwrap(), 7);
    for index in [3, -1, 1 << 32, 1 << 61, i64::MIN, i64::MAX] {
        assert_eq!(trap(call.call(&mut store, index)), TrapKind::UndefinedElement);
        assert_eq!(trap(is_null.call(&mut store, index)), TrapKind::TableOutOfBounds);
        assert!(clear.call(&mut store, index).is_err());
        assert!(fill.call(&mut store, (index, 1)).is_err());
        assert!(fill.call(&mut store, (1, index)).is_err());
        assert!(copy.call(&mut store, (0, index, 1)).is_err());
    }
    assert_eq!(grow.call(&mut store, -1).unwrap(), -1);
    assert_eq!(grow.call(&mut store, 7).unwrap(), -1);
    assert_eq!(grow.call(&mut store, 6).unwrap(), 3);
    assert_eq!(size.call(&mut store, ()).unwrap(), 9);
    assert_eq!(is_null.call(&mut store, 8).unwrap(), 1);
    fill.call(&mut store, (0, 9)).unwrap();
    assert_eq!(call.call(&mut store, 8).unwrap(), 7);
    copy.call(&mut store, (0, 5, 4)).unwrap();
}
