//! Linear-memory images: what the data segments make of a new memory, computed
//! when compiling, so that an instance maps pages instead of copying bytes.
//!
//! Segments take effect in order, and a segment that does not fit traps after
//! the ones before it were written. An image therefore covers a prefix of the
//! active segments: up to the first whose place is not known, is not in a memory that
//! the module defines, or is not within that memory's minimum size. Memories whose
//! pages are bytes have none: they need not fill a page of the host.

use std::collections::BTreeMap;

use cwasm_artifact::types::MemoryType;

use super::{ConstOp, MemoryIndex, Module, SegmentMode};

/// Initial contents of a run of pages of a memory, without the zeros at its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The memory, which the module defines.
    pub memory: MemoryIndex,
    /// Where the contents begin.
    pub offset: u64,
    /// The contents.
    pub bytes: Vec<u8>,
}

impl Image {
    /// Leaves out the zeros at its ends, as memories begin with them anyway.
    fn trim(&mut self) {
        let is_set = |byte: &u8| *byte != 0;
        let end = self.bytes.iter().rposition(is_set).map_or(0, |last| last + 1);
        self.bytes.truncate(end);
        let start = self.bytes.iter().position(is_set).unwrap_or(0);
        self.bytes.drain(..start);
        self.offset += start as u64;
    }
}

/// All images of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// Runs, ordered by memory and offset; no two have bytes of one page.
    pub runs: Vec<Image>,
    /// How many data segments (of all kinds) come before the first active one that the
    /// images do not contain. Active segments with a lower index are done.
    pub covered: usize,
}

/// Pages may make the images larger than the data by this factor and constant.
/// Segments that are scattered wider are left to be copied.
const GROWTH: usize = 4;
const SLACK: usize = 1 << 20;

impl Images {
    /// Computes the images of a module for pages of `page_size` bytes.
    #[must_use]
    pub fn of(module: &Module<'_>, page_size: u32) -> Self {
        let page = page_size as usize;
        let mut pages: BTreeMap<(MemoryIndex, u64), Vec<u8>> = BTreeMap::new();
        let mut data_size = 0usize;
        let mut covered = 0;
        for segment in &module.data {
            if let SegmentMode::Active { target, ref offset } = segment.mode {
                let start = match offset.constant() {
                    Some(ConstOp::I32(offset)) => u64::from(offset.cast_unsigned()),
                    Some(ConstOp::I64(offset)) => offset.cast_unsigned(),
                    _ => break,
                };
                let end = start.checked_add(segment.bytes.len() as u64);
                let ty = &module.memories[target];
                let size = ty.bytes(ty.limits.min).unwrap_or(u64::MAX);
                let fits = target.as_u32() >= module.imported_memories
                    && ty.page_size_log2 == MemoryType::PAGE_SIZE_LOG2
                    && end.is_some_and(|end| end <= size);
                data_size += segment.bytes.len();
                let touched = segment.bytes.len() / page + 2;
                if !fits || (pages.len() + touched) * page > data_size * GROWTH + SLACK {
                    break;
                }
                write(&mut pages, target, start, segment.bytes, page);
            }
            covered += 1;
        }
        Self { runs: merge(pages, u64::from(page_size)), covered }
    }
}

/// Copies bytes into the pages that they belong to.
fn write(
    pages: &mut BTreeMap<(MemoryIndex, u64), Vec<u8>>,
    memory: MemoryIndex,
    mut start: u64,
    mut bytes: &[u8],
    page: usize,
) {
    while !bytes.is_empty() {
        let number = start / page as u64;
        let within = usize::try_from(start % page as u64).unwrap_or(0);
        let (now, later) = bytes.split_at(bytes.len().min(page - within));
        let contents = pages.entry((memory, number)).or_insert_with(|| vec![0; page]);
        contents[within..within + now.len()].copy_from_slice(now);
        start += now.len() as u64;
        bytes = later;
    }
}

/// Joins neighbouring pages.
fn merge(pages: BTreeMap<(MemoryIndex, u64), Vec<u8>>, page_size: u64) -> Vec<Image> {
    let mut runs: Vec<Image> = Vec::new();
    for ((memory, number), contents) in pages {
        let offset = number * page_size;
        match runs.last_mut() {
            Some(last)
                if last.memory == memory && last.offset + last.bytes.len() as u64 == offset =>
            {
                last.bytes.extend_from_slice(&contents);
            }
            _ => runs.push(Image { memory, offset, bytes: contents }),
        }
    }
    runs.iter_mut().for_each(Image::trim);
    runs.retain(|run| !run.bytes.is_empty());
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(text: &str) -> Images {
        let wasm = wat::parse_str(text).unwrap();
        let (module, _) = crate::module::parse(&wasm).unwrap();
        Images::of(&module, 4096)
    }

    #[test]
    fn neighbouring_pages_are_one_run_and_later_segments_win() {
        let images = images(
            r#"(module (memory 1)
                (data (i32.const 4094) "abcd") (data (i32.const 4095) "X") (data "passive")
                (data (i32.const 40960) "far"))"#,
        );
        assert_eq!(images.covered, 4);
        let [first, second] = &images.runs[..] else { panic!("{images:?}") };
        assert_eq!((first.offset, &first.bytes[..]), (4094, &b"aXcd"[..]));
        assert_eq!((second.offset, &second.bytes[..]), (40960, &b"far"[..]));
    }

    #[test]
    fn zeros_at_the_ends_of_runs_are_left_out() {
        let images = images(
            r#"(module (memory 1) (data (i32.const 8192) "\00\00") (data (i32.const 20480) "\00")
                (data (i32.const 1024) "\00\01\00\02\00"))"#,
        );
        assert_eq!(images.covered, 3);
        let [only] = &images.runs[..] else { panic!("{images:?}") };
        assert_eq!((only.offset, &only.bytes[..]), (1025, &[1, 0, 2][..]));
    }

    #[test]
    fn a_segment_that_does_not_fit_ends_the_images() {
        let images = images(
            r#"(module (memory 1)
                (data (i32.const 0) "a") (data (i32.const 65535) "xx") (data (i32.const 9) "b"))"#,
        );
        assert_eq!(images.covered, 1);
        assert_eq!(images.runs.len(), 1);
        assert_eq!(images.runs[0].bytes, b"a");
    }

    #[test]
    fn imported_memories_and_unknown_offsets_have_no_image() {
        assert_eq!(
            images(r#"(module (import "m" "m" (memory 1)) (data (i32.const 0) "a"))"#),
            Images::default()
        );
        assert_eq!(
            images(
                r#"(module (import "m" "g" (global i32)) (memory 1) (data (global.get 0) "a"))"#
            ),
            Images::default()
        );
    }

    #[test]
    fn widely_scattered_segments_do_not_blow_up_the_artifact() {
        let segments: String =
            (0..2000).map(|n| format!("(data (i32.const {}) \"x\")", n * 65536)).collect();
        let images = images(&format!("(module (memory 2000) {segments})"));
        let size: usize = images.runs.iter().map(|run| run.bytes.len()).sum();
        assert!(images.covered < 2000 && size <= SLACK + 4 * 2000, "{size}");
    }
}
