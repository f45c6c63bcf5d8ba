//! Which CPU features code really needs: those of the instructions in it, and
//! not all that were allowed. So code for a recent CPU still loads on older
//! ones if it makes no use of the difference.

use cwasm_artifact::cpu::CpuFeatures;
use iced_x86::{CpuidFeature, Decoder, DecoderOptions, Instruction};

/// The features, out of `allowed`, that x86-64 instructions need.
///
/// Constants between functions are decoded too, as if they were instructions;
/// they can only add features that were allowed.
pub(crate) fn needed<'a>(
    functions: impl Iterator<Item = &'a [u8]>,
    allowed: CpuFeatures,
) -> CpuFeatures {
    let mut needed = CpuFeatures::NONE;
    let mut instruction = Instruction::default();
    for code in functions {
        let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
        while decoder.can_decode() && needed != allowed {
            decoder.decode_out(&mut instruction);
            for feature in instruction.cpuid_features() {
                needed = needed.union(known(*feature).intersection(allowed));
            }
        }
    }
    needed
}

/// The feature as an artifact records it. Those of the baseline need no record.
fn known(feature: CpuidFeature) -> CpuFeatures {
    match feature {
        CpuidFeature::SSE3 => CpuFeatures::SSE3,
        CpuidFeature::SSSE3 => CpuFeatures::SSSE3,
        CpuidFeature::CMPXCHG16B => CpuFeatures::CMPXCHG16B,
        CpuidFeature::SSE4_1 => CpuFeatures::SSE41,
        CpuidFeature::SSE4_2 => CpuFeatures::SSE42,
        CpuidFeature::POPCNT => CpuFeatures::POPCNT,
        CpuidFeature::AVX => CpuFeatures::AVX,
        CpuidFeature::AVX2 => CpuFeatures::AVX2,
        CpuidFeature::FMA => CpuFeatures::FMA,
        CpuidFeature::BMI1 => CpuFeatures::BMI1,
        CpuidFeature::BMI2 => CpuFeatures::BMI2,
        CpuidFeature::LZCNT => CpuFeatures::LZCNT,
        CpuidFeature::AVX512F => CpuFeatures::AVX512F,
        CpuidFeature::AVX512VL => CpuFeatures::AVX512VL,
        CpuidFeature::AVX512DQ => CpuFeatures::AVX512DQ,
        CpuidFeature::AVX512_VBMI => CpuFeatures::AVX512VBMI,
        CpuidFeature::AVX512_BITALG => CpuFeatures::AVX512BITALG,
        CpuidFeature::AVX512_VNNI => CpuFeatures::AVX512VNNI,
        _ => CpuFeatures::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_of_the_instructions_that_were_allowed() {
        let roundsd: &[u8] = &[0x66, 0x0f, 0x3a, 0x0b, 0xc0, 0x03];
        let popcnt: &[u8] = &[0xf3, 0x48, 0x0f, 0xb8, 0xc7, 0xc3];
        let allowed = CpuFeatures::SSE41.union(CpuFeatures::POPCNT).union(CpuFeatures::AVX);
        let of = |code: &[&'static [u8]]| needed(code.iter().copied(), allowed);
        assert_eq!(of(&[&[0xc3]]), CpuFeatures::NONE);
        assert_eq!(of(&[roundsd]), CpuFeatures::SSE41);
        assert_eq!(of(&[popcnt, roundsd]), CpuFeatures::SSE41.union(CpuFeatures::POPCNT));
        assert_eq!(needed([popcnt].into_iter(), CpuFeatures::SSE41), CpuFeatures::NONE);
    }
}
