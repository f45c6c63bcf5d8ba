//! Checked access to the memory of the guest.
//!
//! Pointers and lengths arrive as the guest wrote them. A range that does not
//! lie in memory is `Errno::Fault`; sums are taken in 64 bits, in which two
//! 32-bit numbers cannot overflow. Nothing is allocated by a length of the
//! guest: what a call moves at once is bounded by the size of its memory.

use crate::types::Errno;
use core::ops::Range;
use std::borrow::Cow;
use std::io::{IoSlice, IoSliceMut};

/// How many buffers a vectored call looks at. Calls may move less than was
/// asked for, so that the guest asks again for the rest.
const MAX_BUFFERS: usize = 128;

/// Longest path of the guest: that of the host's system calls.
const MAX_PATH: u32 = 4096;

/// The place of `len` bytes at `ptr`, if they lie in memory.
fn range(memory: &[u8], ptr: u32, len: u32) -> Result<Range<usize>, Errno> {
    let end = u64::from(ptr) + u64::from(len);
    let size = u64::try_from(memory.len()).map_err(|_| Errno::Fault)?;
    if end > size {
        return Err(Errno::Fault);
    }
    let start = usize::try_from(ptr).map_err(|_| Errno::Fault)?;
    let end = usize::try_from(end).map_err(|_| Errno::Fault)?;
    Ok(start..end)
}

/// The memory of a guest while it calls.
///
/// What a call needs of it goes through here, so that a call neither knows nor
/// cares whether other threads of the guest see the same memory.
pub struct GuestMemory<'a> {
    bytes: &'a mut [u8],
}

impl<'a> From<&'a mut [u8]> for GuestMemory<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Self { bytes }
    }
}

impl core::fmt::Debug for GuestMemory<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("GuestMemory").field("len", &self.bytes.len()).finish()
    }
}

impl GuestMemory<'_> {
    /// Checks that `len` bytes at `ptr` lie in memory. Calls with an effect on
    /// the outside check where their result goes before they begin.
    pub(crate) fn check(&self, ptr: u32, len: usize) -> Result<(), Errno> {
        let len = u32::try_from(len).map_err(|_| Errno::Fault)?;
        range(self.bytes, ptr, len).map(|_| ())
    }

    /// The `len` bytes at `ptr`.
    pub(crate) fn read(&self, ptr: u32, len: u32) -> Result<Cow<'_, [u8]>, Errno> {
        bytes(self.bytes, ptr, len).map(Cow::Borrowed)
    }

    /// Copies `bytes` to `ptr`.
    pub(crate) fn write(&mut self, ptr: u32, bytes: &[u8]) -> Result<(), Errno> {
        let len = u32::try_from(bytes.len()).map_err(|_| Errno::Fault)?;
        bytes_mut(self.bytes, ptr, len)?.copy_from_slice(bytes);
        Ok(())
    }

    /// Writes a number of 32 bits to `ptr`.
    pub(crate) fn write_u32(&mut self, ptr: u32, value: u32) -> Result<(), Errno> {
        self.write(ptr, &value.to_le_bytes())
    }

    /// Writes a number of 64 bits to `ptr`.
    pub(crate) fn write_u64(&mut self, ptr: u32, value: u64) -> Result<(), Errno> {
        self.write(ptr, &value.to_le_bytes())
    }

    /// Writes a length or a count, which a `size` of the guest must hold.
    pub(crate) fn write_size(&mut self, ptr: u32, value: usize) -> Result<(), Errno> {
        self.write_u32(ptr, u32::try_from(value).map_err(|_| Errno::Overflow)?)
    }

    /// The path at `ptr`: UTF-8 without a NUL.
    pub(crate) fn path(&self, ptr: u32, len: u32) -> Result<Cow<'_, str>, Errno> {
        self.check(ptr, usize::try_from(len).map_err(|_| Errno::Fault)?)?;
        if len > MAX_PATH {
            return Err(Errno::NameTooLong);
        }
        let path = match self.read(ptr, len)? {
            Cow::Borrowed(path) => {
                Cow::Borrowed(core::str::from_utf8(path).map_err(|_| Errno::IlSeq)?)
            }
            Cow::Owned(path) => Cow::Owned(String::from_utf8(path).map_err(|_| Errno::IlSeq)?),
        };
        if path.contains('\0') { Err(Errno::Inval) } else { Ok(path) }
    }

    /// Lets `fill` write the `len` bytes at `ptr`, in one or more pieces.
    pub(crate) fn fill(
        &mut self,
        ptr: u32,
        len: u32,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        fill(bytes_mut(self.bytes, ptr, len)?)
    }

    /// Lets `read` read into the buffers of an `iovec_array`: the bytes go where
    /// they belong without a copy. Returns what `read` does.
    pub(crate) fn read_in(
        &mut self,
        ptr: u32,
        count: u32,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        read(&mut buffers_mut(self.bytes, ptr, count)?)
    }

    /// Lets `write` write out the buffers of a `ciovec_array`, without a copy.
    /// Returns what `write` does.
    pub(crate) fn write_out(
        &self,
        ptr: u32,
        count: u32,
        write: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        write(&buffers(self.bytes, ptr, count)?)
    }
}

/// The `len` bytes at `ptr`.
fn bytes(memory: &[u8], ptr: u32, len: u32) -> Result<&[u8], Errno> {
    let range = range(memory, ptr, len)?;
    memory.get(range).ok_or(Errno::Fault)
}

/// The `len` bytes at `ptr`, to be written.
fn bytes_mut(memory: &mut [u8], ptr: u32, len: u32) -> Result<&mut [u8], Errno> {
    let range = range(memory, ptr, len)?;
    memory.get_mut(range).ok_or(Errno::Fault)
}

/// The buffers of a `ciovec_array`, from which a call writes out.
fn buffers(memory: &[u8], ptr: u32, count: u32) -> Result<Vec<IoSlice<'_>>, Errno> {
    let ranges = buffer_ranges(memory, ptr, count)?;
    Ok(ranges.into_iter().map(|range| IoSlice::new(&memory[range])).collect())
}

/// The buffers of an `iovec_array`, into which a call reads.
///
/// Buffers that overlap an earlier one end the list: a read that is shorter
/// than asked for is always in order, and Rust has no overlapping `&mut`.
fn buffers_mut(memory: &mut [u8], ptr: u32, count: u32) -> Result<Vec<IoSliceMut<'_>>, Errno> {
    let mut ranges = buffer_ranges(memory, ptr, count)?;
    let overlaps = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
    let disjoint = (0..ranges.len())
        .find(|&index| ranges[..index].iter().any(|earlier| overlaps(earlier, &ranges[index])));
    ranges.truncate(disjoint.unwrap_or(ranges.len()));

    // Cut the memory from left to right, then put the pieces in their order.
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_unstable_by_key(|&index| ranges[index].start);
    let mut pieces = Vec::with_capacity(ranges.len());
    let (mut rest, mut offset) = (memory, 0);
    for index in order {
        let Range { start, end } = ranges[index];
        let (_, tail) = rest.split_at_mut(start - offset);
        let (piece, tail) = tail.split_at_mut(end - start);
        pieces.push((index, IoSliceMut::new(piece)));
        (rest, offset) = (tail, end);
    }
    pieces.sort_unstable_by_key(|&(index, _)| index);
    Ok(pieces.into_iter().map(|(_, piece)| piece).collect())
}

/// The places of the buffers that a vectored call moves: those that are not
/// empty, up to [`MAX_BUFFERS`] and in all no longer than the memory (only
/// buffers that overlap could be longer).
fn buffer_ranges(memory: &[u8], ptr: u32, count: u32) -> Result<Vec<Range<usize>>, Errno> {
    const SIZE: usize = 8;
    let len = u64::from(count) * 8;
    let records = bytes(memory, ptr, u32::try_from(len).map_err(|_| Errno::Fault)?)?;
    let word = |bytes: &[u8]| u32::from_le_bytes(core::array::from_fn(|index| bytes[index]));
    let mut left = memory.len();
    let mut ranges = Vec::with_capacity(usize::min(records.len() / SIZE, MAX_BUFFERS));
    for record in records.chunks_exact(SIZE) {
        let (ptr, len) = (word(record), word(&record[4..]));
        if len == 0 {
            continue;
        }
        let range = range(memory, ptr, len)?;
        if ranges.len() == MAX_BUFFERS || left == 0 {
            break;
        }
        let taken = usize::min(range.len(), left);
        left -= taken;
        ranges.push(range.start..range.start + taken);
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A memory with the records `iovecs` at its start.
    fn memory_with(size: usize, iovecs: &[(u32, u32)]) -> Vec<u8> {
        let mut memory = vec![0; size];
        for (index, &(ptr, len)) in iovecs.iter().enumerate() {
            memory[index * 8..index * 8 + 4].copy_from_slice(&ptr.to_le_bytes());
            memory[index * 8 + 4..index * 8 + 8].copy_from_slice(&len.to_le_bytes());
        }
        memory
    }

    fn lengths(buffers: &[IoSliceMut<'_>]) -> Vec<usize> {
        buffers.iter().map(|buffer| buffer.len()).collect()
    }

    #[test]
    fn ranges_end_where_memory_ends() {
        let mut memory = [0; 16];
        assert_eq!(bytes(&memory, 8, 8).map(<[u8]>::len), Ok(8));
        assert_eq!(bytes(&memory, 16, 0).map(<[u8]>::len), Ok(0));
        assert_eq!(bytes(&memory, 9, 8), Err(Errno::Fault));
        assert_eq!(bytes(&memory, u32::MAX, 1), Err(Errno::Fault));
        assert_eq!(bytes(&memory, 1, u32::MAX), Err(Errno::Fault));
        assert_eq!(bytes(&memory, u32::MAX, u32::MAX), Err(Errno::Fault));
        let mut guest = GuestMemory::from(&mut memory[..]);
        assert_eq!(guest.write_u64(9, 0), Err(Errno::Fault));
        assert_eq!(guest.write_u64(8, u64::MAX), Ok(()));
        assert_eq!(memory[7..9], [0, 0xff]);
    }

    #[test]
    fn paths_are_text_without_nul() {
        let mut memory = *b"dir/\xffile\0x";
        let memory = GuestMemory::from(&mut memory[..]);
        assert_eq!(memory.path(0, 4), Ok("dir/".into()));
        assert_eq!(memory.path(0, 5), Err(Errno::IlSeq));
        assert_eq!(memory.path(5, 5), Err(Errno::Inval));
        assert_eq!(memory.path(0, 12), Err(Errno::Fault));
        let mut long = [b'a'; 5000];
        assert_eq!(GuestMemory::from(&mut long[..]).path(0, 4097), Err(Errno::NameTooLong));
    }

    #[test]
    fn buffers_out_of_memory_are_refused() {
        let memory = memory_with(64, &[(32, 8), (60, 8)]);
        assert_eq!(buffers(&memory, 0, 2).map(|_| ()), Err(Errno::Fault));
        assert_eq!(buffers(&memory, 0, 1).map(|list| list.len()), Ok(1));
        // The records themselves: the product wraps to 0 in 32 bits.
        assert_eq!(buffers(&memory, 0, 1 << 29).map(|_| ()), Err(Errno::Fault));
        assert_eq!(buffers(&memory, 64, 1).map(|_| ()), Err(Errno::Fault));
        assert_eq!(buffers(&memory, u32::MAX, u32::MAX).map(|_| ()), Err(Errno::Fault));
        assert_eq!(buffers(&memory, 64, 0).map(|list| list.len()), Ok(0));
    }

    #[test]
    fn buffers_keep_their_order_and_stop_at_an_overlap() {
        let mut memory = memory_with(64, &[(56, 4), (40, 2), (48, 3), (41, 4), (60, 1)]);
        let mut list = buffers_mut(&mut memory, 0, 5).unwrap();
        assert_eq!(lengths(&list), [4, 2, 3]);
        for (index, buffer) in list.iter_mut().enumerate() {
            buffer.fill(u8::try_from(index).unwrap() + 1);
        }
        assert_eq!(
            memory[40..64],
            [2, 2, 0, 0, 0, 0, 0, 0, 3, 3, 3, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
        );
    }

    #[test]
    fn overlapping_sources_move_no_more_than_the_memory_holds() {
        let memory = memory_with(64, &[(0, 64); 8]);
        let total: usize = buffers(&memory, 0, 8).unwrap().iter().map(|slice| slice.len()).sum();
        assert_eq!(total, 64);
    }

    proptest! {
        #[test]
        fn no_argument_panics(
            memory in proptest::collection::vec(any::<u8>(), 0..256),
            ptr in prop_oneof![0..300_u32, any::<u32>()],
            len in prop_oneof![0..300_u32, any::<u32>()],
        ) {
            let mut memory = memory;
            let size = memory.len();
            let _ = bytes_mut(&mut memory, ptr, len);
            let _ = GuestMemory::from(&mut memory[..]).path(ptr, len);
            if let Ok(list) = buffers(&memory, ptr, len) {
                prop_assert!(list.iter().map(|slice| slice.len()).sum::<usize>() <= size);
            }
            if let Ok(list) = buffers_mut(&mut memory, ptr, len) {
                prop_assert!(list.iter().map(|slice| slice.len()).sum::<usize>() <= size);
            }
        }
    }
}
