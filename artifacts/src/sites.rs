//! Sites: the places in code where it can stop or be seen, each with the
//! operator that it belongs to. A compiler writes them with [`encode`]; a loader
//! finds one with [`Sites`], also in a signal handler: nothing allocates, and damaged
//! bytes lead to no site.
//!
//! There are as many sites as loads, stores and calls, so they are packed: in blocks, each
//! entry as its distance from the one before. A record per block leads to its entries.

use zerocopy::FromBytes as _;
use zerocopy::little_endian::U32;

use crate::abi::traps::Trap;
use crate::records::SiteBlockRecord;

/// A trapping instruction, or the return address of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Text offset.
    pub text: u32,
    /// Byte offset of the operator in the wasm module.
    pub wasm: u32,
    /// Code of the trap, or zero for a return address.
    pub trap: u8,
}

/// A block ends behind this many entries, as soon as the text offset changes.
const BLOCK: usize = 64;

/// What an entry is, in the low bits of its first number.
mod kind {
    /// A return address.
    pub(super) const RETURN: u32 = 0;
    /// The most frequent trap: a memory access out of bounds.
    pub(super) const MEMORY: u32 = 1;
    /// A trap whose code follows in a byte.
    pub(super) const OTHER: u32 = 2;
    /// How many bits this takes.
    pub(super) const BITS: u32 = 2;
}

/// The most that the distance to the next site can be, so that it fits together
/// with the kind. No text is that long.
pub const MAX_DISTANCE: u32 = u32::MAX >> kind::BITS;

/// The bytes of the section for sites that are sorted by text offset.
///
/// `None` if they are not, or lie further apart than [`MAX_DISTANCE`], or are
/// too many for 32-bit offsets.
#[must_use]
pub fn encode(sites: &[Site]) -> Option<Vec<u8>> {
    if sites.is_empty() {
        return Some(Vec::new());
    }
    let mut blocks: Vec<SiteBlockRecord> = Vec::new();
    let mut entries = Vec::with_capacity(sites.len() * 3);
    let mut in_block = BLOCK;
    let mut last = Site { text: 0, wasm: 0, trap: 0 };
    for site in sites {
        let distance = site.text.checked_sub(last.text)?;
        // Sites of one instruction stay together, so that the search finds them all.
        if in_block >= BLOCK && (distance > 0 || blocks.is_empty()) {
            blocks.push(SiteBlockRecord {
                text: site.text.into(),
                wasm: site.wasm.into(),
                entries: u32::try_from(entries.len()).ok()?.into(),
            });
            in_block = 0;
            last = *site;
        }
        let distance = site.text - last.text;
        let kind = match site.trap {
            0 => kind::RETURN,
            trap if trap == Trap::MemoryOutOfBounds.code() => kind::MEMORY,
            _ => kind::OTHER,
        };
        if distance > MAX_DISTANCE {
            return None;
        }
        write(&mut entries, distance << kind::BITS | kind);
        if kind == kind::OTHER {
            entries.push(site.trap);
        }
        let wasm = site.wasm.wrapping_sub(last.wasm).cast_signed();
        write(&mut entries, (wasm << 1 ^ wasm >> 31).cast_unsigned());
        in_block += 1;
        last = *site;
    }
    let count = u32::try_from(blocks.len()).ok()?;
    let mut bytes = count.to_le_bytes().to_vec();
    bytes.extend_from_slice(zerocopy::IntoBytes::as_bytes(&blocks[..]));
    bytes.extend_from_slice(&entries);
    Some(bytes)
}

/// Writes a number in LEB128.
fn write(out: &mut Vec<u8>, mut value: u32) {
    loop {
        let [low, ..] = (value & 0x7f).to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Reads a number in LEB128, of at most five bytes. Bits beyond the 32nd are dropped.
fn read(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0;
    for shift in [0, 7, 14, 21, 28] {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The sites of an artifact, in the bytes of their section.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sites<'a> {
    blocks: &'a [SiteBlockRecord],
    entries: &'a [u8],
}

impl<'a> Sites<'a> {
    /// `None` if the section is too short for its blocks.
    pub(crate) fn new(section: &'a [u8]) -> Option<Self> {
        if section.is_empty() {
            return Some(Self::default());
        }
        let (count, rest) = U32::ref_from_prefix(section).ok()?;
        let count = usize::try_from(count.get()).ok()?;
        let (blocks, entries) =
            <[SiteBlockRecord]>::ref_from_prefix_with_elems(rest, count).ok()?;
        Some(Self { blocks, entries })
    }

    /// The number of the first block that is out of order, or whose entries are not there.
    pub(crate) fn first_invalid_block(&self) -> Option<usize> {
        let mut last = (None, 0);
        self.blocks.iter().position(|block| {
            let (text, entries) = (block.text.get(), block.entries.get());
            let valid = last.0.is_none_or(|last| last < text)
                && last.1 <= entries
                && (entries as usize) < self.entries.len();
            last = (Some(text), entries);
            !valid
        })
    }

    /// The trapping instruction at a text offset.
    #[must_use]
    pub fn trap_at(&self, text: u32) -> Option<Site> {
        self.at(text).find(|site| site.trap != 0)
    }

    /// The call that returns to a text offset.
    #[must_use]
    pub fn return_at(&self, text: u32) -> Option<Site> {
        self.at(text).find(|site| site.trap == 0)
    }

    fn at(&self, text: u32) -> impl Iterator<Item = Site> + use<'a> {
        let after = self.blocks.partition_point(|block| block.text.get() <= text);
        let block = after.checked_sub(1).map(|position| self.block(position));
        block
            .into_iter()
            .flatten()
            .skip_while(move |site| site.text < text)
            .take_while(move |site| site.text == text)
    }

    /// All sites, sorted by text offset.
    pub fn iter(&self) -> impl Iterator<Item = Site> + use<'a> {
        let sites = *self;
        (0..sites.blocks.len()).flat_map(move |position| sites.block(position))
    }

    fn block(&self, position: usize) -> Block<'a> {
        let at = |block: &SiteBlockRecord| block.entries.get() as usize;
        let Some(block) = self.blocks.get(position) else { return Block::default() };
        let end = self.blocks.get(position + 1).map_or(self.entries.len(), at);
        Block {
            entries: self.entries.get(at(block)..end).unwrap_or(&[]),
            text: block.text.get(),
            wasm: block.wasm.get(),
        }
    }
}

/// Decodes the entries of a block.
#[derive(Clone, Copy, Debug, Default)]
struct Block<'a> {
    entries: &'a [u8],
    text: u32,
    wasm: u32,
}

impl Iterator for Block<'_> {
    type Item = Site;

    fn next(&mut self) -> Option<Site> {
        let first = read(&mut self.entries)?;
        let trap = match first & ((1 << kind::BITS) - 1) {
            kind::RETURN => 0,
            kind::MEMORY => Trap::MemoryOutOfBounds.code(),
            kind::OTHER => {
                let (trap, rest) = self.entries.split_first()?;
                self.entries = rest;
                *trap
            }
            _ => return None,
        };
        let wasm = read(&mut self.entries)?;
        self.text = self.text.checked_add(first >> kind::BITS)?;
        self.wasm = self.wasm.wrapping_add(wasm >> 1 ^ (wasm & 1).wrapping_neg());
        Some(Site { text: self.text, wasm: self.wasm, trap })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(text: u32, wasm: u32, trap: u8) -> Site {
        Site { text, wasm, trap }
    }

    #[test]
    fn what_is_written_is_found_again() {
        // Distances of every width, backwards too, and every kind.
        let mut sites = Vec::new();
        let (mut text, mut wasm) = (3, u32::MAX - 5);
        for number in 0..1000_u32 {
            text += 2 << (number % 14);
            wasm = wasm.wrapping_add(if number % 3 == 0 { 1 } else { 1 << (number % 31) });
            let [trap, ..] = (number % 9).to_le_bytes();
            sites.push(site(text, wasm, trap));
        }
        let bytes = encode(&sites).unwrap();
        let read = Sites::new(&bytes).unwrap();
        assert_eq!(read.first_invalid_block(), None);
        assert!(read.iter().eq(sites.iter().copied()));
        for wanted in &sites {
            let found = read.trap_at(wanted.text).or(read.return_at(wanted.text));
            assert_eq!(found, Some(*wanted));
            assert_eq!(read.trap_at(wanted.text - 1).or(read.return_at(wanted.text - 1)), None);
        }
        assert_eq!(read.trap_at(u32::MAX), None);
    }

    #[test]
    fn a_trap_may_stand_where_a_call_returns_to() {
        // Wherever a block might end between the two.
        for before in 0..130 {
            let mut sites: Vec<_> = (0..before).map(|text| site(text, text, 0)).collect();
            sites.extend([site(before, 7, 0), site(before, 8, Trap::Unreachable.code())]);
            sites.extend((1..70).map(|more| site(before + more, 9, 0)));
            let bytes = encode(&sites).unwrap();
            let read = Sites::new(&bytes).unwrap();
            assert_eq!(read.first_invalid_block(), None);
            assert_eq!(read.return_at(before).unwrap().wasm, 7);
            assert_eq!(read.trap_at(before).unwrap().wasm, 8);
            assert!(read.iter().eq(sites));
        }
    }

    #[test]
    fn sites_out_of_order_are_not_written() {
        assert_eq!(encode(&[site(2, 0, 0), site(1, 0, 0)]), None);
        assert_eq!(encode(&[]), Some(Vec::new()));
        assert_eq!(encode(&[site(0, 0, 0), site(u32::MAX, 0, 0)]), None);
    }

    #[test]
    fn damage_is_noticed_or_leads_to_other_sites() {
        // More than a block. Miri takes half a minute for each change.
        let (count, step) = if cfg!(miri) { (70, 61) } else { (200, 1) };
        let sites: Vec<_> = (0..count).map(|text| site(text * 5, text, 1)).collect();
        let bytes = encode(&sites).unwrap();
        for length in (0..bytes.len()).step_by(step) {
            let Some(read) = Sites::new(&bytes[..length]) else { continue };
            assert!(read.iter().count() < sites.len());
        }
        for position in (0..bytes.len()).step_by(step) {
            let mut changed = bytes.clone();
            changed[position] ^= 0xff;
            let Some(read) = Sites::new(&changed) else { continue };
            let _ = read.first_invalid_block();
            assert!(read.iter().count() <= changed.len());
            for text in 0..count * 11 / 2 {
                let _ = read.trap_at(text).or(read.return_at(text));
            }
        }
    }
}
