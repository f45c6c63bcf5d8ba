//! Values as C has them.

use cwasm_loader::Val;

use crate::object::Error;

/// `cwasm_value_t`: a kind, and the member of a union that it names.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Value {
    kind: u32,
    of: Of,
}

#[derive(Clone, Copy)]
#[repr(C)]
union Of {
    i32: i32,
    i64: i64,
    /// The bits of a `float`.
    f32: u32,
    /// The bits of a `double`.
    f64: u64,
}

const I32: u32 = 0;
const I64: u32 = 1;
const F32: u32 = 2;
const F64: u32 = 3;

impl Value {
    /// Reads the value.
    ///
    /// # Safety
    /// The member that the kind names was written.
    pub(crate) unsafe fn to_val(self) -> Result<Val<'static>, Error> {
        // SAFETY: the caller's promise; every pattern of bits is a value of these types.
        unsafe {
            match self.kind {
                I32 => Ok(Val::I32(self.of.i32)),
                I64 => Ok(Val::I64(self.of.i64)),
                F32 => Ok(Val::F32(self.of.f32)),
                F64 => Ok(Val::F64(self.of.f64)),
                kind => Err(Error::misuse(format!("there is no value of the kind {kind}"))),
            }
        }
    }

    pub(crate) fn of(value: &Val<'_>) -> Result<Self, Error> {
        match *value {
            Val::I32(value) => Ok(Self { kind: I32, of: Of { i32: value } }),
            Val::I64(value) => Ok(Self { kind: I64, of: Of { i64: value } }),
            Val::F32(value) => Ok(Self { kind: F32, of: Of { f32: value } }),
            Val::F64(value) => Ok(Self { kind: F64, of: Of { f64: value } }),
            _ => {
                Err(Error::misuse(format!("a result of type {} cannot be passed to C", value.ty())))
            }
        }
    }
}
