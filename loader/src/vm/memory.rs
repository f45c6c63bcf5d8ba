//! Linear memories: those of one store, and those that stores share.
//!
//! [`super::space`] has the address space that they lie in, [`super::shared`] what
//! is special about sharing.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cwasm_artifact::abi::memory::{MemoryStyle, most_pages};
use cwasm_artifact::types::MemoryType;

use super::bytes::MemoryBytes;
use super::growth::Growth;
use super::layout::VmMemoryDefinition;
use super::lazy::Lost;
use super::pending::PendingImage;
use super::racy;
use super::shared::VmSharedMemory;
use super::space::Space;
use super::stable::Stable;
use crate::artifact::Artifact;
use crate::error::Error;
use crate::shared_memory::SharedMemory;
use crate::sys::Image;

/// A linear memory that belongs to one store. Always in a `Stable`, since `definition` is pointed to.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VmMemory {
    definition: VmMemoryDefinition,
    space: Space,
    /// What of its image is loaded when it is needed, if it began without. Whoever touches bytes in Rust has it load them first.
    pending: Option<Box<PendingImage>>,
    /// Whether its next pages are late. Those from what is accessible in `space` up to the length are. Whoever touches bytes in Rust opens them first.
    growth: Growth,
    guarded: bool,
    /// Whether the host may have written to it, or a builtin on the way through here.
    written: bool,
    ty: MemoryType,
}

// SAFETY: the pointer in `definition` is to the memory that `space` owns.
unsafe impl Send for VmMemory {}
// SAFETY: as above; sharing allows reading only.
unsafe impl Sync for VmMemory {}

/// Why bytes of a memory cannot be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAccess {
    /// They are out of bounds.
    Outside,
    /// They were to be loaded when they are needed, and cannot be had any more.
    Lost(Lost),
}

impl From<Lost> for NoAccess {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

/// The minimum size of a memory in bytes, if a memory can have this type and
/// size at all.
pub(super) fn minimum(ty: &MemoryType) -> Result<usize, Error> {
    if let Some(problem) = ty.problem() {
        return Err(Error::MemoryType { problem });
    }
    let bytes = ty.bytes(ty.limits.min).and_then(|bytes| isize::try_from(bytes).ok());
    // Not negative.
    bytes.map(isize::cast_unsigned).ok_or_else(|| too_large(ty, ty.limits.min))
}

pub(crate) fn too_large(ty: &MemoryType, pages: u64) -> Error {
    Error::MemoryLimit { pages, page_size: ty.page_size() }
}

/// The size in bytes of a memory of `old` pages that grows by `delta`, if its type and
/// `limit` (in bytes) allow it. Compiled code relies on [`most_pages`].
pub(super) fn grown(ty: &MemoryType, old: u64, delta: u64, limit: u64) -> Option<usize> {
    let new = old.checked_add(delta)?;
    if new > ty.limits.max.unwrap_or(u64::MAX).min(most_pages(ty)) {
        return None;
    }
    let bytes = ty.bytes(new).filter(|bytes| *bytes <= limit)?;
    isize::try_from(bytes).ok().map(isize::cast_unsigned)
}

impl VmMemory {
    /// Creates a memory of the type's minimum size: zeroed, or as the image if the space has it.
    pub(crate) fn new(
        ty: &MemoryType,
        guarded: bool,
        image: Option<&Arc<Image>>,
    ) -> Result<Self, Error> {
        let length = minimum(ty)?;
        let space = Space::new(ty, length, guarded, image)?;
        let definition = VmMemoryDefinition {
            base: space.start().as_ptr(),
            byte_length: AtomicUsize::new(length),
        };
        let growth = Growth::new();
        Ok(Self { definition, space, pending: None, growth, guarded, written: false, ty: *ty })
    }

    /// Grows by `delta` pages; returns the old size in pages, or `None` if the
    /// memory's maximum, `limit` (in bytes) or the system forbids it.
    pub(crate) fn grow(&mut self, delta: u64, limit: u64) -> Option<u64> {
        let old = self.length() as u64 / self.ty.page_size();
        if delta > 0 {
            let length = grown(&self.ty, old, delta, limit)?;
            // It may move (if so, no image is pending), and that is to write.
            self.written = true;
            let leave = self.space.can_open(length) && self.growth.leave(self.has_late_pages());
            if !leave {
                self.space.commit(length).ok()?;
                self.definition.base = self.space.start().as_ptr();
            }
            *self.definition.byte_length.get_mut() = length;
        }
        Some(old)
    }

    /// Begins without the image that it has in an artifact, and has that loaded when it is needed. If the system does not
    /// allow that, it is zeroed still, and has no image.
    ///
    /// # Safety
    /// The memory is as it was made, of the type of the memory with this number in the artifact, which has an image that may be late, and the artifact outlives it.
    unsafe fn begin_without(&mut self, artifact: &Artifact, memory: u32) -> std::io::Result<()> {
        let Some(images) = artifact.late_images() else { return Ok(()) };
        if images.pages_of(memory).next().is_none() {
            return Ok(());
        }
        if self.space.hide(images.pages_of(memory)).is_err() {
            return self.space.unhide();
        }
        // SAFETY: the caller promises the first. The pages were hidden just now, in a space that does not move, and that nobody but
        // `self` can reach.
        let pending = unsafe { PendingImage::new(artifact, memory, self.space.start()) };
        self.pending = pending.map(Box::new);
        Ok(())
    }

    fn length(&self) -> usize {
        self.definition.byte_length.load(Ordering::Relaxed)
    }

    /// Whether it has grown by pages that are not accessible yet.
    fn has_late_pages(&self) -> bool {
        self.length() > self.space.accessible()
    }

    /// Makes late pages accessible, all of them.
    #[cold]
    fn open(&self) -> Result<(), Lost> {
        let length = self.length();
        let pages = self.space.accessible()..length;
        self.space.open(length).map_err(|error| Lost::no_room(&pages, error))
    }

    /// Whether there may be bytes of it that nobody can access yet.
    fn is_late(&self) -> bool {
        self.pending.is_some() || self.has_late_pages()
    }

    /// Makes the byte at an address present. `None` if it is none of the memory's, or is present.
    fn load_address(&mut self, address: usize) -> Option<Result<(), Lost>> {
        let at = address.checked_sub(self.definition.base.addr())?;
        if (self.space.accessible()..self.length()).contains(&at) {
            return Some(self.open());
        }
        self.pending.as_mut()?.load_address(address)
    }

    /// Makes bytes present at a range, which lies within the memory, that were not loaded yet or are late.
    #[inline]
    pub(super) fn load(&self, range: &Range<usize>) -> Result<(), Lost> {
        if range.end > self.space.accessible() {
            self.open()?;
        }
        match &self.pending {
            None => Ok(()),
            Some(pending) => pending.load(range),
        }
    }

    /// The bytes at a range, which lies within the memory.
    fn slice(&self, range: Range<usize>) -> Result<&[u8], Lost> {
        debug_assert!(range.start <= range.end && range.end <= self.length());
        self.load(&range)?;
        // SAFETY: these of the `byte_length` bytes from the base are accessible, and present. Compiled code
        // writes to them only while the store is borrowed exclusively, and
        // the slice borrows the memory, which the store owns.
        Ok(unsafe {
            std::slice::from_raw_parts(self.definition.base.add(range.start), range.len())
        })
    }

    /// The bytes at a range, which lies within the memory.
    fn slice_mut(&mut self, range: Range<usize>) -> Result<&mut [u8], Lost> {
        debug_assert!(range.start <= range.end && range.end <= self.length());
        self.written = true;
        self.load(&range)?;
        // SAFETY: as in `slice`, and `&mut self` is exclusive.
        Ok(unsafe {
            std::slice::from_raw_parts_mut(self.definition.base.add(range.start), range.len())
        })
    }

    pub(crate) fn bytes(&self) -> Result<&[u8], Lost> {
        self.slice(0..self.length())
    }

    pub(crate) fn bytes_mut(&mut self) -> Result<&mut [u8], Lost> {
        self.slice_mut(0..self.length())
    }

    /// The bytes, of which those are loaded that are asked for.
    fn ranges(&mut self) -> MemoryBytes<'_> {
        self.written = true;
        let late = if self.is_late() { Some(&*self) } else { None };
        // SAFETY: so many bytes are from the base, `late` knows which of them are not present, and `&mut self` is exclusive.
        unsafe { MemoryBytes::new(self.definition.base, self.length(), late) }
    }
}

/// A linear memory as a store holds it.
#[derive(Debug)]
pub(crate) enum StoreMemory {
    Own(Stable<VmMemory>),
    Shared(SharedMemory),
}

impl StoreMemory {
    /// Creates a memory of the type's minimum size: zeroed, or as the image if [`StoreMemory::has_image`].
    pub(crate) fn new(
        ty: &MemoryType,
        guarded: bool,
        image: Option<&Arc<Image>>,
    ) -> Result<Self, Error> {
        Ok(if ty.shared {
            Self::Shared(SharedMemory::from_vm(VmSharedMemory::new(ty, guarded)?))
        } else {
            Self::Own(Stable::new(VmMemory::new(ty, guarded, image)?))
        })
    }

    /// Has it begin without the image that it has in an artifact, which is loaded when it is needed, if [`StoreMemory::has_image`] then.
    ///
    /// # Safety
    /// The memory is as it was made, of the type of the memory with this number in the artifact, which has an image that may be late, and the artifact outlives it.
    pub(crate) unsafe fn begin_without(
        &mut self,
        artifact: &Artifact,
        memory: u32,
    ) -> std::io::Result<()> {
        match self {
            // SAFETY: the caller promises the same.
            Self::Own(own) => unsafe { own.begin_without(artifact, memory) },
            Self::Shared(_) => Ok(()),
        }
    }

    /// Makes the byte at an address present, if it is of the memory and was to be loaded when it is needed, or is late. `None` if not, or if it is present.
    ///
    /// May be called by a signal handler.
    pub(crate) fn load_address(&mut self, address: usize) -> Option<Result<(), Lost>> {
        match self {
            Self::Own(memory) => memory.load_address(address),
            Self::Shared(_) => None,
        }
    }

    /// Makes the bytes at an address present that were not loaded yet or are late, if they are of this memory: all of them are, or none.
    pub(crate) fn load_addresses(&self, start: usize, length: usize) -> Result<(), Lost> {
        let Self::Own(memory) = self else { return Ok(()) };
        match start.checked_sub(memory.definition.base.addr()) {
            Some(at) if at < memory.length() => memory.load(&(at..at.saturating_add(length))),
            _ => Ok(()),
        }
    }

    /// Whether there may be bytes of it that were not loaded yet, or are late.
    #[inline]
    pub(crate) fn is_late(&self) -> bool {
        matches!(self, Self::Own(memory) if memory.is_late())
    }

    /// Makes a part of its image, which nobody has seen yet, zero.
    pub(crate) fn withdraw_image(&mut self, start: u64, length: u64) {
        if let Self::Own(memory) = self
            && let Some(pending) = &mut memory.pending
        {
            return pending.withdraw();
        }
        // It lies within the memory, and is there.
        let _ = self.fill(start, 0, length);
    }

    /// Whether it began as the image that it was made with.
    pub(crate) fn has_image(&self) -> bool {
        match self {
            Self::Own(memory) => memory.space.has_image(),
            Self::Shared(_) => false,
        }
    }

    /// Says that no compiled code that could reach the memory ever ran. If the host did not write to it either,
    /// it is as it began.
    pub(crate) fn vouch_no_code_ran(&mut self) {
        if let Self::Own(memory) = self
            && !memory.written
        {
            memory.space.vouch_untouched();
        }
    }

    /// The definition, for compiled code. Its address never changes.
    pub(crate) fn definition(&self) -> *mut VmMemoryDefinition {
        match self {
            Self::Own(memory) => memory.as_ptr().cast(),
            Self::Shared(memory) => memory.vm().definition(),
        }
    }

    /// The first byte and the number of bytes.
    fn span(&self) -> (*mut u8, usize) {
        match self {
            Self::Own(memory) => {
                let VmMemoryDefinition { base, byte_length } = &memory.definition;
                (*base, byte_length.load(Ordering::Relaxed))
            }
            Self::Shared(memory) => memory.vm().span(),
        }
    }

    /// The address of byte 0.
    pub(crate) fn base(&self) -> *mut u8 {
        self.span().0
    }

    /// The current size in bytes.
    pub(crate) fn byte_length(&self) -> usize {
        self.span().1
    }

    /// The current size in pages.
    pub(crate) fn pages(&self) -> u64 {
        self.byte_length() as u64 / self.ty().page_size()
    }

    /// The type that the memory was created with.
    pub(crate) fn ty(&self) -> &MemoryType {
        match self {
            Self::Own(memory) => &memory.ty,
            Self::Shared(memory) => memory.vm().ty(),
        }
    }

    /// Whether code may rely on a guard, where it would for a memory of this type.
    pub(crate) fn is_guarded(&self) -> bool {
        match self {
            Self::Own(memory) => {
                memory.guarded || MemoryStyle::of(&memory.ty, false) == MemoryStyle::Checked
            }
            Self::Shared(memory) => memory.vm().is_guarded(),
        }
    }

    /// The bytes, if no other store has them too. All of them are loaded.
    pub(crate) fn bytes(&self) -> Option<Result<&[u8], Lost>> {
        match self {
            Self::Own(memory) => Some(memory.bytes()),
            Self::Shared(_) => None,
        }
    }

    /// The bytes, if no other store has them too. All of them are loaded.
    pub(crate) fn bytes_mut(&mut self) -> Option<Result<&mut [u8], Lost>> {
        match self {
            Self::Own(memory) => Some(memory.bytes_mut()),
            Self::Shared(_) => None,
        }
    }

    /// The bytes, if no other store has them too, of which those are loaded that are asked for.
    pub(crate) fn ranges(&mut self) -> Option<MemoryBytes<'_>> {
        match self {
            Self::Own(memory) => Some(memory.ranges()),
            Self::Shared(_) => None,
        }
    }

    pub(crate) fn shared(&self) -> Option<&SharedMemory> {
        match self {
            Self::Own(_) => None,
            Self::Shared(memory) => Some(memory),
        }
    }

    /// Grows by `delta` pages; returns the old size in pages, or `None` if the
    /// memory's maximum, `limit` (in bytes) or the system forbids it.
    pub(crate) fn grow(&mut self, delta: u64, limit: u64) -> Option<u64> {
        match self {
            Self::Own(memory) => memory.grow(delta, limit),
            Self::Shared(memory) => memory.vm().grow(delta, limit),
        }
    }

    /// `memory.fill`.
    pub(crate) fn fill(&mut self, start: u64, value: u8, length: u64) -> Result<(), NoAccess> {
        match self {
            Self::Own(memory) => {
                let range = within(start, length, memory.length())?;
                memory.slice_mut(range)?.fill(value);
                Ok(())
            }
            Self::Shared(memory) => memory.vm().fill(start, value, length).ok_or(NoAccess::Outside),
        }
    }

    /// `memory.init` from a segment's bytes.
    pub(crate) fn init(
        &mut self,
        start: u64,
        data: &[u8],
        from: u64,
        length: u64,
    ) -> Result<(), NoAccess> {
        let data = &data[within(from, length, data.len())?];
        match self {
            Self::Own(memory) => {
                let range = within(start, length, memory.length())?;
                memory.slice_mut(range)?.copy_from_slice(data);
                Ok(())
            }
            Self::Shared(memory) => memory.vm().write(start, data).ok_or(NoAccess::Outside),
        }
    }

    /// Copies bytes out of the memory.
    pub(crate) fn read(&self, start: u64, buffer: &mut [u8]) -> Result<(), NoAccess> {
        match self {
            Self::Own(memory) => {
                let range = within(start, buffer.len() as u64, memory.length())?;
                buffer.copy_from_slice(memory.slice(range)?);
                Ok(())
            }
            Self::Shared(memory) => memory.vm().read(start, buffer).ok_or(NoAccess::Outside),
        }
    }

    /// Makes bytes present at a range, which lies within the memory, that were not loaded yet or are late.
    fn load(&self, range: &Range<usize>) -> Result<(), Lost> {
        match self {
            Self::Own(memory) => memory.load(range),
            Self::Shared(_) => Ok(()),
        }
    }
}

/// `memory.copy` between two memories of a store, which may be the same, and of which other threads may have one. What nobody else has, compiled
/// code checks by itself.
pub(crate) fn copy(
    memories: &mut [StoreMemory],
    (target, to): (u32, u64),
    (source, from): (u32, u64),
    length: u64,
) -> Result<(), NoAccess> {
    let place = |memory: u32, start: u64| {
        let memory = memories.get(memory as usize).ok_or(NoAccess::Outside)?;
        Ok::<_, NoAccess>((memory, within(start, length, memory.byte_length())?))
    };
    // The bounds come first: what is out of bounds traps, whatever can be had.
    let (to, from) = (place(target, to)?, place(source, from)?);
    let span = |(memory, range): (&StoreMemory, Range<usize>)| {
        memory.load(&range)?;
        // SAFETY: the range lies within the memory.
        let start = unsafe { memory.base().add(range.start) };
        Ok::<_, Lost>((start, range.len()))
    };
    let ((to, length), (from, _)) = (span(to)?, span(from)?);
    if let StoreMemory::Own(memory) = &mut memories[target as usize] {
        memory.written = true;
    }
    // SAFETY: both ranges are accessible and present, and stay so: no memory shrinks, and one that may
    // move does so only by `&mut` of it, which this function has. Nobody
    // has a reference to the bytes of a memory of this store, which is borrowed exclusively;
    // other threads access those of shared ones, which `racy` allows.
    unsafe { racy::copy(to, from, length) };
    Ok(())
}

/// `start .. start + length` if it ends within `size`.
fn within(start: u64, length: u64, size: usize) -> Result<Range<usize>, NoAccess> {
    range_within(start, length, size).ok_or(NoAccess::Outside)
}

/// `start .. start + length` if it ends within `size`.
pub(crate) fn range_within(start: u64, length: u64, size: usize) -> Option<Range<usize>> {
    let end = start.checked_add(length)?;
    if end > size as u64 {
        return None;
    }
    // Both are at most `size`, which is a `usize`.
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

#[cfg(test)]
mod tests {
    use cwasm_artifact::types::{IndexType, Limits};

    use super::*;

    fn memory(min: u64, max: Option<u64>, guarded: bool) -> VmMemory {
        VmMemory::new(&MemoryType::new(Limits { min, max }), guarded, None).unwrap()
    }

    #[test]
    fn a_memory_keeps_its_bytes_when_it_grows() {
        for guarded in [true, false] {
            let mut memory = memory(1, Some(5), guarded);
            memory.bytes_mut().unwrap()[65535] = 7;
            assert_eq!(memory.grow(2, u64::MAX), Some(1));
            assert_eq!(memory.grow(3, u64::MAX), None);
            assert_eq!(memory.grow(0, 0), Some(3));
            assert_eq!(memory.bytes().unwrap()[65535], 7);
            assert!(memory.bytes().unwrap()[65536..].iter().all(|byte| *byte == 0));
            assert_eq!(memory.grow(1, 3 << 16), None);
        }
    }

    #[test]
    fn the_base_of_a_guarded_memory_never_changes() {
        let mut memory = memory(0, None, true);
        let base = memory.bytes().unwrap().as_ptr();
        assert_eq!(memory.grow(100, u64::MAX), Some(0));
        assert_eq!(memory.bytes().unwrap().as_ptr(), base);
    }

    #[test]
    fn memories_of_every_kind_grow_to_their_limit_and_no_further() {
        for index in [IndexType::I32, IndexType::I64] {
            for page_size_log2 in [0, 16] {
                for (guarded, shared) in
                    [(true, true), (true, false), (false, true), (false, false)]
                {
                    let limits = Limits { min: 1, max: Some(9) };
                    let ty = MemoryType { limits, index, page_size_log2, shared };
                    let mut memory = StoreMemory::new(&ty, guarded, None).unwrap();
                    memory.fill(0, 5, ty.page_size()).unwrap();
                    assert_eq!(memory.fill(1, 5, ty.page_size()), Err(NoAccess::Outside), "{ty}");
                    assert_eq!(memory.grow(8, u64::MAX), Some(1), "{ty}");
                    assert_eq!(memory.grow(1, u64::MAX), None, "{ty}");
                    assert_eq!(memory.pages(), 9);
                    let mut all = vec![0xff; usize::try_from(9 * ty.page_size()).unwrap()];
                    memory.read(0, &mut all).unwrap();
                    let (old, new) = all.split_at(all.len() / 9);
                    assert!(old.iter().all(|byte| *byte == 5), "{ty}");
                    assert!(new.iter().all(|byte| *byte == 0), "{ty}");
                }
            }
        }
    }

    #[test]
    fn only_memories_that_are_guarded_and_never_move_have_late_pages() {
        crate::vm::activation::prepare().unwrap();
        for index in [IndexType::I32, IndexType::I64] {
            for page_size_log2 in [0, 16] {
                for guarded in [true, false] {
                    let limits = Limits { min: 1, max: Some(1 << 20 >> page_size_log2) };
                    let ty = MemoryType { limits, index, page_size_log2, shared: false };
                    let mut memory = VmMemory::new(&ty, guarded, None).unwrap();
                    let by = 65536 / ty.page_size();
                    let late = (0..9).filter(|_| {
                        memory.grow(by, u64::MAX).unwrap();
                        memory.has_late_pages()
                    });
                    let is_reserved = MemoryStyle::of(&ty, !guarded) == MemoryStyle::Reserved;
                    assert_eq!(late.count(), if is_reserved { 6 } else { 0 }, "{ty} {guarded}");
                }
            }
        }
    }

    #[test]
    fn whatever_may_have_written_to_a_memory_is_noted() {
        type Use = fn(&mut [StoreMemory]);
        let uses: [(bool, Use); 10] = [
            (false, |_| ()),
            (false, |all| assert_eq!(all[0].read(0, &mut [1; 9]), Ok(()))),
            (false, |all| assert_eq!(all[0].bytes().unwrap().unwrap()[0], 0)),
            (false, |all| assert_eq!(all[0].grow(0, u64::MAX), Some(1))),
            (true, |all| assert_eq!(all[0].grow(1, u64::MAX), Some(1))),
            (true, |all| all[0].bytes_mut().unwrap().unwrap()[9] = 1),
            (true, |all| all[0].ranges().unwrap().get_mut(9..10).unwrap()[0] = 1),
            (true, |all| assert_eq!(all[0].fill(0, 1, 9), Ok(()))),
            (true, |all| assert_eq!(all[0].init(0, b"bytes", 0, 5), Ok(()))),
            (true, |all| assert_eq!(copy(all, (0, 0), (1, 5), 9), Ok(()))),
        ];
        let ty = MemoryType::new(Limits { min: 1, max: None });
        for (number, (wanted, used)) in uses.into_iter().enumerate() {
            let mut all = [(); 2].map(|()| StoreMemory::new(&ty, true, None).unwrap());
            used(&mut all);
            let [StoreMemory::Own(target), StoreMemory::Own(source)] = &all else {
                panic!("they are not shared");
            };
            assert_eq!((target.written, source.written), (wanted, false), "{number}");
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let ty = MemoryType {
            index: IndexType::I64,
            ..MemoryType::new(Limits { min: 1 << 48, max: None })
        };
        assert!(matches!(VmMemory::new(&ty, true, None), Err(Error::MemoryLimit { .. })));
        let ty = MemoryType { page_size_log2: 3, ..ty };
        assert!(matches!(VmMemory::new(&ty, true, None), Err(Error::MemoryType { .. })));
        let mut memory = memory(1, None, true);
        assert_eq!(memory.grow(u64::MAX, u64::MAX), None);
        assert_eq!(memory.grow(65536, u64::MAX), None);
    }

    #[test]
    fn the_last_page_is_not_given_to_who_grows() {
        const MOST: u64 = MemoryType::MAX_PAGES;
        let ty = |min, max| MemoryType::new(Limits { min, max });
        for ty in [ty(0, None), ty(7, Some(MOST)), ty(MOST - 1, None)] {
            let at = |pages: u64| grown(&ty, ty.limits.min, pages - ty.limits.min, u64::MAX);
            assert_eq!(at(MOST - 1).map(|bytes| bytes as u64), ty.bytes(MOST - 1));
            assert_eq!(at(MOST), None);
        }
        // One that begins with it has it. Other pages are not the last of all addresses.
        assert!(grown(&ty(MOST, None), MOST, 0, u64::MAX).is_some());
        let large = MemoryType { index: IndexType::I64, ..ty(0, None) };
        assert!(grown(&large, 0, MOST, u64::MAX).is_some());
        let small = MemoryType { page_size_log2: 0, ..ty(0, None) };
        assert!(grown(&small, 0, u64::from(u32::MAX), u64::MAX).is_some());
    }

    #[test]
    fn ranges_do_not_wrap() {
        assert_eq!(range_within(u64::MAX, 1, 10), None);
        assert_eq!(range_within(10, 0, 10), Some(10..10));
        assert_eq!(range_within(11, 0, 10), None);
    }
}
