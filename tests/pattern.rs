//! Contents of memories that tell where they belong.

use std::ops::Range;

/// Bytes of a memory, none of which is zero.
///
/// # Panics
/// Never: each is below 252.
pub fn pattern(memory: usize, range: Range<usize>) -> impl Iterator<Item = u8> {
    range.map(move |at| {
        u8::try_from((at * 31 + at / 251 + at / 65_537 * 7 + memory * 99) % 251).unwrap() + 1
    })
}

/// A segment in the text format that puts them into a memory.
#[must_use]
pub fn data(memory: usize, at: usize, length: usize) -> String {
    let bytes: String =
        pattern(memory, at..at + length).map(|byte| format!("\\{byte:02x}")).collect();
    format!("(data (memory {memory}) (i32.const {at}) \"{bytes}\")")
}
