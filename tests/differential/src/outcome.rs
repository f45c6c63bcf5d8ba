//! What a module did, in terms that no engine has a part in.

/// A type of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are wasm's")]
pub enum Type {
    I32,
    I64,
    F32,
    F64,
    V128,
    FuncRef,
    ExternRef,
}

/// The bits of a value; of a reference, whether it leads anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are wasm's")]
pub enum Value {
    I32(u32),
    I64(u64),
    F32(u32),
    F64(u64),
    V128(u128),
    FuncRef(bool),
    ExternRef(bool),
}

impl Value {
    /// The value, or the canonical NaN in place of any.
    #[must_use]
    pub fn canonical(self) -> Self {
        match self {
            Self::F32(bits) if f32::from_bits(bits).is_nan() => Self::F32(0x7fc0_0000),
            Self::F64(bits) if f64::from_bits(bits).is_nan() => Self::F64(0x7ff8_0000_0000_0000),
            other => other,
        }
    }
}

/// Why an execution ended early, in the words of the specification's test suite.
pub type Trap = &'static str;

/// The trap that depends on how much stack an engine has.
pub const EXHAUSTED: Trap = "call stack exhausted";

/// Everything that a module did that can be seen from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it was instantiated. If not, nothing follows.
    pub instantiated: Option<Trap>,
    /// The calls that were made, in order.
    pub calls: Vec<(String, Result<Vec<Value>, Trap>)>,
    /// Final values of globals.
    pub globals: Vec<(String, Value)>,
    /// Final contents of memories.
    pub memories: Vec<(String, Vec<u8>)>,
    /// Final sizes of tables.
    pub tables: Vec<(String, u64)>,
}

impl Outcome {
    /// Whether an execution ended for want of stack.
    #[must_use]
    pub fn exhausted(&self) -> bool {
        self.instantiated == Some(EXHAUSTED)
            || self.calls.iter().any(|(_, result)| *result == Err(EXHAUSTED))
    }

    /// The first difference between what cwasm did and what it should have.
    #[must_use]
    pub fn difference(found: &Self, wanted: &Self) -> Option<String> {
        if found.instantiated != wanted.instantiated {
            let (found, wanted) = (found.instantiated, wanted.instantiated);
            return Some(format!("instantiation: {found:?} instead of {wanted:?}"));
        }
        first_difference("call", &found.calls, &wanted.calls)
            .or_else(|| first_difference("global", &found.globals, &wanted.globals))
            .or_else(|| first_difference("table", &found.tables, &wanted.tables))
            .or_else(|| {
                let (found, wanted) = (&found.memories, &wanted.memories);
                if found == wanted {
                    return None;
                }
                let pairs = found.iter().zip(wanted).find(|(found, wanted)| found != wanted);
                let Some(((name, found), (_, wanted))) = pairs else {
                    return Some(format!("{} memories, not {}", found.len(), wanted.len()));
                };
                let place = found.iter().zip(wanted).position(|(found, wanted)| found != wanted);
                Some(format!(
                    "memory {name}: {} and {} bytes, first difference at {place:?}",
                    found.len(),
                    wanted.len()
                ))
            })
    }
}

fn first_difference<T: std::fmt::Debug + PartialEq>(
    what: &str,
    found: &[T],
    wanted: &[T],
) -> Option<String> {
    if let Some((found, wanted)) = found.iter().zip(wanted).find(|(found, wanted)| found != wanted)
    {
        return Some(format!("{what}: {found:x?} instead of {wanted:x?}"));
    }
    let (found, wanted) = (found.len(), wanted.len());
    (found != wanted).then(|| format!("{found} {what}s instead of {wanted}"))
}
