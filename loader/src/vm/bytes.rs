//! The bytes of a memory for a host function that needs a few of them: the ranges that it asks for are present, and the rest need not be.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use super::memory::VmMemory;
use crate::error::Error;

/// The bytes of a memory, by ranges.
///
/// Of an artifact that was loaded with [`crate::Artifact::load_lazily`], a memory may begin without its contents. This loads what
/// is asked for, where [`crate::Memory::data_mut`] loads all. See [`crate::Caller::memory_bytes_and_data_mut`].
pub struct MemoryBytes<'a> {
    base: *mut u8,
    length: usize,
    /// The memory, if there may be bytes that are not present.
    late: Option<&'a VmMemory>,
    bytes: PhantomData<&'a mut [u8]>,
}

// SAFETY: this is an exclusive reference to bytes, with a shared one to `VmMemory`, which is `Sync`.
unsafe impl Send for MemoryBytes<'_> {}
// SAFETY: as above; a shared one allows reading only.
unsafe impl Sync for MemoryBytes<'_> {}

impl fmt::Debug for MemoryBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBytes").field("length", &self.length).finish_non_exhaustive()
    }
}

impl<'a> From<&'a mut [u8]> for MemoryBytes<'a> {
    /// Bytes that are all there.
    fn from(bytes: &'a mut [u8]) -> Self {
        // SAFETY: a slice is so many bytes, all of which are present, and it is borrowed exclusively.
        unsafe { Self::new(bytes.as_mut_ptr(), bytes.len(), None) }
    }
}

impl<'a> MemoryBytes<'a> {
    /// # Safety
    /// For `'a`, `length` bytes from `base` are valid, but for those that `late` has not made present, and nobody else uses them. They are those of `late`.
    pub(super) unsafe fn new(base: *mut u8, length: usize, late: Option<&'a VmMemory>) -> Self {
        Self { base, length, late, bytes: PhantomData }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Sees to it that bytes are there, so that to get them cannot fail.
    ///
    /// # Errors
    /// [`Error::MemoryAccess`]; [`Error::CodeLost`] if they were to be loaded now, and are not in the file any more; [`Error::NoRoom`] if the
    /// memory has grown by them, and the system has none.
    #[inline]
    pub fn load(&self, range: Range<usize>) -> Result<(), Error> {
        if range.start > range.end || range.end > self.length {
            return Err(self.outside(&range));
        }
        match self.late {
            None => Ok(()),
            Some(memory) => load(memory, &range),
        }
    }

    /// The bytes at a range.
    ///
    /// # Errors
    /// As for [`MemoryBytes::load`].
    #[inline]
    pub fn get(&self, range: Range<usize>) -> Result<&[u8], Error> {
        self.load(range.clone())?;
        // SAFETY: the bytes are valid, and present as of now. Whoever writes to them has `self` exclusively; to make others present
        // touches only what was not.
        Ok(unsafe { std::slice::from_raw_parts(self.base.add(range.start), range.len()) })
    }

    /// The bytes at a range.
    ///
    /// # Errors
    /// As for [`MemoryBytes::load`].
    #[inline]
    pub fn get_mut(&mut self, range: Range<usize>) -> Result<&mut [u8], Error> {
        self.load(range.clone())?;
        // SAFETY: as in `get`, and `&mut self` is exclusive.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.base.add(range.start), range.len()) })
    }

    /// The bytes at several ranges, in their order, up to the first that overlaps with one before it.
    ///
    /// # Errors
    /// As for [`MemoryBytes::load`].
    pub fn get_disjoint_mut(&mut self, ranges: &[Range<usize>]) -> Result<Vec<&mut [u8]>, Error> {
        let overlaps = |a: &Range<usize>, b: &Range<usize>| a.start.max(b.start) < a.end.min(b.end);
        let is_apart = |(number, range): &(usize, &Range<usize>)| {
            !ranges[..*number].iter().any(|before| overlaps(before, range))
        };
        let count = ranges.iter().enumerate().take_while(is_apart).count();
        for range in &ranges[..count] {
            self.load(range.clone())?;
        }
        // SAFETY: as in `get_mut`, for each; they have no byte in common.
        let slice = |range: &Range<usize>| unsafe {
            std::slice::from_raw_parts_mut(self.base.add(range.start), range.len())
        };
        Ok(ranges[..count].iter().map(slice).collect())
    }

    #[cold]
    fn outside(&self, range: &Range<usize>) -> Error {
        Error::MemoryAccess {
            offset: range.start as u64,
            length: range.len() as u64,
            size: self.length as u64,
        }
    }
}

#[cold]
fn load(memory: &VmMemory, range: &Range<usize>) -> Result<(), Error> {
    memory.load(range).map_err(|lost| Error::lost(lost, Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_slice_are_its_own() {
        let mut all = *b"0123456789";
        let mut bytes = MemoryBytes::from(&mut all[..]);
        assert_eq!((bytes.len(), bytes.is_empty()), (10, false));
        assert_eq!(bytes.get(3..5).unwrap(), b"34");
        assert_eq!(bytes.get(10..10).unwrap(), b"");
        bytes.get_mut(0..2).unwrap().copy_from_slice(b"ab");
        #[expect(clippy::reversed_empty_ranges, reason = "they are refused")]
        for range in [9..11, 11..11, 5..4, 0..usize::MAX] {
            assert!(matches!(bytes.get(range.clone()), Err(Error::MemoryAccess { .. })));
            assert!(bytes.load(range.clone()).is_err() && bytes.get_mut(range.clone()).is_err());
            assert!(bytes.get_disjoint_mut(&[range]).is_err());
        }
        let mut found = bytes.get_disjoint_mut(&[7..9, 0..1, 4..4, 1..7]).unwrap();
        assert_eq!(found, [&b"78"[..], b"a", b"", b"b23456"]);
        found[3][5] = b'x';
        assert_eq!(bytes.get_disjoint_mut(&[3..5, 4..6, 9..10]).unwrap(), [b"34"]);
        assert_eq!(&all, b"ab2345x789");
    }
}
