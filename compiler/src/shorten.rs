//! Shorter forms of x86-64 instructions, in functions that are generated already.
//!
//! The code generator does not know how far away the target of a forward branch will be, and so gives every branch a
//! displacement of 32 bits. Most would do with 8. Nor does it know which places on the stack most instructions will refer to, and gives
//! those away that are near as it comes. Here, functions are read again (`listing`), instructions that
//! have a shorter form get it (`forms`, `frame`, `limit`, `operand`), or can have one in return for a longer one elsewhere (`places`), those that
//! are needless go (`retest`), and everything behind them moves: what branches and addresses in the code say, and what is said about offsets in it elsewhere.
//!
//! A function in which there is anything that is not understood stays as it was.
//!
//! What comes out does what the other did, instruction by instruction, but for loads that are part of the next one, and what is gone. Builds with debug assertions
//! compare the two, by other means (`check`).

pub(crate) mod check;
mod forms;
mod frame;
mod limit;
mod listing;
mod operand;
mod places;
mod retest;

use cwasm_artifact::cpu::CpuFeatures;

use crate::codegen::Code;
use forms::Branch;
use listing::{Change, Listing, Spot};

/// After so many rounds, branches stay as they are. Nearly all functions need four at most. A branch
/// that only gets short after others did, one after another, would cost the square of their number.
const ROUNDS: usize = 16;

/// What short forms are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Only those that do not take longer.
    Speed,
    /// All. Processors pass on what was stored on the stack faster where it is referred to by the stack pointer.
    Size,
}

/// Code of so many bytes is more than processors keep of decoded instructions.
const LONG: u32 = 16 << 10;

/// Blocks of so many bytes each, on average, are most likely passed one after another.
const STRAIGHT: u32 = 1 << 10;

impl Aim {
    /// What is faster for a function: if it is long, has no loops and hardly a branch, the shorter forms of places on the stack. Nothing of it
    /// is found decoded, so it takes as long as its bytes take to arrive, which counts more. In a loop of that length, it did
    /// not.
    ///
    /// The function has so many blocks, and these edges between them, and ends at `end`.
    pub(crate) fn for_speed(blocks: usize, edges: &[(u32, u32)], end: u32) -> Self {
        let is_straight = end >= LONG && blocks <= (end / STRAIGHT) as usize;
        match is_straight && edges.iter().all(|(from, to)| from < to) {
            true => Self::Size,
            false => Self::Speed,
        }
    }
}

/// Shortens the code of a function, and moves everything in it along; also the offsets of its `blocks`, and of the edges between
/// them. A last block without code is taken away. Returns what CPU features it needs, or `None` if it is not understood and nothing was changed.
pub(crate) fn shorten(
    code: &mut Code,
    blocks: &mut Vec<u32>,
    edges: &mut Vec<(u32, u32)>,
    aim: Aim,
) -> Option<CpuFeatures> {
    let mut listing = Listing::of(code, blocks, aim)?;
    let targets = targets(&listing.spots);
    let saved = settle(&mut listing.spots, &targets)?;
    if saved.last().is_none_or(|all| *all == 0) {
        leave_out_last(&listing, blocks, edges);
        return Some(listing.features);
    }
    let moves = Moves::new(&listing, &saved, &targets, code.alignment)?;
    let bytes = rewrite(&code.bytes, &listing, &moves)?;

    // Nothing fails from here on.
    leave_out_last(&listing, blocks, edges);
    code.bytes = bytes;
    for relocation in &mut code.relocations {
        relocation.offset = moves.of(relocation.offset);
    }
    for site in &mut code.sites {
        site.text = moves.of(site.text);
    }
    for handler in &mut code.handlers {
        handler.call = moves.of(handler.call);
        handler.handler = moves.of(handler.handler);
    }
    for (offset, _) in code.unwind.iter_mut().flat_map(|unwind| &mut unwind.rules) {
        *offset = moves.of(*offset);
    }
    for block in blocks {
        *block = moves.of(*block);
    }
    for (from, to) in edges {
        (*from, *to) = (moves.of(*from), moves.of(*to));
    }
    Some(listing.features)
}

/// Takes the last block away, if it is empty.
fn leave_out_last(listing: &Listing, blocks: &mut Vec<u32>, edges: &mut Vec<(u32, u32)>) {
    if listing.last_is_empty
        && let Some(empty) = blocks.pop()
    {
        edges.retain(|(from, to)| *from != empty && *to != empty);
    }
}

/// How many spots begin before what each leads to.
fn targets(spots: &[Spot]) -> Vec<usize> {
    let target = |spot: &Spot| match spot.change {
        Change::Branch(Branch { target, .. }) | Change::Address { target, .. } => {
            before(spots, target)
        }
        Change::Form(_) => 0,
    };
    spots.iter().map(target).collect()
}

/// Makes all branches short that can be, and returns how many bytes are saved before each spot, and at the end before all
/// that is behind them.
///
/// Distances only get smaller, so what was short stays so, and what comes out is right after any number of rounds.
fn settle(spots: &mut [Spot], targets: &[usize]) -> Option<Vec<i32>> {
    let mut saved = savings(spots)?;
    for _ in 0..ROUNDS {
        let mut changed = false;
        for (number, (spot, target)) in spots.iter_mut().zip(targets).enumerate() {
            let end = spot.end()?;
            let Change::Branch(branch) = &mut spot.change else { continue };
            if branch.short {
                continue;
            }
            let short = Branch { short: true, ..*branch };
            let (here, there) = (*saved.get(number)?, *saved.get(*target)?);
            // What a branch saves itself is between it and its target only if that is before it.
            let here = match *target > number {
                true => *saved.get(number + 1)?,
                false => here + i32::from(spot.length).checked_sub_unsigned(short.length())?,
            };
            let distance =
                i64::from(branch.target) - i64::from(there) - (i64::from(end) - i64::from(here));
            if i8::try_from(distance).is_ok() {
                *branch = short;
                changed = true;
            }
        }
        if !changed {
            break;
        }
        saved = savings(spots)?;
    }
    Some(saved)
}

/// How many spots begin before an offset.
fn before(spots: &[Spot], offset: u32) -> usize {
    spots.partition_point(|spot| spot.offset < offset)
}

fn savings(spots: &[Spot]) -> Option<Vec<i32>> {
    let mut sum = 0_i32;
    let mut saved = Vec::with_capacity(spots.len() + 1);
    saved.push(sum);
    for spot in spots {
        sum = sum.checked_add(spot.saves()?)?;
        saved.push(sum);
    }
    Some(saved)
}

/// Where everything in a function moves to.
struct Moves<'a> {
    spots: &'a [Spot],
    /// As [`settle`] returns it.
    saved: &'a [i32],
    /// As [`targets`] returns it.
    targets: &'a [usize],
    /// Where constants begin and where they begin now, if there are any.
    data: Option<(u32, u32)>,
}

impl<'a> Moves<'a> {
    fn new(
        listing: &'a Listing,
        saved: &'a [i32],
        targets: &'a [usize],
        alignment: u32,
    ) -> Option<Self> {
        let code = Self { spots: &listing.spots, saved, targets, data: None };
        let data = match listing.data {
            None => None,
            Some(start) => {
                // As far from a multiple of the alignment as before: the constants are aligned among themselves.
                let end = code.of(listing.end);
                let gap = start.checked_sub(end)?.checked_rem(alignment)?;
                Some((start, end.checked_add(gap)?))
            }
        };
        Some(Self { data, ..code })
    }

    /// Where the start or end of an instruction or table is now.
    fn of(&self, offset: u32) -> u32 {
        self.behind(before(self.spots, offset), offset)
    }

    /// The same, if it is known how many spots begin before.
    fn behind(&self, spots: usize, offset: u32) -> u32 {
        offset.saturating_sub_signed(self.saved.get(spots).copied().unwrap_or_default())
    }

    /// Where something is now that a spot leads to: an instruction, a table, or a constant.
    fn of_target(&self, spot: usize, offset: u32) -> Option<u32> {
        match self.data {
            Some((start, now)) if offset >= start => now.checked_add(offset - start),
            _ => Some(self.behind(*self.targets.get(spot)?, offset)),
        }
    }
}

/// The code with everything in its new place.
fn rewrite(code: &[u8], listing: &Listing, moves: &Moves<'_>) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(code.len());
    let mut copied = 0;
    for (number, spot) in listing.spots.iter().enumerate() {
        bytes.extend_from_slice(code.get(copied..spot.offset as usize)?);
        let old = code.get(spot.offset as usize..spot.end()? as usize)?;
        copied = spot.end()? as usize;
        // Where the instruction ends is what distances are counted from.
        let end = i64::from(moves.behind(number + 1, spot.end()?));
        let distance =
            |target: u32| i32::try_from(i64::from(moves.of_target(number, target)?) - end).ok();
        match &spot.change {
            Change::Branch(branch) => branch.write(distance(branch.target)?, &mut bytes)?,
            Change::Address { field, target } => {
                let start = bytes.len();
                bytes.extend_from_slice(old);
                put(&mut bytes, start + usize::from(*field), distance(*target)?)?;
            }
            Change::Form(form) => bytes.extend_from_slice(form.bytes()),
        }
        if i64::try_from(bytes.len()).ok()? != end {
            return None;
        }
    }
    bytes.extend_from_slice(code.get(copied..listing.end as usize)?);
    for table in &listing.tables {
        let start = moves.of(table.start);
        for entry in (table.start..table.end).step_by(4) {
            let distance = i64::from(moves.of(listing::entry(code, table, entry)?));
            let distance = i32::try_from(distance - i64::from(start)).ok()?;
            put(&mut bytes, (start + (entry - table.start)) as usize, distance)?;
        }
    }
    if let Some((start, now)) = moves.data {
        bytes.resize(now as usize, 0);
        bytes.extend_from_slice(code.get(start as usize..)?);
    }
    Some(bytes)
}

/// Overwrites four bytes.
fn put(bytes: &mut [u8], place: usize, value: i32) -> Option<()> {
    *bytes.get_mut(place..)?.first_chunk_mut()? = value.to_le_bytes();
    Some(())
}

#[cfg(test)]
mod tests;
