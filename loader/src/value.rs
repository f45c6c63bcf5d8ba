//! Values at the border between host and wasm.

use std::any::Any;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use cwasm_artifact::types::{HeapType, RefType, ValType};

use crate::any_ref::{AnyRef, Collected};
use crate::error::Error;
use crate::exception::ExnRef;
use crate::func::Func;
use crate::store::{AsStore, AsStoreMut, StoreCore};
use crate::vm::layout::VmValue;
use crate::vm::table::RawRef;

/// A value of the host that wasm can hold and pass around, but not look into.
///
/// The value lives as long as its store.
///
/// Wasm can also make a reference like this of one to an object or a small integer (`extern.convert_any`). [`ExternRef::to_any`] gives those, and
/// says how long a handle of an object lasts. Two references are equal if they are to the same value of the host, to equal integers,
/// or copies of one handle; [`AnyRef::same`] tells whether two handles are of the same object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternRef(pub(crate) Collected);

impl ExternRef {
    /// Puts a value into a store for wasm to refer to.
    pub fn new<'c>(store: &mut impl AsStoreMut<'c>, value: impl Any + Send + Sync) -> Self {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        Self(Collected::Host { store: core.id, number: core.add_extern(Box::new(value)) })
    }

    /// The value.
    ///
    /// # Errors
    /// [`Error::WrongStore`]; [`Error::NotOfTheHost`] if it is one of wasm.
    pub fn get<'s, 'c>(
        &self,
        store: &'s impl AsStore<'c>,
    ) -> Result<&'s (dyn Any + Send + Sync), Error>
    where
        'c: 's,
    {
        let core = store.as_store().core();
        let wrong = Error::WrongStore { what: "external reference" };
        match self.0 {
            Collected::Host { store, number } if store == core.id => {
                core.extern_value(number).ok_or(wrong)
            }
            Collected::Object { store, .. } if store == core.id => Err(Error::NotOfTheHost),
            Collected::I31(_) => Err(Error::NotOfTheHost),
            _ => Err(wrong),
        }
    }

    /// The same reference as wasm has it inside (`any.convert_extern`).
    #[must_use]
    pub fn to_any(self) -> AnyRef {
        AnyRef(self.0)
    }
}

/// A reference, as tables hold them.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Ref<'code> {
    /// A function, or null.
    Func(Option<Func<'code>>),
    /// A value of the host, or null.
    Extern(Option<ExternRef>),
    /// An exception, or null.
    Exn(Option<ExnRef>),
    /// A structure, an array, a small integer or a value of the host that became one of these, or null.
    Any(Option<AnyRef>),
}

impl<'code> Ref<'code> {
    /// The most general type of the reference: `funcref`, `externref`, `exnref` or `anyref`.
    #[must_use]
    pub fn ty(&self) -> ValType {
        match self {
            Self::Func(_) => ValType::FuncRef,
            Self::Extern(_) => ValType::ExternRef,
            Self::Exn(_) => ValType::ExnRef,
            Self::Any(_) => ValType::AnyRef,
        }
    }

    /// The null of a type.
    #[must_use]
    pub fn null(ty: RefType) -> Self {
        match ty.heap.top() {
            HeapType::Extern => Self::Extern(None),
            HeapType::Exn => Self::Exn(None),
            HeapType::Any => Self::Any(None),
            _ => Self::Func(None),
        }
    }

    /// Whether the reference is null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Func(None) | Self::Extern(None) | Self::Exn(None) | Self::Any(None))
    }

    /// The most special type that this very reference has.
    fn own_type(self, core: &StoreCore<'_>) -> Result<RefType, Error> {
        let non_null = |heap| Ok(RefType { nullable: false, heap });
        match self {
            Self::Func(Some(func)) => non_null(HeapType::Concrete(func.type_ref_in(core)?)),
            Self::Extern(Some(_)) => non_null(HeapType::Extern),
            Self::Exn(Some(_)) => non_null(HeapType::Exn),
            Self::Any(Some(value)) => non_null(value.0.own_type(core)?),
            Self::Func(None) => Ok(RefType::FUNC.null()),
            Self::Extern(None) => Ok(RefType::EXTERN.null()),
            Self::Exn(None) => Ok(RefType::EXN.null()),
            Self::Any(None) => Ok(RefType::ANY.null()),
        }
    }

    pub(crate) fn to_raw(self, wanted: ValType, core: &StoreCore<'_>) -> Result<RawRef, Error> {
        // Any function is a `funcref`, whose type need not be looked up; and so for others.
        if self.ty() != wanted {
            let found = ValType::Ref(self.own_type(core)?);
            if !core.is_subtype_of(found, wanted) {
                return Err(Error::ValueType { wanted, found });
            }
        }
        match self {
            Self::Func(None) | Self::Extern(None) | Self::Exn(None) | Self::Any(None) => {
                Ok(ptr::null_mut())
            }
            Self::Func(Some(func)) => Ok(func.raw(core)?.as_ptr().cast()),
            Self::Extern(Some(ExternRef(value))) | Self::Any(Some(AnyRef(value))) => {
                value.to_raw(core)
            }
            Self::Exn(Some(exception)) => exception.to_raw(core),
        }
    }

    /// # Safety
    /// `raw` is a reference of type `ty` that belongs to the store.
    pub(crate) unsafe fn from_raw(raw: RawRef, ty: ValType, core: &StoreCore<'code>) -> Self {
        let top = if let ValType::Ref(ty) = ty { ty.heap.top() } else { HeapType::Func };
        match top {
            HeapType::Extern => {
                return Self::Extern(Collected::from_raw(raw, core).map(ExternRef));
            }
            HeapType::Any => return Self::Any(Collected::from_raw(raw, core).map(AnyRef)),
            // SAFETY: by the caller's promise.
            HeapType::Exn => return Self::Exn(unsafe { ExnRef::from_raw(raw, core) }),
            _ => {}
        }
        // SAFETY: a function reference that is not null points to a
        // `VmFuncRef` of the store, by the caller's promise.
        Self::Func(NonNull::new(raw.cast()).map(|raw| unsafe { Func::from_raw(raw, core) }))
    }
}

/// A value of any type.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Val<'code> {
    /// An `i32`.
    I32(i32),
    /// An `i64`.
    I64(i64),
    /// The bits of an `f32`.
    F32(u32),
    /// The bits of an `f64`.
    F64(u64),
    /// The bits of a `v128`. The first byte in memory is the lowest.
    V128(u128),
    /// A reference to a function, or null.
    FuncRef(Option<Func<'code>>),
    /// A reference to a value of the host, or null.
    ExternRef(Option<ExternRef>),
    /// A reference to an exception, or null.
    ExnRef(Option<ExnRef>),
    /// A reference to a structure, an array, a small integer or a value of the host that became one of these, or null.
    AnyRef(Option<AnyRef>),
}

impl<'code> Val<'code> {
    /// The type of the value; of a reference the most general one: `funcref`, `externref`, `exnref` or `anyref`.
    #[must_use]
    pub fn ty(&self) -> ValType {
        match self {
            Self::I32(_) => ValType::I32,
            Self::I64(_) => ValType::I64,
            Self::F32(_) => ValType::F32,
            Self::F64(_) => ValType::F64,
            Self::V128(_) => ValType::V128,
            Self::FuncRef(_) => ValType::FuncRef,
            Self::ExternRef(_) => ValType::ExternRef,
            Self::ExnRef(_) => ValType::ExnRef,
            Self::AnyRef(_) => ValType::AnyRef,
        }
    }

    /// Zero, or null, also of types that have no null.
    #[must_use]
    pub fn default_of(ty: ValType) -> Self {
        match ty {
            ValType::I64 => Self::I64(0),
            ValType::F32 => Self::F32(0),
            ValType::F64 => Self::F64(0),
            ValType::V128 => Self::V128(0),
            ValType::Ref(ty) => Ref::null(ty).into(),
            _ => Self::I32(0),
        }
    }

    /// The value, if it is an `i32`.
    #[must_use]
    pub fn i32(&self) -> Option<i32> {
        if let Self::I32(value) = self { Some(*value) } else { None }
    }

    /// The value, if it is an `i64`.
    #[must_use]
    pub fn i64(&self) -> Option<i64> {
        if let Self::I64(value) = self { Some(*value) } else { None }
    }

    /// The value, if it is an `f32`.
    #[must_use]
    pub fn f32(&self) -> Option<f32> {
        if let Self::F32(bits) = self { Some(f32::from_bits(*bits)) } else { None }
    }

    /// The value, if it is an `f64`.
    #[must_use]
    pub fn f64(&self) -> Option<f64> {
        if let Self::F64(bits) = self { Some(f64::from_bits(*bits)) } else { None }
    }

    /// The bits, if it is a `v128`. The first byte in memory is the lowest.
    #[must_use]
    pub fn v128(&self) -> Option<u128> {
        if let Self::V128(bits) = self { Some(*bits) } else { None }
    }

    /// The reference, if it is one of type `anyref` that is not null.
    #[must_use]
    pub fn as_any(&self) -> Option<AnyRef> {
        if let Self::AnyRef(value) = self { *value } else { None }
    }

    /// The value as wasm takes it, if it has the type `wanted` and belongs to the store.
    #[expect(clippy::cast_sign_loss, reason = "the bits are what counts")]
    pub(crate) fn to_raw(self, wanted: ValType, core: &StoreCore<'_>) -> Result<VmValue, Error> {
        if self.ty() != wanted && !(self.ty().is_ref() && wanted.is_ref()) {
            return Err(Error::ValueType { wanted, found: self.ty() });
        }
        Ok(match self {
            Self::I32(value) => VmValue((value as u32).into()),
            Self::I64(value) => VmValue((value as u64).into()),
            Self::F32(bits) => VmValue(bits.into()),
            Self::F64(bits) => VmValue(bits.into()),
            Self::V128(bits) => VmValue(bits),
            Self::FuncRef(func) => VmValue::from_ref(Ref::Func(func).to_raw(wanted, core)?),
            Self::ExternRef(value) => VmValue::from_ref(Ref::Extern(value).to_raw(wanted, core)?),
            Self::ExnRef(value) => VmValue::from_ref(Ref::Exn(value).to_raw(wanted, core)?),
            Self::AnyRef(value) => VmValue::from_ref(Ref::Any(value).to_raw(wanted, core)?),
        })
    }

    /// # Safety
    /// `raw` holds a value of type `ty`, and a reference belongs to the store.
    #[expect(clippy::cast_possible_wrap, reason = "the bits are what counts")]
    pub(crate) unsafe fn from_raw(raw: VmValue, ty: ValType, core: &StoreCore<'code>) -> Self {
        match ty {
            ValType::I32 => Self::I32(raw.low32() as i32),
            ValType::I64 => Self::I64(raw.low64() as i64),
            ValType::F32 => Self::F32(raw.low32()),
            ValType::F64 => Self::F64(raw.low64()),
            ValType::V128 => Self::V128(raw.0),
            // SAFETY: the caller promises the same.
            ty => match unsafe { Ref::from_raw(raw.to_ref(), ty, core) } {
                Ref::Func(func) => Self::FuncRef(func),
                Ref::Extern(value) => Self::ExternRef(value),
                Ref::Exn(value) => Self::ExnRef(value),
                Ref::Any(value) => Self::AnyRef(value),
            },
        }
    }
}

impl<'code> From<Ref<'code>> for Val<'code> {
    fn from(value: Ref<'code>) -> Self {
        match value {
            Ref::Func(func) => Self::FuncRef(func),
            Ref::Extern(value) => Self::ExternRef(value),
            Ref::Exn(value) => Self::ExnRef(value),
            Ref::Any(value) => Self::AnyRef(value),
        }
    }
}

macro_rules! from_number {
    ($($ty:ty => $variant:ident $convert:expr;)*) => { $(
        impl From<$ty> for Val<'_> {
            fn from(value: $ty) -> Self {
                Self::$variant($convert(value))
            }
        }
    )* };
}

from_number! {
    i32 => I32 core::convert::identity;
    i64 => I64 core::convert::identity;
    f32 => F32 f32::to_bits;
    f64 => F64 f64::to_bits;
    u128 => V128 core::convert::identity;
}

impl VmValue {
    /// The value of type `ty` in a slot, of which nobody has written more than the value's own bytes.
    ///
    /// # Safety
    /// The slot holds such a value.
    pub(crate) unsafe fn load(slot: *const Self, ty: ValType) -> Self {
        // SAFETY: by the caller's promise; the low bytes come first.
        unsafe {
            match ty {
                ValType::I32 | ValType::F32 => Self(slot.cast::<u32>().read().into()),
                ValType::V128 => slot.read(),
                // References, too.
                _ => Self(slot.cast::<u64>().read().into()),
            }
        }
    }

    /// The low 32 bits, where values of 32 bits are.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
    pub(crate) fn low32(self) -> u32 {
        self.0 as u32
    }

    /// The low 64 bits, where values of 64 bits are.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
    pub(crate) fn low64(self) -> u64 {
        self.0 as u64
    }

    pub(crate) fn from_ref(raw: RawRef) -> Self {
        // Compiled code carries the pointer in a register and gives it back.
        Self(raw.expose_provenance() as u128)
    }

    pub(crate) fn to_ref(self) -> RawRef {
        ptr::with_exposed_provenance_mut(usize::try_from(self.low64()).unwrap_or(0))
    }
}

/// A type that typed functions take and return: `i32`, `u32`, `i64`, `u64`,
/// `f32`, `f64`, `u128` for a `v128`, `Option<ExternRef>`, and `Option<AnyRef>`.
///
/// Wasm functions may take and return more special references than these. Arguments are checked then.
///
/// Sealed: implementations must agree with compiled code.
pub trait WasmTy: sealed::Raw + Copy + 'static {
    /// The wasm type.
    const TYPE: ValType;
}

pub(crate) mod sealed {
    use core::mem::MaybeUninit;

    use super::{AnyRef, Collected, Error, ExternRef, StoreCore, VmValue};

    /// Conversion to and from the slots and registers that values travel in.
    pub trait Raw: Sized {
        /// What compiled code passes: its bytes are the low ones of a slot.
        #[doc(hidden)]
        type Wire: Copy;
        /// The registers that a function takes and returns it in, if the C calling convention and that of wasm agree on them.
        #[doc(hidden)]
        const REGISTER: Option<Register>;
        #[doc(hidden)]
        fn to_wire(self, core: &Core<'_, '_>) -> Result<Self::Wire, Error>;
        /// # Safety
        /// A reference must belong to the store.
        #[doc(hidden)]
        unsafe fn from_wire(wire: Self::Wire, core: &Core<'_, '_>) -> Self;
        /// Writes no more of the slot than the value's own bytes: nobody reads others.
        #[doc(hidden)]
        #[inline]
        fn to_slot(self, slot: &mut MaybeUninit<Slot>, core: &Core<'_, '_>) -> Result<(), Error> {
            const { assert!(size_of::<Self::Wire>() <= size_of::<Slot>()) };
            const { assert!(align_of::<Self::Wire>() <= align_of::<Slot>()) };
            let wire = self.to_wire(core)?;
            // SAFETY: the slot is borrowed exclusively, large enough and aligned, by the assertions.
            unsafe { slot.as_mut_ptr().cast::<Self::Wire>().write(wire) };
            Ok(())
        }
        /// Reads no more of the slot than the value's own bytes: compiled code wrote
        /// no others.
        ///
        /// # Safety
        /// `slot` must hold a value of this type, of the store.
        #[doc(hidden)]
        #[inline]
        unsafe fn from_slot(slot: *const Slot, core: &Core<'_, '_>) -> Self {
            // SAFETY: the slot holds such a value, by the caller's promise; the low bytes come first.
            unsafe { Self::from_wire(slot.cast::<Self::Wire>().read(), core) }
        }
    }

    /// Registers of one kind, which calling conventions count by themselves.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Register {
        /// For integers and references.
        General,
        /// For floating-point numbers.
        Vector,
    }

    /// A value in its slot.
    #[derive(Clone, Copy, Debug)]
    pub struct Slot(#[expect(dead_code, reason = "read by its bytes")] pub(crate) VmValue);

    /// The store that a reference belongs to.
    #[derive(Debug)]
    pub struct Core<'a, 'code>(pub(crate) &'a StoreCore<'code>);

    macro_rules! numbers {
        ($($ty:ty: $register:expr;)*) => { $(
            impl Raw for $ty {
                type Wire = Self;
                const REGISTER: Option<Register> = $register;

                #[inline]
                fn to_wire(self, _: &Core<'_, '_>) -> Result<Self, Error> {
                    Ok(self)
                }

                #[inline]
                unsafe fn from_wire(wire: Self, _: &Core<'_, '_>) -> Self {
                    wire
                }
            }
        )* };
    }

    numbers! {
        i32: Some(Register::General);
        u32: Some(Register::General);
        i64: Some(Register::General);
        u64: Some(Register::General);
        f32: Some(Register::Vector);
        f64: Some(Register::Vector);
        // A vector for wasm, and two integers for C.
        u128: None;
    }

    macro_rules! references {
        ($($ty:ident)*) => { $(
            impl Raw for Option<$ty> {
                type Wire = u64;
                const REGISTER: Option<Register> = Some(Register::General);

                #[inline]
                fn to_wire(self, core: &Core<'_, '_>) -> Result<u64, Error> {
                    let raw = self.map_or(Ok(core::ptr::null_mut()), |it| it.0.to_raw(core.0))?;
                    Ok(VmValue::from_ref(raw).low64())
                }

                #[inline]
                unsafe fn from_wire(wire: u64, core: &Core<'_, '_>) -> Self {
                    Collected::from_raw(VmValue(wire.into()).to_ref(), core.0).map($ty)
                }
            }
        )* };
    }

    references! { ExternRef AnyRef }
}

macro_rules! wasm_types {
    ($($ty:ty => $variant:ident;)*) => { $(
        impl WasmTy for $ty {
            const TYPE: ValType = ValType::$variant;
        }
    )* };
}

wasm_types! {
    i32 => I32;
    u32 => I32;
    i64 => I64;
    u64 => I64;
    f32 => F32;
    f64 => F64;
    u128 => V128;
    Option<ExternRef> => ExternRef;
    Option<AnyRef> => AnyRef;
}

/// A list of [`WasmTy`]s: a single one, or a tuple of up to 16.
///
/// Sealed, like [`WasmTy`].
pub trait WasmTyList: list::Slots + Copy + 'static {
    /// The wasm types.
    fn types() -> Vec<ValType>;
}

pub(crate) mod list {
    use core::mem::MaybeUninit;

    use super::sealed::{Core, Raw, Slot};
    use super::{Error, ValType, WasmTy, WasmTyList};

    /// Conversion to and from a row of slots, and to what a function returns.
    pub trait Slots: Sized {
        #[doc(hidden)]
        const COUNT: usize;
        /// What a function returns to compiled code if it returns the values in registers.
        #[doc(hidden)]
        type Wire: Copy;
        /// Whether it can, by the C calling convention.
        #[doc(hidden)]
        const IN_REGISTERS: bool;
        #[doc(hidden)]
        fn to_wire(self, core: &Core<'_, '_>) -> Result<Self::Wire, Error>;
        #[doc(hidden)]
        fn store(self, slots: &mut [MaybeUninit<Slot>], core: &Core<'_, '_>) -> Result<(), Error>;
        /// # Safety
        /// From `slots` on there must be values of these types, of the store.
        #[doc(hidden)]
        unsafe fn load(slots: *const Slot, core: &Core<'_, '_>) -> Self;
        /// Whether there are as many types, and each fits its own, which is given first.
        #[doc(hidden)]
        fn matches(types: &[ValType], fits: impl Fn(ValType, ValType) -> bool) -> bool;
    }

    impl<V: WasmTy> Slots for V {
        const COUNT: usize = 1;
        type Wire = V::Wire;
        const IN_REGISTERS: bool = V::REGISTER.is_some();

        #[inline]
        fn to_wire(self, core: &Core<'_, '_>) -> Result<V::Wire, Error> {
            Raw::to_wire(self, core)
        }

        #[inline]
        fn store(self, slots: &mut [MaybeUninit<Slot>], core: &Core<'_, '_>) -> Result<(), Error> {
            self.to_slot(&mut slots[0], core)
        }

        #[inline]
        unsafe fn load(slots: *const Slot, core: &Core<'_, '_>) -> Self {
            // SAFETY: the caller promises the same.
            unsafe { V::from_slot(slots, core) }
        }

        fn matches(types: &[ValType], fits: impl Fn(ValType, ValType) -> bool) -> bool {
            matches!(types, [ty] if fits(V::TYPE, *ty))
        }
    }

    impl<V: WasmTy> WasmTyList for V {
        fn types() -> Vec<ValType> {
            vec![V::TYPE]
        }
    }

    macro_rules! tuples {
        ($(($($name:ident $index:tt),*))*) => { $(
            impl<$($name: WasmTy),*> Slots for ($($name,)*) {
                const COUNT: usize = <[usize]>::len(&[$($index),*]);
                type Wire = ($($name::Wire,)*);
                // More than one are in other registers for C than for wasm.
                const IN_REGISTERS: bool = Self::COUNT == 0;

                #[inline]
                #[allow(unused_variables, clippy::unused_unit, reason = "the empty tuple")]
                fn to_wire(self, core: &Core<'_, '_>) -> Result<Self::Wire, Error> {
                    Ok(($( Raw::to_wire(self.$index, core)?, )*))
                }

                #[inline]
                #[allow(unused_variables, reason = "the empty tuple uses neither")]
                fn store(
                    self,
                    slots: &mut [MaybeUninit<Slot>],
                    core: &Core<'_, '_>,
                ) -> Result<(), Error> {
                    $( self.$index.to_slot(&mut slots[$index], core)?; )*
                    Ok(())
                }

                #[inline]
                #[allow(unused_variables, clippy::unused_unit, reason = "the empty tuple")]
                unsafe fn load(slots: *const Slot, core: &Core<'_, '_>) -> Self {
                    // SAFETY: by the caller's promise there are as many slots, with
                    // values of these types.
                    ($( unsafe { $name::from_slot(slots.add($index), core) }, )*)
                }

                #[allow(unused_variables, reason = "the empty tuple asks nothing")]
                fn matches(types: &[ValType], fits: impl Fn(ValType, ValType) -> bool) -> bool {
                    types.len() == Self::COUNT $( && fits($name::TYPE, types[$index]) )*
                }
            }

            impl<$($name: WasmTy),*> WasmTyList for ($($name,)*) {
                fn types() -> Vec<ValType> {
                    vec![$($name::TYPE),*]
                }
            }
        )* };
    }

    tuples! {
        ()
        (A 0)
        (A 0, B 1)
        (A 0, B 1, C 2)
        (A 0, B 1, C 2, D 3)
        (A 0, B 1, C 2, D 3, E 4)
        (A 0, B 1, C 2, D 3, E 4, F 5)
        (A 0, B 1, C 2, D 3, E 4, F 5, G 6)
        (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7)
        (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8)
        (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9)
        (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10)
        (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11)
        (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12)
        (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13)
        (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13, O 14)
        (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13, O 14, P 15)
    }

    /// How many slots a call has room for.
    pub(crate) const MAX_SLOTS: usize = 16;

    /// Room for the parameters and results of a typed call, with nothing in it.
    pub(crate) fn empty_slots() -> [MaybeUninit<Slot>; MAX_SLOTS] {
        [MaybeUninit::uninit(); MAX_SLOTS]
    }
}

/// Marks a lifetime that a handle borrows.
pub(crate) type Borrow<'code> = PhantomData<&'code ()>;
