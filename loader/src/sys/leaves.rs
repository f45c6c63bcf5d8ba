//! The leaves of two chunks at a time.
//!
//! An instruction of SHA-256 waits for the one before it longer than it takes; with those of a second chunk in between, processors
//! get through both in little more than the time of one. The result is that of [`digest::leaf`], which everything else uses.

use cwasm_artifact::digest;

/// The leaves of two chunks.
#[cfg(target_arch = "x86_64")]
pub(crate) fn leaf_pair(chunks: [&[u8]; 2]) -> [[u8; 32]; 2] {
    let has = is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("sse4.1");
    match (has, chunks.map(x86_64::Message::new)) {
        // SAFETY: the processor has the instructions, as it was just asked.
        (true, [Some(first), Some(second)]) => unsafe { x86_64::hash([first, second]) },
        _ => chunks.map(digest::leaf),
    }
}

/// The leaves of two chunks.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn leaf_pair(chunks: [&[u8]; 2]) -> [[u8; 32]; 2] {
    chunks.map(digest::leaf)
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_extract_epi32, _mm_set_epi32,
        _mm_set_epi64x, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32,
        _mm_shuffle_epi8, _mm_shuffle_epi32,
    };

    type Block = [u8; 64];

    /// The initial state (FIPS 180-4, 5.3.3).
    const START: [u32; 8] = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];

    /// The constants of the rounds (FIPS 180-4, 4.2.2).
    #[rustfmt::skip]
    const ROUNDS: [[u32; 4]; 16] = [
        [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
        [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
        [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
        [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
        [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
        [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
        [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
        [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
        [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
        [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
        [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
        [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
        [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
        [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
        [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
        [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
    ];

    /// A chunk with a zero byte before it and the padding of SHA-256 behind it, in blocks.
    pub(super) struct Message<'a> {
        first: [Block; 1],
        middle: &'a [Block],
        end: [Block; 2],
        /// Of those at the end, this many count.
        ends: usize,
    }

    impl<'a> Message<'a> {
        /// `None` if it is too short to be worth it.
        pub(super) fn new(chunk: &'a [u8]) -> Option<Self> {
            let (start, rest) = chunk.split_first_chunk::<63>()?;
            let mut first = [0; 64];
            first[1..].copy_from_slice(start);
            let (middle, rest) = rest.as_chunks::<64>();
            let mut end = [0; 128];
            end[..rest.len()].copy_from_slice(rest);
            end[rest.len()] = 0x80;
            let ends = if rest.len() < 56 { 1 } else { 2 };
            let bits = (chunk.len() as u64 + 1) * 8;
            end[ends * 64 - 8..ends * 64].copy_from_slice(&bits.to_be_bytes());
            let (end, _) = end.as_chunks::<64>();
            Some(Self { first: [first], middle, end: [end[0], end[1]], ends })
        }
    }

    /// The hashes of two messages.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    pub(super) fn hash(messages: [Message<'_>; 2]) -> [[u8; 32]; 2] {
        let [a, b] = &messages;
        let mut states = [START; 2];
        compress(&mut states, [&a.first, &b.first]);
        let both = a.middle.len().min(b.middle.len());
        compress(&mut states, [&a.middle[..both], &b.middle[..both]]);
        let mut hashes = [[0; 32]; 2];
        for ((message, state), hash) in messages.iter().zip(states).zip(&mut hashes) {
            let mut state = [state];
            compress(&mut state, [&message.middle[both..]]);
            compress(&mut state, [&message.end[..message.ends]]);
            for (word, bytes) in state[0].iter().zip(hash.as_chunks_mut::<4>().0) {
                *bytes = word.to_be_bytes();
            }
        }
        hashes
    }

    /// Takes as many blocks of each lane as all have into the states.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    #[inline]
    fn compress<const LANES: usize>(states: &mut [[u32; 8]; LANES], blocks: [&[Block]; LANES]) {
        let zero = _mm_set_epi32(0, 0, 0, 0);
        // The instructions want the state as ABEF and CDGH, the first in the highest place.
        let (mut abef, mut cdgh) = ([zero; LANES], [zero; LANES]);
        for lane in 0..LANES {
            let [a, b, c, d, e, f, g, h] = states[lane].map(u32::cast_signed);
            abef[lane] = _mm_set_epi32(a, b, e, f);
            cdgh[lane] = _mm_set_epi32(c, d, g, h);
        }
        let mut rest = blocks;
        while let Some(blocks) = next(&mut rest) {
            let before = (abef, cdgh);
            let mut words = [[zero; LANES]; 4];
            // Written out, since a loop would keep the words in memory.
            macro_rules! rounds {
                ($($round:literal)*) => {$(
                    let [k0, k1, k2, k3] = ROUNDS[$round].map(u32::cast_signed);
                    let constants = _mm_set_epi32(k3, k2, k1, k0);
                    let mut sums = [zero; LANES];
                    for lane in 0..LANES {
                        let next = if $round < 4 {
                            big_endian(blocks[lane], $round % 4)
                        } else {
                            let word = |back: usize| words[($round + 4 - back) % 4][lane];
                            let sum = _mm_add_epi32(
                                _mm_sha256msg1_epu32(word(4), word(3)),
                                _mm_alignr_epi8::<4>(word(1), word(2)),
                            );
                            _mm_sha256msg2_epu32(sum, word(1))
                        };
                        words[$round % 4][lane] = next;
                        sums[lane] = _mm_add_epi32(next, constants);
                    }
                    for lane in 0..LANES {
                        cdgh[lane] = _mm_sha256rnds2_epu32(cdgh[lane], abef[lane], sums[lane]);
                    }
                    for lane in 0..LANES {
                        let sum = _mm_shuffle_epi32::<0x0e>(sums[lane]);
                        abef[lane] = _mm_sha256rnds2_epu32(abef[lane], cdgh[lane], sum);
                    }
                )*};
            }
            rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            for lane in 0..LANES {
                abef[lane] = _mm_add_epi32(abef[lane], before.0[lane]);
                cdgh[lane] = _mm_add_epi32(cdgh[lane], before.1[lane]);
            }
        }
        for lane in 0..LANES {
            // ABEF and CDGH, from the highest place down, become ABCD and EFGH, from the lowest up.
            let (low, high) =
                (_mm_shuffle_epi32::<0x1b>(abef[lane]), _mm_shuffle_epi32::<0xb1>(cdgh[lane]));
            states[lane][..4].copy_from_slice(&numbers(_mm_blend_epi16::<0xf0>(low, high)));
            states[lane][4..].copy_from_slice(&numbers(_mm_alignr_epi8::<8>(high, low)));
        }
    }

    /// Takes the first block from each lane, if all have one.
    #[inline]
    fn next<'a, const LANES: usize>(rest: &mut [&'a [Block]; LANES]) -> Option<[&'a Block; LANES]> {
        if rest.iter().any(|lane| lane.is_empty()) {
            return None;
        }
        Some(rest.each_mut().map(|lane| {
            let (first, behind) = lane.split_at(1);
            *lane = behind;
            &first[0]
        }))
    }

    /// Four words of a block.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    #[inline]
    fn big_endian(block: &Block, quarter: usize) -> __m128i {
        let (halves, _) = block.as_chunks::<8>();
        let [low, high] = [halves[quarter * 2], halves[quarter * 2 + 1]].map(i64::from_le_bytes);
        let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        _mm_shuffle_epi8(_mm_set_epi64x(high, low), order)
    }

    #[target_feature(enable = "sha,ssse3,sse4.1")]
    #[inline]
    fn numbers(vector: __m128i) -> [u32; 4] {
        [
            _mm_extract_epi32::<0>(vector),
            _mm_extract_epi32::<1>(vector),
            _mm_extract_epi32::<2>(vector),
            _mm_extract_epi32::<3>(vector),
        ]
        .map(i32::cast_unsigned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that do not repeat soon.
    fn bytes(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(&mut next).take(length).collect()
    }

    #[test]
    fn they_are_the_leaves_of_each() {
        let (first, second) = (bytes(70_000, 1), bytes(70_000, 2));
        let lengths: Vec<_> = (0..300).chain([4096, 65_535, 65_536, 65_537]).collect();
        for (number, length) in lengths.iter().enumerate() {
            // One against each other near it, and against one that is much longer.
            for other in
                [*length, length + 1, length + 64, lengths[number * 7 % lengths.len()], 65_536]
            {
                let chunks = [&first[..*length], &second[..other]];
                assert_eq!(leaf_pair(chunks), chunks.map(digest::leaf), "{length} {other}");
            }
        }
        assert_eq!(
            leaf_pair([&first[1..], &first[2..]]),
            [&first[1..], &first[2..]].map(digest::leaf)
        );
    }
}
