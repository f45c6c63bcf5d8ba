//! Bulk operations of linear memory, of which those with a small constant length are compiled to loads and stores: each does
//! what a model in Rust does, at every edge, or traps and changes nothing.

use cwasm_compiler::{MemoryBounds, Settings};
use cwasm_loader::{Artifact, Engine, Instance, Linker, Memory, Store, TrapKind, Val};
use cwasm_tests::{compile_with, load};

/// Lengths around everything that the compiler distinguishes.
const LENGTHS: std::ops::RangeInclusive<u64> = 0..=67;

/// A kind of memory, in the words of the text format, and its size in bytes.
struct Kind {
    index: &'static str,
    limits: &'static str,
    size: u64,
}

const KINDS: [Kind; 6] = [
    Kind { index: "", limits: "1", size: 65536 },
    Kind { index: "", limits: "1 2 shared", size: 65536 },
    Kind { index: "i64", limits: "1", size: 65536 },
    Kind { index: "i64", limits: "1 2 shared", size: 65536 },
    Kind { index: "", limits: "203 (pagesize 1)", size: 203 },
    Kind { index: "i64", limits: "203 300 (pagesize 1)", size: 203 },
];

fn module(kind: &Kind) -> String {
    let Kind { index, limits, .. } = kind;
    let ty = if index.is_empty() { "i32" } else { "i64" };
    let mut text = format!(
        "(module (memory (export \"m\") {index} {limits})
           (func (export \"copy\") (param {ty} {ty} {ty})
             (memory.copy (local.get 0) (local.get 1) (local.get 2)))
           (func (export \"fill\") (param {ty} i32 {ty})
             (memory.fill (local.get 0) (local.get 1) (local.get 2)))"
    );
    for length in LENGTHS {
        text += &format!(
            "(func (export \"copy{length}\") (param {ty} {ty})
               (memory.copy (local.get 0) (local.get 1) ({ty}.const {length})))
             (func (export \"fill{length}\") (param {ty} i32)
               (memory.fill (local.get 0) (local.get 1) ({ty}.const {length})))
             (func (export \"seven{length}\") (param {ty})
               (memory.fill (local.get 0) (i32.const 0x107) ({ty}.const {length})))"
        );
    }
    text + ")"
}

/// Where operations begin: at the edges, in between, and far outside.
fn places(kind: &Kind, length: u64) -> Vec<u64> {
    let middle = kind.size / 2;
    let end = kind.size - length;
    let mut places = vec![0, 1, middle, middle + 1, middle + length / 2 + 1, end - 1, end];
    places.extend([end + 1, end + length / 2 + 1, kind.size, kind.size + 1, u32::MAX.into()]);
    if !kind.index.is_empty() {
        places.extend([1 << 32, 0_u64.wrapping_sub(length), u64::MAX]);
    }
    places.dedup();
    places
}

struct Subject<'s, 'code> {
    kind: &'s Kind,
    store: &'s mut Store<'code, ()>,
    instance: &'s Instance<'code>,
    memory: Memory<'code>,
    model: Vec<u8>,
}

impl Subject<'_, '_> {
    fn index(&self, place: u64) -> Val<'static> {
        match self.kind.index {
            "" => Val::I32(u32::try_from(place).unwrap().cast_signed()),
            _ => Val::I64(place.cast_signed()),
        }
    }

    /// Calls an operation that ought to succeed if `change` can be made to the model.
    fn check(
        &mut self,
        name: &str,
        arguments: &[Val<'static>],
        change: impl FnOnce(&mut [u8]) -> Option<()>,
    ) {
        let case = format!("{} {} {name} {arguments:?}", self.kind.index, self.kind.limits);
        let func = self.instance.func(self.store, name).unwrap();
        let result = func.call(self.store, arguments);
        match change(&mut self.model) {
            Some(()) => drop(result.expect(&case)),
            None => {
                let error = result.expect_err(&case);
                assert_eq!(
                    error.trap().expect(&case).kind(),
                    TrapKind::MemoryOutOfBounds,
                    "{case}"
                );
            }
        }
        let mut found = vec![0; self.model.len()];
        self.memory.read(self.store, 0, &mut found).unwrap();
        assert!(found == self.model, "{case}");
    }

    fn copy(&mut self, name: &str, arguments: &[Val<'static>], [to, from, length]: [u64; 3]) {
        self.check(name, arguments, |model| {
            let from = range(model, from, length)?;
            let to = range(model, to, length)?;
            model.copy_within(from, to.start);
            Some(())
        });
    }

    fn fill(&mut self, name: &str, arguments: &[Val<'static>], to: u64, length: u64, byte: u8) {
        self.check(name, arguments, |model| {
            let to = range(model, to, length)?;
            model[to].fill(byte);
            Some(())
        });
    }

    fn check_all(&mut self) {
        for length in LENGTHS {
            let places = places(self.kind, length);
            let count = self.index(length);
            for (number, to) in (0_u8..).zip(&places) {
                let target = self.index(*to);
                for from in &places {
                    let source = self.index(*from);
                    self.copy(&format!("copy{length}"), &[target, source], [*to, *from, length]);
                    self.copy("copy", &[target, source, count], [*to, *from, length]);
                }
                let byte = number.wrapping_mul(29);
                let value = |byte| Val::I32(i32::from(byte) | 0x5a00);
                self.fill(&format!("fill{length}"), &[target, value(byte)], *to, length, byte);
                self.fill("fill", &[target, value(!byte), count], *to, length, !byte);
                self.fill(&format!("seven{length}"), &[target], *to, length, 7);
                // So that the next copies have something to copy.
                for (place, byte) in (0..).zip(&mut self.model) {
                    *byte = (place % 251_u32) as u8 ^ number;
                }
                self.memory.write(self.store, 0, &self.model).unwrap();
            }
        }
        let size = self.kind.size;
        let long = [size - 3, size, size + 1, u32::MAX.into(), 1 << 32, u64::MAX - size, u64::MAX];
        let fits = |length: &u64| !self.kind.index.is_empty() || *length <= u32::MAX.into();
        for length in long.into_iter().filter(fits) {
            let count = self.index(length);
            for to in [0, 2, 3, 4, size] {
                let target = self.index(to);
                self.fill("fill", &[target, Val::I32(5), count], to, length, 5);
                for from in [0, 3, 4, size] {
                    self.copy("copy", &[target, self.index(from), count], [to, from, length]);
                }
            }
        }
    }
}

fn range(model: &[u8], start: u64, length: u64) -> Option<std::ops::Range<usize>> {
    let end = start.checked_add(length).filter(|end| *end <= model.len() as u64)?;
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

fn check(kind: &Kind, memory_bounds: MemoryBounds) {
    let settings = Settings { memory_bounds, ..Settings::default() };
    let code: Artifact = load(&compile_with(&module(kind), &settings));
    let mut store = Store::new(&Engine::default(), ());
    let instance = Linker::new(&Engine::default()).instantiate(&mut store, &code).unwrap();
    let memory = instance.memory(&store, "m").unwrap();
    let model = vec![0; usize::try_from(kind.size).unwrap()];
    Subject { kind, store: &mut store, instance: &instance, memory, model }.check_all();
}

#[test]
fn guarded_operations_do_as_the_model_or_trap_and_change_nothing() {
    KINDS.iter().for_each(|kind| check(kind, MemoryBounds::Guarded));
}

#[test]
fn checked_operations_do_as_the_model_or_trap_and_change_nothing() {
    KINDS.iter().for_each(|kind| check(kind, MemoryBounds::Explicit));
}

#[test]
fn copies_between_memories_check_both() {
    let code = load(&compile_with(
        r#"(module (memory $a (export "a") 1) (memory $b (export "b") i64 9 (pagesize 1))
            (data (memory $a) (i32.const 65530) "abcdef") (data (memory $b) (i64.const 0) "123456789")
            (func (export "to_b") (param i64 i32) (memory.copy $b $a (local.get 0) (local.get 1) (i32.const 5)))
            (func (export "to_a") (param i32 i64) (memory.copy $a $b (local.get 0) (local.get 1) (i32.const 5))))"#,
        &Settings::default(),
    ));
    let mut store = Store::new(&Engine::default(), ());
    let instance = Linker::new(&Engine::default()).instantiate(&mut store, &code).unwrap();
    let to_a = instance.typed_func::<(i32, i64), ()>(&store, "to_a").unwrap();
    let to_b = instance.typed_func::<(i64, i32), ()>(&store, "to_b").unwrap();
    assert!(to_b.call(&mut store, (5, 0)).is_err());
    assert!(to_b.call(&mut store, (4, 65532)).is_err());
    assert!(to_a.call(&mut store, (0, 5)).is_err());
    assert!(to_a.call(&mut store, (65532, 0)).is_err());
    let b = instance.memory(&store, "b").unwrap();
    assert_eq!(b.data(&store).unwrap(), b"123456789");
    to_b.call(&mut store, (4, 65531)).unwrap();
    assert_eq!(b.data(&store).unwrap(), b"1234bcdef");
    to_a.call(&mut store, (0, 2)).unwrap();
    let a = instance.memory(&store, "a").unwrap();
    assert_eq!(a.data(&store).unwrap()[..6], *b"34bcd\0");
    assert_eq!(a.data(&store).unwrap()[65529..], *b"\0abcdef");
}

#[test]
fn ranges_may_end_where_the_largest_memory_does() {
    let code = load(&compile_with(
        r#"(module (memory (export "m") 65536)
            (func (export "copy") (param i32 i32 i32)
                (memory.copy (local.get 0) (local.get 1) (local.get 2)))
            (func (export "fill") (param i32 i32 i32)
                (memory.fill (local.get 0) (local.get 1) (local.get 2))))"#,
        &Settings::default(),
    ));
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, &code).unwrap();
    let copy = instance.typed_func::<(u32, u32, u32), ()>(&store, "copy").unwrap();
    let fill = instance.typed_func::<(u32, u32, u32), ()>(&store, "fill").unwrap();
    let last = u32::MAX - 99;
    fill.call(&mut store, (last, 7, 100)).unwrap();
    copy.call(&mut store, (1 << 31, last, 100)).unwrap();
    copy.call(&mut store, (last - 50, 1 << 31, 150)).unwrap();
    let memory = instance.memory(&store, "m").unwrap();
    let at = |address: u32| {
        let mut byte = [0];
        memory.read(&store, address.into(), &mut byte).unwrap();
        byte[0]
    };
    assert_eq!([last - 51, last - 50, last, last + 49, last + 50].map(at), [0, 7, 7, 7, 0]);
    for (to, from, length) in [(last, 0, 101), (0, last, 101), (u32::MAX, u32::MAX, u32::MAX)] {
        let error = copy.call(&mut store, (to, from, length)).unwrap_err();
        assert_eq!(error.trap().unwrap().kind(), TrapKind::MemoryOutOfBounds);
    }
    assert!(fill.call(&mut store, (last, 9, 101)).is_err());
    let mut byte = [0];
    memory.read(&store, last.into(), &mut byte).unwrap();
    assert_eq!(byte, [7], "nothing was written");
}
