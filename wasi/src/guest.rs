//! Checked access to the memory of the guest.
//!
//! Pointers and lengths arrive as the guest wrote them. A range that does not
//! lie in memory is `Errno::Fault`; sums are taken in 64 bits, in which two
//! 32-bit numbers cannot overflow. Nothing is allocated by a length of the
//! guest: what a call moves at once is bounded by the size of its memory.

use crate::types::Errno;
use core::ops::Range;
use cwasm_loader::{Error, MemoryBytes, SharedMemory};
use std::borrow::Cow;
use std::cell::OnceCell;
use std::io::{IoSlice, IoSliceMut};

/// How many buffers a vectored call looks at. Calls may move less than was
/// asked for, so that the guest asks again for the rest.
const MAX_BUFFERS: usize = 128;

/// How many buffers a call may be given. Linux takes 1024; the empty ones among
/// them cost time, and nothing else bounds them.
const MAX_RECORDS: u32 = 65_536;

/// Longest path of the guest: that of the host's system calls.
const MAX_PATH: u32 = 4096;

/// The most that a call moves at once through a copy, if other threads see the
/// memory.
const MAX_COPY: usize = 64 * 1024;

/// The memory of a guest while it calls.
///
/// What a call needs of it goes through here, so that a call neither knows nor
/// cares whether other threads of the guest see the same memory. If they do,
/// everything is copied once, before it is looked at: what another thread changes
/// later changes nothing.
///
/// A memory of which the host has yet to load a part may turn out to lack it, since its file was changed. To the call that is
/// [`Errno::Fault`]; [`Call::finish`](crate::calls::Call::finish) then says why, and the guest does not go on.
pub struct GuestMemory<'a> {
    kind: Kind<'a>,
    /// Why bytes that lie in memory could not be had.
    lost: OnceCell<Error>,
}

enum Kind<'a> {
    /// The call has it for itself.
    Exclusive(MemoryBytes<'a>),
    /// Other threads use it meanwhile.
    Shared(&'a SharedMemory),
}

impl<'a> From<&'a mut [u8]> for GuestMemory<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        MemoryBytes::from(bytes).into()
    }
}

impl<'a> From<MemoryBytes<'a>> for GuestMemory<'a> {
    fn from(bytes: MemoryBytes<'a>) -> Self {
        Self { kind: Kind::Exclusive(bytes), lost: OnceCell::new() }
    }
}

impl<'a> From<&'a SharedMemory> for GuestMemory<'a> {
    fn from(memory: &'a SharedMemory) -> Self {
        Self { kind: Kind::Shared(memory), lost: OnceCell::new() }
    }
}

impl core::fmt::Debug for GuestMemory<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("GuestMemory").field("size", &self.size()).finish()
    }
}

/// Notes why bytes could not be had, all of which lie in memory.
fn noted(lost: &OnceCell<Error>) -> impl Fn(Error) -> Errno {
    move |error| {
        // The first reason counts.
        let _ = lost.set(error);
        Errno::Fault
    }
}

impl GuestMemory<'_> {
    /// Why bytes that lie in memory could not be had, if that happened.
    pub(crate) fn into_lost(self) -> Option<Error> {
        self.lost.into_inner()
    }

    fn size(&self) -> u64 {
        match &self.kind {
            Kind::Exclusive(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Kind::Shared(memory) => memory.size_bytes(),
        }
    }

    /// The place of `len` bytes at `ptr`, if they lie in memory.
    fn range(&self, ptr: u32, len: u32) -> Result<Range<usize>, Errno> {
        range(self.size(), ptr, len)
    }

    /// Checks that `len` bytes at `ptr` lie in memory, and are there. Calls with an effect on
    /// the outside check where their result goes before they begin.
    pub(crate) fn check(&self, ptr: u32, len: usize) -> Result<(), Errno> {
        let len = u32::try_from(len).map_err(|_| Errno::Fault)?;
        let range = self.range(ptr, len)?;
        match &self.kind {
            Kind::Exclusive(bytes) => bytes.load(range).map_err(noted(&self.lost)),
            Kind::Shared(_) => Ok(()),
        }
    }

    /// The `len` bytes at `ptr`. Callers bound `len`, since it may be a copy.
    pub(crate) fn read(&self, ptr: u32, len: u32) -> Result<Cow<'_, [u8]>, Errno> {
        let range = self.range(ptr, len)?;
        match &self.kind {
            Kind::Exclusive(bytes) => {
                bytes.get(range).map(Cow::Borrowed).map_err(noted(&self.lost))
            }
            Kind::Shared(memory) => {
                let mut copy = vec![0; range.len()];
                memory.read(u64::from(ptr), &mut copy).map_err(|_| Errno::Fault)?;
                Ok(Cow::Owned(copy))
            }
        }
    }

    /// Copies `bytes` to `ptr`.
    pub(crate) fn write(&mut self, ptr: u32, bytes: &[u8]) -> Result<(), Errno> {
        let len = u32::try_from(bytes.len()).map_err(|_| Errno::Fault)?;
        let range = self.range(ptr, len)?;
        match &mut self.kind {
            Kind::Exclusive(memory) => {
                memory.get_mut(range).map_err(noted(&self.lost))?.copy_from_slice(bytes);
                Ok(())
            }
            Kind::Shared(memory) => memory.write(u64::from(ptr), bytes).map_err(|_| Errno::Fault),
        }
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
        self.range(ptr, len)?;
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
        let range = self.range(ptr, len)?;
        match &mut self.kind {
            Kind::Exclusive(memory) => fill(memory.get_mut(range).map_err(noted(&self.lost))?),
            Kind::Shared(memory) => {
                let mut copy = vec![0; range.len().min(MAX_COPY)];
                let mut at = u64::from(ptr);
                let mut left = range.len();
                while left > 0 {
                    let piece = &mut copy[..left.min(MAX_COPY)];
                    fill(piece)?;
                    memory.write(at, piece).map_err(|_| Errno::Fault)?;
                    at += u64::try_from(piece.len()).map_err(|_| Errno::Fault)?;
                    left -= piece.len();
                }
                Ok(())
            }
        }
    }

    /// Lets `read` read into the buffers of an `iovec_array`: the bytes go where
    /// they belong, without a copy if no other thread sees the memory. Returns
    /// what `read` does.
    pub(crate) fn read_in(
        &mut self,
        ptr: u32,
        count: u32,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let ranges = self.buffer_ranges(ptr, count)?;
        match &mut self.kind {
            Kind::Exclusive(memory) => {
                // Buffers that overlap an earlier one end the list: a read that is shorter
                // than asked for is always in order, and Rust has no overlapping `&mut`.
                let buffers = memory.get_disjoint_mut(&ranges).map_err(noted(&self.lost))?;
                read(&mut buffers.into_iter().map(IoSliceMut::new).collect::<Vec<_>>())
            }
            Kind::Shared(memory) => {
                let total = ranges.iter().map(Range::len).sum::<usize>().min(MAX_COPY);
                let mut copy = vec![0; total];
                let len = read(&mut [IoSliceMut::new(&mut copy)])?;
                let mut rest = copy.get(..len).ok_or(Errno::Io)?;
                for range in ranges {
                    let (piece, tail) = rest.split_at(range.len().min(rest.len()));
                    let at = u64::try_from(range.start).map_err(|_| Errno::Fault)?;
                    memory.write(at, piece).map_err(|_| Errno::Fault)?;
                    rest = tail;
                }
                Ok(len)
            }
        }
    }

    /// Lets `write` write out the buffers of a `ciovec_array`, without a copy if
    /// no other thread sees the memory. Returns what `write` does.
    pub(crate) fn write_out(
        &self,
        ptr: u32,
        count: u32,
        write: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let ranges = self.buffer_ranges(ptr, count)?;
        match &self.kind {
            Kind::Exclusive(memory) => {
                let buffer = |range| memory.get(range).map(IoSlice::new);
                let buffers = ranges.into_iter().map(buffer).collect::<Result<Vec<_>, _>>();
                write(&buffers.map_err(noted(&self.lost))?)
            }
            Kind::Shared(memory) => {
                let total = ranges.iter().map(Range::len).sum::<usize>().min(MAX_COPY);
                let mut copy = vec![0; total];
                let mut rest = &mut copy[..];
                for range in ranges {
                    let (piece, tail) = rest.split_at_mut(range.len().min(rest.len()));
                    let at = u64::try_from(range.start).map_err(|_| Errno::Fault)?;
                    memory.read(at, piece).map_err(|_| Errno::Fault)?;
                    rest = tail;
                }
                write(&[IoSlice::new(&copy)])
            }
        }
    }

    /// The places of the buffers that a vectored call moves: those that are not
    /// empty, up to [`MAX_BUFFERS`] and in all no longer than the memory (only
    /// buffers that overlap could be longer). All that are looked at have to lie
    /// in memory, and the records of all.
    fn buffer_ranges(&self, ptr: u32, count: u32) -> Result<Vec<Range<usize>>, Errno> {
        const SIZE: u32 = 8;
        let len = u32::try_from(u64::from(count) * u64::from(SIZE)).map_err(|_| Errno::Fault)?;
        self.range(ptr, len)?;
        if count > MAX_RECORDS {
            return Err(Errno::Inval);
        }
        let word = |bytes: &[u8]| u32::from_le_bytes(core::array::from_fn(|index| bytes[index]));
        let mut left = usize::try_from(self.size()).map_err(|_| Errno::Fault)?;
        let mut ranges = Vec::new();
        for index in 0..count {
            let record = self.read(ptr + index * SIZE, SIZE)?;
            let (ptr, len) = (word(&record), word(&record[4..]));
            if len == 0 {
                continue;
            }
            let range = self.range(ptr, len)?;
            if ranges.len() == MAX_BUFFERS || left == 0 {
                break;
            }
            let taken = usize::min(range.len(), left);
            left -= taken;
            ranges.push(range.start..range.start + taken);
        }
        Ok(ranges)
    }
}

/// The place of `len` bytes at `ptr`, if they lie in a memory of this size.
fn range(size: u64, ptr: u32, len: u32) -> Result<Range<usize>, Errno> {
    let end = u64::from(ptr) + u64::from(len);
    if end > size {
        return Err(Errno::Fault);
    }
    let start = usize::try_from(ptr).map_err(|_| Errno::Fault)?;
    let end = usize::try_from(end).map_err(|_| Errno::Fault)?;
    Ok(start..end)
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

    /// The lengths of the buffers that a call would read into and write out.
    fn lengths_of(memory: &mut [u8], ptr: u32, count: u32) -> Result<Vec<usize>, Errno> {
        let mut lengths = Vec::new();
        let mut memory = GuestMemory::from(memory);
        memory.write_out(ptr, count, |buffers| {
            lengths = buffers.iter().map(|buffer| buffer.len()).collect();
            Ok(0)
        })?;
        memory.read_in(ptr, count, |_| Ok(0))?;
        Ok(lengths)
    }

    #[test]
    fn ranges_end_where_memory_ends() {
        assert_eq!(range(16, 8, 8), Ok(8..16));
        assert_eq!(range(16, 16, 0), Ok(16..16));
        for (ptr, len) in [(9, 8), (u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX)] {
            assert_eq!(range(16, ptr, len), Err(Errno::Fault));
        }
        // The whole of 4 GiB is in reach, and no more.
        let whole = 1 << 32;
        assert_eq!(range(whole, u32::MAX, 1).map(|range| range.len()), Ok(1));
        assert_eq!(range(whole, 1, u32::MAX).map(|range| range.len()), Ok(u32::MAX as usize));
        assert_eq!(range(whole, 2, u32::MAX), Err(Errno::Fault));
        let mut memory = [0; 16];
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
        let mut memory = memory_with(64, &[(32, 8), (60, 8)]);
        assert_eq!(lengths_of(&mut memory, 0, 2), Err(Errno::Fault));
        assert_eq!(lengths_of(&mut memory, 0, 1), Ok(vec![8]));
        // The records themselves: the product wraps to 0 in 32 bits.
        assert_eq!(lengths_of(&mut memory, 0, 1 << 29), Err(Errno::Fault));
        assert_eq!(lengths_of(&mut memory, 64, 1), Err(Errno::Fault));
        assert_eq!(lengths_of(&mut memory, u32::MAX, u32::MAX), Err(Errno::Fault));
        assert_eq!(lengths_of(&mut memory, 64, 0), Ok(vec![]));
    }

    #[test]
    fn buffers_keep_their_order_and_stop_at_an_overlap() {
        let mut memory = memory_with(64, &[(56, 4), (40, 2), (48, 3), (41, 4), (60, 1)]);
        let fill = |buffers: &mut [IoSliceMut<'_>]| {
            let lengths: Vec<usize> = buffers.iter().map(|buffer| buffer.len()).collect();
            assert_eq!(lengths, [4, 2, 3]);
            for (index, buffer) in buffers.iter_mut().enumerate() {
                buffer.fill(u8::try_from(index).unwrap() + 1);
            }
            Ok(9)
        };
        assert_eq!(GuestMemory::from(&mut memory[..]).read_in(0, 5, fill), Ok(9));
        assert_eq!(
            memory[40..64],
            [2, 2, 0, 0, 0, 0, 0, 0, 3, 3, 3, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
        );
    }

    #[test]
    fn overlapping_sources_move_no_more_than_the_memory_holds() {
        let mut memory = memory_with(64, &[(0, 64); 8]);
        assert_eq!(lengths_of(&mut memory, 0, 8), Ok(vec![64]));
    }

    #[test]
    fn a_shared_memory_is_read_and_written_through_copies() {
        use cwasm_loader::{Limits, MemoryType};
        let mut ty = MemoryType::new(Limits { min: 1, max: Some(4) });
        ty.shared = true;
        let shared = SharedMemory::new(ty).unwrap();
        let mut memory = GuestMemory::from(&shared);
        assert_eq!(memory.write_u64(65536 - 7, 0), Err(Errno::Fault));
        memory.write(100, b"some/path\0\xff").unwrap();
        assert_eq!(memory.path(100, 9), Ok("some/path".into()));
        assert_eq!(memory.path(100, 10), Err(Errno::Inval));
        assert_eq!(memory.path(110, 1), Err(Errno::IlSeq));
        let iovecs = [(1000, 3), (2000, 0), (1001, 4)];
        memory.write(0, &memory_with(24, &iovecs)).unwrap();
        // Buffers may overlap: they are filled one after the other.
        let read = memory.read_in(0, 3, |buffers| {
            assert_eq!(buffers.len(), 1);
            buffers[0].copy_from_slice(b"1234567");
            Ok(7)
        });
        assert_eq!(read, Ok(7));
        assert_eq!(memory.read(1000, 5).unwrap()[..], b"14567"[..]);
        let written = memory.write_out(0, 3, |buffers| {
            assert_eq!(buffers[0][..], b"1454567"[..]);
            Ok(7)
        });
        assert_eq!(written, Ok(7));
        // A large buffer is moved in part, so that the copy stays small.
        shared.grow(3).unwrap();
        memory.write(0, &memory_with(8, &[(0, 200_000)])).unwrap();
        assert_eq!(memory.write_out(0, 1, |buffers| Ok(buffers[0].len())), Ok(MAX_COPY));
        let mut pieces = 0;
        let fill = |piece: &mut [u8]| {
            piece.fill(7);
            pieces += 1;
            Ok(())
        };
        memory.fill(1, 200_000, fill).unwrap();
        assert_eq!(memory.read(0, 2).unwrap()[..], [0, 7][..]);
        assert_eq!(memory.read(200_000, 2).unwrap()[..], [7, 0][..]);
        assert_eq!(pieces, 4);
        assert_eq!(memory.read_in(0, u32::MAX, |_| Ok(0)), Err(Errno::Fault));
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
            let _ = GuestMemory::from(&mut memory[..]).path(ptr, len);
            let _ = GuestMemory::from(&mut memory[..]).read(ptr, len);
            if let Ok(lengths) = lengths_of(&mut memory, ptr, len) {
                prop_assert!(lengths.iter().sum::<usize>() <= size);
            }
        }
    }
}
