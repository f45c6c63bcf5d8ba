//! Accesses to elements of tables, whose index is masked, shifted or loaded and then scaled: they reach the address that the operators
//! compute in 32 bits, also where the scaled index wraps around. The compiler scales in 64 bits where it knows that none does.

use std::fmt::Write as _;

use cwasm_compiler::{CpuLevel, MemoryBounds, OptLevel, Settings};
use cwasm_loader::TrapKind;
use cwasm_tests::calls::{instantiate, store};
use cwasm_tests::{compile_with, load};

/// How an index is made of the operand, in text, and the same in Rust.
type Index = (&'static str, fn(u32) -> u32);

const INDICES: &[Index] = &[
    ("(local.get 0)", |x| x),
    ("(i32.and (local.get 0) (i32.const 0xff))", |x| x & 0xff),
    ("(i32.and (i32.const 0x3fff) (local.get 0))", |x| x & 0x3fff),
    // Of these, some lose no bit by one scale, and one by the next.
    ("(i32.and (local.get 0) (i32.const 0x1fffffff))", |x| x & 0x1fff_ffff),
    ("(i32.and (local.get 0) (i32.const 0x20000000))", |x| x & 0x2000_0000),
    ("(i32.and (local.get 0) (i32.const 0x3fffffff))", |x| x & 0x3fff_ffff),
    ("(i32.and (local.get 0) (i32.const 0x7fffffff))", |x| x & 0x7fff_ffff),
    ("(i32.and (local.get 0) (i32.const 0x80000001))", |x| x & 0x8000_0001),
    ("(i32.shr_u (local.get 0) (i32.const 1))", |x| x >> 1),
    ("(i32.shr_u (local.get 0) (i32.const 2))", |x| x >> 2),
    ("(i32.shr_u (local.get 0) (i32.const 3))", |x| x >> 3),
    ("(i32.shr_u (local.get 0) (i32.const 24))", |x| x >> 24),
    // By one, since 33 is that.
    ("(i32.shr_u (local.get 0) (i32.const 33))", |x| x >> 1),
    ("(i32.shr_u (local.get 0) (local.get 0))", |x| x.wrapping_shr(x)),
    ("(i32.shr_s (local.get 0) (i32.const 3))", |x| (x.cast_signed() >> 3).cast_unsigned()),
    ("(i32.and (i32.shr_u (local.get 0) (i32.const 16)) (i32.const 255))", |x| x >> 16 & 255),
    ("(i32.shr_u (i32.and (local.get 0) (i32.const 0xffff00)) (i32.const 8))", |x| x >> 8 & 0xffff),
    ("(i32.load8_u $bytes (i32.and (local.get 0) (i32.const 7)))", |x| byte(x & 7)),
    ("(i32.load8_s $bytes (i32.and (local.get 0) (i32.const 7)))", |x| {
        (byte(x & 7).cast_signed() << 24 >> 24).cast_unsigned()
    }),
    ("(i32.load16_u $bytes (i32.and (local.get 0) (i32.const 6)))", |x| {
        byte(x & 6) | byte(x & 6 | 1) << 8
    }),
    ("(i32.eqz (local.get 0))", |x| u32::from(x == 0)),
];

/// What `$bytes` has there.
fn byte(at: u32) -> u32 {
    [0, 1, 0x7f, 0x80, 0xff, 0x40, 0xff, 0xff][at as usize]
}

const OPERANDS: [u32; 16] = [
    0,
    1,
    2,
    3,
    5,
    0xff,
    0x100,
    0x4000,
    0x8000,
    0x10_000,
    0x00ab_cdef,
    0x1fff_ffff,
    0x3fff_ffff,
    0x4000_0001,
    0x8000_0001,
    u32::MAX,
];

const SCALES: std::ops::Range<u32> = 1..5;

/// The first is the one that is accessed, and has so many pages.
fn module(pages: u64) -> String {
    let mut text = format!(
        r#"(module (memory (export "memory") {pages}) (memory $bytes 1)
            (data (memory $bytes) (i32.const 0) "\00\01\7f\80\ff\40\ff\ff")"#
    );
    for (number, (index, _)) in INDICES.iter().enumerate() {
        for scale in SCALES {
            let place = format!("(i32.shl {index} (i32.const {scale}))");
            let _ = writeln!(
                text,
                r#"(func (export "load {number} {scale}") (param i32) (result i64)
                    (i64.load offset=24 {place}))
                (func (export "store {number} {scale}") (param i32 i64) (result i32)
                    (i64.store {place} (local.get 1)) (i64.store offset=9 {place} (local.get 1)) {place})"#
            );
        }
    }
    text + ")"
}

fn follow(pages: u64, settings: &Settings) {
    let code = load(&compile_with(&module(pages), settings));
    let mut store = store();
    let instance = instantiate(&mut store, &code);
    let memory = instance.memory(&store, "memory").unwrap();
    let length = pages << 16;
    let mut value = 0x1234_5678_9abc_def0_i64;
    for (number, (text, index)) in INDICES.iter().enumerate() {
        for scale in SCALES {
            let name = |what| format!("{what} {number} {scale}");
            let read = instance.typed_func::<u32, i64>(&store, &name("load")).unwrap();
            let write = instance.typed_func::<(u32, i64), u32>(&store, &name("store")).unwrap();
            for operand in OPERANDS {
                let place = index(operand) << scale;
                let about = format!("{text} by {scale}, of {operand:#x}, in {pages} pages");
                value = value.rotate_left(7) ^ 1;
                let inside = |offset: u64| u64::from(place) + offset + 8 <= length;
                match write.call(&mut store, (operand, value)) {
                    Ok(found) => {
                        assert!(inside(9), "{about}");
                        assert_eq!(found, place, "{about}");
                        let mut bytes = [0; 8];
                        memory.read(&store, u64::from(place) + 9, &mut bytes).unwrap();
                        assert_eq!(i64::from_le_bytes(bytes), value, "{about}");
                    }
                    Err(error) => {
                        assert_eq!(error.trap().unwrap().kind(), TrapKind::MemoryOutOfBounds);
                        assert!(!inside(9), "{about}");
                    }
                }
                if inside(24) {
                    memory.write(&mut store, u64::from(place) + 24, &value.to_le_bytes()).unwrap();
                    assert_eq!(read.call(&mut store, operand).unwrap(), value, "{about}");
                } else {
                    let error = read.call(&mut store, operand).unwrap_err();
                    assert_eq!(error.trap().unwrap().kind(), TrapKind::MemoryOutOfBounds);
                }
            }
        }
    }
}

#[test]
fn scaled_indices_reach_what_the_operators_say() {
    for pages in [1, 65_536] {
        for settings in [
            Settings::default(),
            Settings { cpu: CpuLevel::Native, ..Settings::default() },
            Settings { opt_level: OptLevel::SpeedAndSize, ..Settings::default() },
            Settings { memory_bounds: MemoryBounds::Explicit, ..Settings::default() },
        ] {
            follow(pages, &settings);
        }
    }
}
