//! Bytes as lower-case hexadecimal text, the form in which digests are shown
//! and typed.

/// Displays bytes in hexadecimal.
#[derive(Clone, Copy, Debug)]
pub struct Hex<'a>(pub &'a [u8]);

impl core::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // Digests and keys, of at most 32 bytes, are written at once.
        for part in self.0.chunks(32) {
            let mut digits = [0; 64];
            for (pair, byte) in digits.chunks_exact_mut(2).zip(part) {
                pair[0] = DIGITS[usize::from(byte >> 4)];
                pair[1] = DIGITS[usize::from(byte & 15)];
            }
            let digits = &digits[..2 * part.len()];
            f.write_str(core::str::from_utf8(digits).map_err(|_| core::fmt::Error)?)?;
        }
        Ok(())
    }
}

/// The 32 bytes that 64 hexadecimal digits (of either case) stand for.
#[must_use]
pub const fn parse_digest(text: &str) -> Option<[u8; 32]> {
    parse(text)
}

/// The `N` bytes that twice as many hexadecimal digits (of either case) stand for.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "two digits are a byte")]
pub const fn parse<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    let mut at = 0;
    while at < N {
        let pair = (digits[2 * at] as char, digits[2 * at + 1] as char);
        let (Some(high), Some(low)) = (pair.0.to_digit(16), pair.1.to_digit(16)) else {
            return None;
        };
        bytes[at] = (high << 4 | low) as u8;
        at += 1;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_round_trip_and_others_are_refused() {
        let digest: [u8; 32] = core::array::from_fn(|i| u8::try_from(i * 7).unwrap());
        let text = Hex(&digest).to_string();
        assert_eq!(parse_digest(&text), Some(digest));
        assert_eq!(parse_digest(&text.to_uppercase()), Some(digest));
        assert_eq!(parse_digest(&text[1..]), None);
        assert_eq!(parse_digest(&format!("{}zz", &text[2..])), None);
    }
}
