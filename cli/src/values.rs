//! Values of wasm as they are typed and shown.

use anyhow::{anyhow, bail};
use cwasm_loader::{Val, ValType};

/// The value of a type that a text stands for.
///
/// Integers are decimal or, with `0x`, hexadecimal, and signed or unsigned;
/// floats are decimal, `inf` or `nan`; a vector is one integer whose lowest byte
/// is the first; of references there is `null`.
pub(crate) fn parse(text: &str, ty: ValType) -> anyhow::Result<Val<'static>> {
    let parsed = match ty {
        ValType::I32 => integer(text, u32::MAX.into())
            .and_then(|bits| u32::try_from(bits & u128::from(u32::MAX)).ok())
            .map(|bits| Val::I32(bits.cast_signed())),
        ValType::I64 => integer(text, u64::MAX.into())
            .and_then(|bits| u64::try_from(bits & u128::from(u64::MAX)).ok())
            .map(|bits| Val::I64(bits.cast_signed())),
        ValType::F32 => text.parse::<f32>().ok().map(Val::from),
        ValType::F64 => text.parse::<f64>().ok().map(Val::from),
        ValType::V128 => integer(text, u128::MAX).map(Val::V128),
        ValType::Ref(_) if text == "null" && ty.has_default() => Some(Val::default_of(ty)),
        ValType::Ref(_) if ty.has_default() => {
            bail!("{text:?} is not a {ty}: only `null` can be given for one")
        }
        ValType::Ref(_) => bail!("a {ty} cannot be given on the command line"),
        _ => None,
    };
    let article = if ty == ValType::V128 { "a" } else { "an" };
    parsed.ok_or_else(|| anyhow!("{text:?} is not {article} {ty}"))
}

/// An integer of either sign whose two's complement fits under `mask`.
fn integer(text: &str, mask: u128) -> Option<u128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    // The standard parser would take a second sign.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let magnitude = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) if hex.starts_with(|c: char| c.is_ascii_hexdigit()) => {
            u128::from_str_radix(hex, 16).ok()?
        }
        Some(_) => return None,
        None => digits.parse().ok()?,
    };
    if negative {
        let smallest = mask / 2 + 1;
        (magnitude <= smallest).then(|| magnitude.wrapping_neg() & mask)
    } else {
        (magnitude <= mask).then_some(magnitude)
    }
}

/// A value as a line of output shows it.
pub(crate) fn show(value: &Val<'_>) -> String {
    match value {
        Val::I32(value) => value.to_string(),
        Val::I64(value) => value.to_string(),
        Val::F32(bits) => f32::from_bits(*bits).to_string(),
        Val::F64(bits) => f64::from_bits(*bits).to_string(),
        Val::V128(bits) => format!("{bits:#034x}"),
        Val::FuncRef(None) | Val::ExternRef(None) | Val::ExnRef(None) | Val::AnyRef(None) => {
            "null".to_owned()
        }
        Val::FuncRef(Some(_)) => "funcref".to_owned(),
        Val::ExternRef(Some(_)) => "externref".to_owned(),
        Val::AnyRef(Some(value)) => match value.as_i31() {
            Some(integer) => format!("(ref.i31 {integer})"),
            None => "anyref".to_owned(),
        },
        other => other.ty().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use cwasm_loader::AnyRef;

    use super::*;

    fn round_trip(text: &str, ty: ValType) -> String {
        show(&parse(text, ty).unwrap())
    }

    #[test]
    fn integers_are_signed_or_unsigned() {
        assert_eq!(round_trip("-2147483648", ValType::I32), "-2147483648");
        assert_eq!(round_trip("4294967295", ValType::I32), "-1");
        assert_eq!(round_trip("0xff", ValType::I32), "255");
        assert_eq!(round_trip("-0x1", ValType::I64), "-1");
        assert_eq!(round_trip("18446744073709551615", ValType::I64), "-1");
        assert_eq!(round_trip("1", ValType::V128), "0x00000000000000000000000000000001");
        let vector = "0x0f0e0d0c0b0a09080706050403020100";
        assert_eq!(round_trip(vector, ValType::V128), vector);
        let error = parse("0x100000000000000000000000000000000", ValType::V128).unwrap_err();
        assert!(error.to_string().ends_with("is not a v128"), "{error}");
        for wrong in
            ["", "-", "--1", "-+1", "+-1", "0x", "0x+1", "4294967296", "-2147483649", "1.0", "x"]
        {
            let error = parse(wrong, ValType::I32).unwrap_err().to_string();
            assert_eq!(error, format!("{wrong:?} is not an i32"));
        }
    }

    #[test]
    fn floats_and_references() {
        assert_eq!(round_trip("1.5", ValType::F32), "1.5");
        assert_eq!(round_trip("-0.0", ValType::F64), "-0");
        assert_eq!(round_trip("nan", ValType::F64), "NaN");
        assert_eq!(round_trip("-inf", ValType::F64), "-inf");
        assert_eq!(round_trip("null", ValType::ExternRef), "null");
        assert_eq!(round_trip("null", ValType::AnyRef), "null");
        assert_eq!(show(&Val::AnyRef(AnyRef::from_i31(-3))), "(ref.i31 -3)");
        assert!(parse("0", ValType::FuncRef).is_err());
    }
}
