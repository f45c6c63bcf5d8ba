//! Which CPU features code really needs: those of the instructions in it, and
//! not all that were allowed. So code for a recent CPU still loads on older
//! ones if it makes no use of the difference.

use cwasm_artifact::cpu::CpuFeatures;
use iced_x86::{CpuidFeature, Decoder, DecoderOptions, FlowControl, Instruction};

/// The features that the x86-64 instructions of a function need.
///
/// `blocks` are the offsets of its basic blocks, ascending. Only what control can
/// reach is decoded: not the jump tables between blocks, and not the constants
/// behind the last one.
pub(crate) fn needed(code: &[u8], blocks: &[u32]) -> CpuFeatures {
    let mut needed = CpuFeatures::NONE;
    let ends = blocks.iter().skip(1).map(|end| *end as usize).chain([code.len()]);
    for (start, end) in blocks.iter().zip(ends) {
        // The code generator states offsets inside the function.
        let block = code.get(*start as usize..end).unwrap_or(&[]);
        needed = needed.union(of_block(block));
    }
    needed
}

/// A block ends at the first instruction that control does not go beyond: neither
/// does it fall through, nor has an earlier branch gone farther. (Some operations are
/// sequences with branches of their own, which are not blocks.)
fn of_block(code: &[u8]) -> CpuFeatures {
    let mut needed = CpuFeatures::NONE;
    let mut reached = 0;
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        for feature in instruction.cpuid_features() {
            needed = needed.union(known(*feature));
        }
        match instruction.flow_control() {
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                let target = instruction.near_branch_target();
                // Backward branches are to very large addresses or to what was decoded.
                if target <= code.len() as u64 {
                    reached = reached.max(target);
                }
            }
            // A jump table follows.
            FlowControl::IndirectBranch => break,
            _ => {}
        }
        let ends = matches!(
            instruction.flow_control(),
            FlowControl::Return | FlowControl::UnconditionalBranch | FlowControl::Exception
        );
        if ends && reached < decoder.ip() {
            break;
        }
    }
    needed
}

/// The feature as an artifact records it. Those of the baseline need no record.
pub(crate) fn known(feature: CpuidFeature) -> CpuFeatures {
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

    const ROUNDSD: &[u8] = &[0x66, 0x0f, 0x3a, 0x0b, 0xc0, 0x03];
    const POPCNT: &[u8] = &[0xf3, 0x48, 0x0f, 0xb8, 0xc7];
    const RET: &[u8] = &[0xc3];

    #[test]
    fn features_are_those_of_the_instructions() {
        assert_eq!(needed(RET, &[0]), CpuFeatures::NONE);
        assert_eq!(needed(&[ROUNDSD, RET].concat(), &[0]), CpuFeatures::SSE41);
        let both = needed(&[POPCNT, ROUNDSD, RET].concat(), &[0]);
        assert_eq!(both, CpuFeatures::SSE41.union(CpuFeatures::POPCNT));
    }

    #[test]
    fn constants_and_jump_tables_are_no_instructions() {
        assert_eq!(needed(&[RET, POPCNT].concat(), &[0]), CpuFeatures::NONE);
        // jmp rax; a table; the next block.
        let code = [&[0xff, 0xe0], POPCNT, ROUNDSD, RET].concat();
        assert_eq!(needed(&code, &[0, 7]), CpuFeatures::SSE41);
    }

    #[test]
    fn branches_inside_of_an_operation_are_followed() {
        // je +2; jmp +5; popcnt; ret
        let code = [&[0x74, 0x02, 0xeb, 0x05], POPCNT, RET].concat();
        assert_eq!(needed(&code, &[0]), CpuFeatures::POPCNT);
    }

    #[test]
    fn offsets_outside_are_ignored() {
        assert_eq!(needed(RET, &[0, 100]), CpuFeatures::NONE);
    }
}
