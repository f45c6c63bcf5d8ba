//! Comparing results with what a script asserts.

use cwasm_loader::{AsStore, HeapType, TrapKind, Val};
use wast::WastRet;
use wast::core::{NanPattern, V128Pattern, WastRetCore};
use wast::token::{F32, F64};

/// Whether a value is what was asserted.
pub(crate) fn matches<'c>(store: &impl AsStore<'c>, found: &Val<'_>, wanted: &WastRet<'_>) -> bool {
    match wanted {
        WastRet::Core(wanted) => matches_core(store, found, wanted),
        _ => false,
    }
}

fn matches_core<'c>(store: &impl AsStore<'c>, found: &Val<'_>, wanted: &WastRetCore<'_>) -> bool {
    match (found, wanted) {
        (found, WastRetCore::Either(any)) => {
            any.iter().any(|wanted| matches_core(store, found, wanted))
        }
        (Val::I32(found), WastRetCore::I32(_)) => bits_match(found.cast_unsigned().into(), wanted),
        (Val::I64(found), WastRetCore::I64(_)) => bits_match(found.cast_unsigned().into(), wanted),
        (Val::F32(found), WastRetCore::F32(_)) => bits_match(u128::from(*found), wanted),
        (Val::F64(found), WastRetCore::F64(_)) => bits_match(u128::from(*found), wanted),
        (Val::V128(found), WastRetCore::V128(_)) => bits_match(*found, wanted),
        (
            Val::FuncRef(None) | Val::ExternRef(None) | Val::ExnRef(None) | Val::AnyRef(None),
            WastRetCore::RefNull(_),
        ) => true,
        (Val::FuncRef(Some(_)), WastRetCore::RefFunc(_)) => true,
        (Val::ExternRef(Some(_)), WastRetCore::RefExtern(None)) => true,
        (Val::ExternRef(Some(found)), WastRetCore::RefExtern(Some(wanted))) => {
            found.get(store).is_ok_and(|value| value.downcast_ref() == Some(wanted))
        }
        (Val::AnyRef(Some(_)), WastRetCore::RefAny) => true,
        (Val::AnyRef(Some(found)), WastRetCore::RefHost(wanted)) => {
            let value = found.to_extern();
            value.get(store).is_ok_and(|value| value.downcast_ref() == Some(wanted))
        }
        (Val::AnyRef(Some(found)), wanted) => {
            found.ty(store).is_ok_and(|found| heap_type_matches(found, wanted))
        }
        _ => false,
    }
}

/// Whether the very type of an object or integer is the one that was asserted, or below it.
fn heap_type_matches(found: HeapType, wanted: &WastRetCore<'_>) -> bool {
    let wanted = match wanted {
        WastRetCore::RefEq => HeapType::Eq,
        WastRetCore::RefI31 => HeapType::I31,
        WastRetCore::RefStruct => HeapType::Struct,
        WastRetCore::RefArray => HeapType::Array,
        _ => return false,
    };
    // No declared type is among those.
    found.matches(wanted, |_, _| false)
}

/// Whether the low bits of a slot are the number or vector that was asserted. `false` for what is neither.
#[must_use]
pub fn bits_match(found: u128, wanted: &WastRetCore<'_>) -> bool {
    let [low32] = lanes(found.to_le_bytes()).map(u32::from_le_bytes);
    let [low64] = lanes(found.to_le_bytes()).map(u64::from_le_bytes);
    match wanted {
        WastRetCore::I32(wanted) => low32 == wanted.cast_unsigned(),
        WastRetCore::I64(wanted) => low64 == wanted.cast_unsigned(),
        WastRetCore::F32(wanted) => matches_f32(low32, wanted),
        WastRetCore::F64(wanted) => matches_f64(low64, wanted),
        WastRetCore::V128(wanted) => matches_v128(found, wanted),
        _ => false,
    }
}

fn matches_f32(found: u32, wanted: &NanPattern<F32>) -> bool {
    match wanted {
        NanPattern::CanonicalNan => found & 0x7fff_ffff == 0x7fc0_0000,
        NanPattern::ArithmeticNan => found & 0x7fc0_0000 == 0x7fc0_0000,
        NanPattern::Value(wanted) => found == wanted.bits,
    }
}

fn matches_f64(found: u64, wanted: &NanPattern<F64>) -> bool {
    match wanted {
        NanPattern::CanonicalNan => found & 0x7fff_ffff_ffff_ffff == 0x7ff8_0000_0000_0000,
        NanPattern::ArithmeticNan => found & 0x7ff8_0000_0000_0000 == 0x7ff8_0000_0000_0000,
        NanPattern::Value(wanted) => found == wanted.bits,
    }
}

fn matches_v128(found: u128, wanted: &V128Pattern) -> bool {
    let bytes = found.to_le_bytes();
    match wanted {
        V128Pattern::I8x16(wanted) => lanes(bytes).map(i8::from_le_bytes) == *wanted,
        V128Pattern::I16x8(wanted) => lanes(bytes).map(i16::from_le_bytes) == *wanted,
        V128Pattern::I32x4(wanted) => lanes(bytes).map(i32::from_le_bytes) == *wanted,
        V128Pattern::I64x2(wanted) => lanes(bytes).map(i64::from_le_bytes) == *wanted,
        V128Pattern::F32x4(wanted) => {
            let found: [u32; 4] = lanes(bytes).map(u32::from_le_bytes);
            found.into_iter().zip(wanted).all(|(found, wanted)| matches_f32(found, wanted))
        }
        V128Pattern::F64x2(wanted) => {
            let found: [u64; 2] = lanes(bytes).map(u64::from_le_bytes);
            found.into_iter().zip(wanted).all(|(found, wanted)| matches_f64(found, wanted))
        }
    }
}

/// The lanes of a vector, `N` of `SIZE` bytes each.
fn lanes<const SIZE: usize, const N: usize>(bytes: [u8; 16]) -> [[u8; SIZE]; N] {
    std::array::from_fn(|lane| std::array::from_fn(|byte| bytes[lane * SIZE + byte]))
}

/// Whether a trap is the one that a script asserts by its message.
///
/// Scripts abbreviate messages, and add details of the reference interpreter
/// to them; one is a prefix of the other.
#[must_use]
pub fn trap_matches(found: TrapKind, wanted: &str) -> bool {
    let found = found.message();
    wanted.starts_with(found) || found.starts_with(wanted)
}
