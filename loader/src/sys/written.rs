//! Which pages of private memory are not as they were mapped any more.
//!
//! The system tells (`PAGEMAP_SCAN`, from Linux 6.7 on), through a file that is opened once and tells about the
//! process that opened it, also when it is inherited. A process that is forked opens its own.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, IntoRawFd as _, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

use linux_raw_sys::general::{
    PAGE_IS_FILE, PAGE_IS_PFNZERO, PAGE_IS_PRESENT, PAGE_IS_SWAPPED, page_region, pm_scan_arg,
};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::page_size;

const PAGEMAP_SCAN: Opcode = opcode::read_write::<pm_scan_arg>(b'f', 16);

/// How many pages are told at most.
const MAX_PAGES: usize = 64;

/// The pages of a range that are not as they were mapped.
#[derive(Debug)]
pub(super) struct Written {
    /// Offsets in the range, in order, each of whole pages.
    pub(super) pages: Vec<Range<usize>>,
    /// Up to where in the range that is all of them.
    pub(super) until: usize,
}

/// The pages that were written to in `length` bytes of private mappings from an address on, or of which that is not certain: all others are
/// zero, or as the file that is mapped. The first `most` bytes of them, and no more than 64 pages. `None` if the system does not tell.
///
/// That holds for as long as nobody writes to any. Whatever the system does with pages meanwhile, such as to move them or to swap them out, they count.
pub(super) fn written_pages(start: NonNull<u8>, length: usize, most: usize) -> Option<Written> {
    scan(file_of_this_process()?, start, length, (most / page_size()).clamp(1, MAX_PAGES))
}

fn scan(file: BorrowedFd<'_>, start: NonNull<u8>, length: usize, most: usize) -> Option<Written> {
    const NONE: page_region = page_region { start: 0, end: 0, categories: 0 };
    let mut regions = [NONE; MAX_PAGES];
    let start = start.addr().get();
    // What is there, neither the page of zeros that all share nor a page of a file.
    let unwanted = u64::from(PAGE_IS_FILE | PAGE_IS_PFNZERO);
    let mut question = pm_scan_arg {
        size: size_of::<pm_scan_arg>() as u64,
        flags: 0,
        start: start as u64,
        end: start.checked_add(length)? as u64,
        walk_end: 0,
        vec: regions.as_mut_ptr().expose_provenance() as u64,
        vec_len: regions.len() as u64,
        max_pages: most as u64,
        category_mask: unwanted,
        category_inverted: unwanted,
        category_anyof_mask: u64::from(PAGE_IS_PRESENT | PAGE_IS_SWAPPED),
        // The same for all, so that neighbours are one region.
        return_mask: u64::from(PAGE_IS_FILE),
    };
    // SAFETY: the question is of the kind that goes with the number, and all that the system writes to but it are the regions, of which it says how
    // many there are.
    unsafe { ioctl(file, Updater::<PAGEMAP_SCAN, _>::new(&mut question)) }.ok()?;
    let at = |address: u64| usize::try_from(address).ok()?.checked_sub(start);
    let found = regions.iter().take_while(|region| region.end != 0);
    let pages: Option<Vec<Range<usize>>> =
        found.map(|region| Some(at(region.start)?..at(region.end)?)).collect();
    let written = Written { pages: pages?, until: at(question.walk_end)? };
    let ends = written.pages.iter().flat_map(|pages| [pages.start, pages.end]);
    ends.chain([written.until, length]).is_sorted().then_some(written)
}

/// The file that tells about the pages of this process, if it can be had. Nobody waits for it: a process that was forked meanwhile would wait
/// for a thread that it does not have.
fn file_of_this_process() -> Option<BorrowedFd<'static>> {
    static OPEN: AtomicPtr<Open> = AtomicPtr::new(ptr::null_mut());
    static IS_IMPOSSIBLE: AtomicBool = AtomicBool::new(false);
    // SAFETY: what is stored there is never unmapped.
    let open = match unsafe { OPEN.load(Ordering::Acquire).as_ref() } {
        Some(open) => open,
        None if IS_IMPOSSIBLE.load(Ordering::Relaxed) => return None,
        None => {
            let Some(new) = Open::new() else {
                IS_IMPOSSIBLE.store(true, Ordering::Relaxed);
                return None;
            };
            // If another thread has made one, too, the last stays.
            OPEN.store(ptr::from_ref(new).cast_mut(), Ordering::Release);
            new
        }
    };
    let known = match open.file.load(Ordering::Acquire) {
        0 => open.open(),
        known => known,
    };
    // SAFETY: the file whose number is stored there stays open for as long as the process.
    (known != Open::NONE).then(|| unsafe { BorrowedFd::borrow_raw(known - 1) })
}

/// What is open in this process. Always on a page of its own, which is zeros again in a process that was forked.
#[derive(Debug)]
#[repr(C)]
struct Open {
    /// The number of the file and one, or [`Open::NONE`], or 0 as long as it is not known whether there is one.
    file: AtomicI32,
    is_asked: AtomicBool,
}

impl Open {
    const NONE: RawFd = -1;

    fn new() -> Option<&'static Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let page = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), page_size(), access, MapFlags::PRIVATE)
        };
        let page = page.ok()?;
        // SAFETY: the page was just mapped, and nobody uses it yet.
        let advised = unsafe { rustix::mm::madvise(page, page_size(), Advice::LinuxWipeOnFork) };
        if advised.is_err() {
            // SAFETY: as above.
            let _ = unsafe { rustix::mm::munmap(page, page_size()) };
            return None;
        }
        // SAFETY: the page is aligned, large enough and never unmapped, and all of it may be zero.
        Some(unsafe { &*page.cast() })
    }

    /// Opens the file, and asks it about this page. Returns what is stored then.
    #[cold]
    fn open(&self) -> RawFd {
        let file = File::open("/proc/self/pagemap").ok().filter(|file| {
            self.is_asked.store(true, Ordering::Relaxed);
            scan(file.as_fd(), NonNull::from(self).cast(), page_size(), MAX_PAGES)
                .is_some_and(|written| written.pages.iter().eq([&(0..page_size())]))
        });
        let new = file.as_ref().map_or(Self::NONE, |file| file.as_raw_fd() + 1);
        match self.file.compare_exchange(0, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                // It stays open.
                let _ = file.map(File::into_raw_fd);
                new
            }
            Err(other) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Maps pages that nobody else uses.
    fn map(pages: usize, file: Option<&File>) -> NonNull<u8> {
        let length = pages * page_size();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            match file {
                Some(file) => {
                    rustix::mm::mmap(ptr::null_mut(), length, access, MapFlags::PRIVATE, file, 0)
                }
                None => {
                    rustix::mm::mmap_anonymous(ptr::null_mut(), length, access, MapFlags::PRIVATE)
                }
            }
        };
        NonNull::new(start.unwrap().cast()).unwrap()
    }

    fn write(start: NonNull<u8>, page: usize) {
        // SAFETY: the page was mapped by the test.
        unsafe { start.add(page * page_size() + 5).write_volatile(1) };
    }

    fn read(start: NonNull<u8>, page: usize) -> u8 {
        // SAFETY: as above.
        unsafe { start.add(page * page_size() + 5).read_volatile() }
    }

    /// What is told, in pages.
    fn told(start: NonNull<u8>, pages: usize, most: usize) -> Option<(Vec<(usize, usize)>, usize)> {
        let page = page_size();
        let written = written_pages(start, pages * page, most * page)?;
        let in_pages = |range: &Range<usize>| (range.start / page, range.end / page);
        Some((written.pages.iter().map(in_pages).collect(), written.until / page))
    }

    fn is_told() -> bool {
        let is_told = file_of_this_process().is_some();
        if !is_told {
            eprintln!("skipped: this system does not tell which pages were written to");
        }
        is_told
    }

    #[test]
    fn only_pages_that_were_written_to_are_told() {
        if !is_told() {
            return;
        }
        let start = map(100, None);
        assert_eq!(told(start, 100, 64), Some((vec![], 100)));
        assert_eq!((read(start, 2), read(start, 10)), (0, 0));
        [3, 4, 10, 99].into_iter().for_each(|page| write(start, page));
        assert_eq!(told(start, 100, 64), Some((vec![(3, 5), (10, 11), (99, 100)], 100)));
        assert_eq!(told(start, 99, 64), Some((vec![(3, 5), (10, 11)], 99)));
        // Of a file.
        let mut file = tempfile();
        file.write_all(&vec![7; 8 * page_size()]).unwrap();
        let start = map(8, Some(&file));
        assert_eq!(read(start, 1), 7);
        assert_eq!(told(start, 8, 64), Some((vec![], 8)));
        write(start, 6);
        assert_eq!(told(start, 8, 64), Some((vec![(6, 7)], 8)));
    }

    fn tempfile() -> File {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        rustix::fs::memfd_create(c"cwasm-test", flags).unwrap().into()
    }

    #[test]
    fn no_more_than_was_asked_for_is_told_and_where_it_ends() {
        if !is_told() {
            return;
        }
        let start = map(400, None);
        (10..40).for_each(|page| write(start, page));
        assert_eq!(told(start, 400, 30), Some((vec![(10, 40)], 400)));
        assert_eq!(told(start, 400, 29), Some((vec![(10, 39)], 39)));
        assert_eq!(told(start, 400, 0), Some((vec![(10, 11)], 11)));
        // So many apart from each other.
        (100..300).step_by(2).for_each(|page| write(start, page));
        let (pages, until) = told(start, 400, 400).unwrap();
        assert_eq!(pages.iter().map(|(start, end)| end - start).sum::<usize>(), MAX_PAGES);
        // Or where the next begins.
        assert!((0..=1).contains(&(until - pages.last().unwrap().1)), "{until}");
    }

    #[test]
    fn a_process_that_was_forked_is_told_about_its_own_pages() {
        if !is_told() {
            return;
        }
        let start = map(4, None);
        write(start, 0);
        // SAFETY: what the child does needs no lock but that of the allocator, which the C library takes care of.
        let child = unsafe { libc::fork() };
        if child == 0 {
            write(start, 2);
            let told = told(start, 4, 64);
            let is_right = told.is_none() || told == Some((vec![(0, 1), (2, 3)], 4));
            // SAFETY: nothing is to be done any more.
            unsafe { libc::_exit(if is_right { 0 } else { 1 }) };
        }
        assert!(child > 0);
        write(start, 3);
        let mut status = 0;
        // SAFETY: the status is valid during the call.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(told(start, 4, 64), Some((vec![(0, 1), (3, 4)], 4)));
    }
}
