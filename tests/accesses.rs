//! Everything that compiled code and a host can do to memories: for tests that compare a memory of which a part waits with one that is whole.

use cwasm_loader::{Error, Instance, Store};

/// Functions that access the memories `$a`, which is the first, and `$b`, and use the segment `$passive`.
pub const FUNCTIONS: &str = r#"
    (func (export "grow") (param i32) (result i64) (i64.extend_i32_s (memory.grow (local.get 0))))
    (func (export "load8") (param i32) (result i64) (i64.load8_u (local.get 0)))
    (func (export "load32") (param i32) (result i64) (i64.load32_u (local.get 0)))
    (func $load64 (export "load64") (param i32) (result i64) (i64.load (local.get 0)))
    (func (export "deep") (param i32) (result i64) (i64.add (call $load64 (local.get 0)) (i64.const 1)))
    (func (export "loadb") (param i32) (result i64) (i64.load $b (local.get 0)))
    (func (export "vector") (param i32) (result i64)
        (i64x2.extract_lane 1 (i8x16.add (v128.load (local.get 0)) (v128.load offset=5 (local.get 0)))))
    (func (export "notify") (param i32) (result i64)
        (i64.extend_i32_u (memory.atomic.notify (local.get 0) (i32.const 1))))
    (func (export "store8") (param i32 i64) (i64.store8 (local.get 0) (local.get 1)))
    (func (export "store64") (param i32 i64) (i64.store (local.get 0) (local.get 1)))
    (func (export "storeb") (param i32 i64) (i64.store $b (local.get 0) (local.get 1)))
    (func (export "storev") (param i32 i64) (v128.store (local.get 0) (i64x2.splat (local.get 1))))
    (func (export "add") (param i32 i64) (drop (i64.atomic.rmw.add (local.get 0) (local.get 1))))
    (func (export "exchange") (param i32 i64)
        (drop (i32.atomic.rmw.cmpxchg (local.get 0) (i32.atomic.load (local.get 0)) (i32.wrap_i64 (local.get 1)))))
    (func (export "small") (param i32 i64)
        (memory.fill (local.get 0) (i32.wrap_i64 (local.get 1)) (i32.const 30))
        (memory.copy (i32.const 9) (local.get 0) (i32.const 30)))
    (func (export "fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2)))
    (func (export "copy") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
    (func (export "to_b") (param i32 i32 i32) (memory.copy $b $a (local.get 0) (local.get 1) (local.get 2)))
    (func (export "from_b") (param i32 i32 i32) (memory.copy $a $b (local.get 0) (local.get 1) (local.get 2)))
    (func (export "init") (param i32 i32 i32)
        (memory.init $passive (local.get 0) (local.get 1) (local.get 2)))"#;

/// Something that is done to a memory, by the export with a name, or by the host.
#[derive(Clone, Debug)]
pub enum Access {
    /// Calls a function with an address, which returns what it reads.
    Load(&'static str, u32),
    /// Calls a function with an address and a number, which it writes.
    Store(&'static str, u32, i64),
    /// Calls a function with the operands of a bulk operation.
    Bulk(&'static str, u32, u32, u32),
    /// The host reads from one of the memories: from where, and how many bytes.
    HostRead(usize, u64, usize),
    /// The host writes to one of them.
    HostWrite(usize, u64, usize),
}

impl Access {
    /// Each kind of access at an address; bulk operations with each of these lengths, and another address.
    #[must_use]
    pub fn all_at(at: u32, bulk: &[(u32, u32)]) -> Vec<Self> {
        let mut all = Vec::new();
        for name in ["load8", "load32", "load64", "deep", "loadb", "vector", "notify"] {
            all.push(Self::Load(name, at));
        }
        for name in ["store8", "store64", "storeb", "storev", "add", "exchange", "small"] {
            all.push(Self::Store(name, at, 0x1122_3344_5566_7788));
        }
        for &(length, other) in bulk {
            all.push(Self::Bulk("fill", at, 7, length));
            for name in ["copy", "to_b", "from_b"] {
                all.push(Self::Bulk(name, at, other, length));
                all.push(Self::Bulk(name, other, at, length));
            }
            for memory in 0..2 {
                all.push(Self::HostRead(memory, at.into(), length as usize));
                all.push(Self::HostWrite(memory, at.into(), length as usize));
            }
        }
        all.push(Self::Bulk("init", at, 0, 7));
        all.push(Self::Bulk("init", at, 3, 9));
        all
    }

    /// Does it, to an instance that exports its memories under these names. What it results in, as text.
    ///
    /// # Errors
    /// Whatever it ends with.
    pub fn apply<'code, T>(
        &self,
        store: &mut Store<'code, T>,
        instance: Instance<'code>,
        memories: [&str; 2],
    ) -> Result<String, Error> {
        match *self {
            Self::Load(name, at) => load(store, instance, name, at).map(|value| value.to_string()),
            Self::Store(name, at, value) => {
                let func = instance.typed_func::<(u32, i64), ()>(store, name)?;
                func.call(store, (at, value)).map(|()| "done".to_owned())
            }
            Self::Bulk(name, a, b, c) => {
                let func = instance.typed_func::<(u32, u32, u32), ()>(store, name)?;
                func.call(store, (a, b, c)).map(|()| "done".to_owned())
            }
            Self::HostRead(memory, at, length) => {
                let mut buffer = vec![1; length];
                let memory = instance.memory(store, memories[memory])?;
                memory.read(store, at, &mut buffer).map(|()| format!("{buffer:?}"))
            }
            Self::HostWrite(memory, at, length) => {
                let memory = instance.memory(store, memories[memory])?;
                memory.write(store, at, &vec![200; length]).map(|()| "done".to_owned())
            }
        }
    }
}

/// Calls a function that takes an address, and returns what it returns.
///
/// # Errors
/// Whatever the call ends with.
pub fn load<'code, T>(
    store: &mut Store<'code, T>,
    instance: Instance<'code>,
    name: &str,
    at: u32,
) -> Result<i64, Error> {
    instance.typed_func::<u32, i64>(store, name)?.call(store, at)
}
