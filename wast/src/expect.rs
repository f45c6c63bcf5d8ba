//! Comparing results with what a script asserts.

use cwasm_loader::{AsStore, Trap, Val};
use wast::WastRet;
use wast::core::{NanPattern, WastRetCore};

/// Whether a value is what was asserted.
pub(crate) fn matches<'c>(store: &impl AsStore<'c>, found: &Val<'_>, wanted: &WastRet<'_>) -> bool {
    match wanted {
        WastRet::Core(wanted) => matches_core(store, found, wanted),
        _ => false,
    }
}

fn matches_core<'c>(store: &impl AsStore<'c>, found: &Val<'_>, wanted: &WastRetCore<'_>) -> bool {
    match (found, wanted) {
        (Val::I32(found), WastRetCore::I32(wanted)) => found == wanted,
        (Val::I64(found), WastRetCore::I64(wanted)) => found == wanted,
        (Val::F32(found), WastRetCore::F32(wanted)) => match wanted {
            NanPattern::CanonicalNan => found & 0x7fff_ffff == 0x7fc0_0000,
            NanPattern::ArithmeticNan => found & 0x7fc0_0000 == 0x7fc0_0000,
            NanPattern::Value(wanted) => *found == wanted.bits,
        },
        (Val::F64(found), WastRetCore::F64(wanted)) => match wanted {
            NanPattern::CanonicalNan => found & 0x7fff_ffff_ffff_ffff == 0x7ff8_0000_0000_0000,
            NanPattern::ArithmeticNan => found & 0x7ff8_0000_0000_0000 == 0x7ff8_0000_0000_0000,
            NanPattern::Value(wanted) => *found == wanted.bits,
        },
        (
            Val::FuncRef(None) | Val::ExternRef(None) | Val::ExnRef(None),
            WastRetCore::RefNull(_),
        ) => true,
        (Val::FuncRef(Some(_)), WastRetCore::RefFunc(_)) => true,
        (Val::ExternRef(Some(_)), WastRetCore::RefExtern(None)) => true,
        (Val::ExternRef(Some(found)), WastRetCore::RefExtern(Some(wanted))) => {
            found.get(store).is_ok_and(|value| value.downcast_ref() == Some(wanted))
        }
        (found, WastRetCore::Either(any)) => {
            any.iter().any(|wanted| matches_core(store, found, wanted))
        }
        _ => false,
    }
}

/// Whether a trap is the one that a script asserts by its message.
///
/// Scripts abbreviate messages, and add details of the reference interpreter
/// to them; one is a prefix of the other.
pub(crate) fn trap_matches(found: &Trap, wanted: &str) -> bool {
    let found = found.kind().message();
    wanted.starts_with(found) || found.starts_with(wanted)
}
