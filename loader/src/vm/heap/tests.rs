//! The heap as compiled code and the store use it.

use std::collections::BTreeMap;
use std::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

use super::random::Random;
use super::*;

pub(super) const LIMIT: usize = 256 << 20;

/// Types of the tests.
pub(super) const LEAF: u32 = 0;
pub(super) const PAIR: u32 = 1;
pub(super) const BYTES: u32 = 2;
pub(super) const REFERENCES: u32 = 3;
pub(super) const WIDE: u32 = 4;
const CATCH: u32 = 5;
const THROWN: u32 = 6;
const UNKNOWN: u32 = 7;

pub(super) struct Types(Vec<Shape>);

impl Shapes for Types {
    fn shape(&self, type_id: u32) -> Option<&Shape> {
        self.0.get(type_id as usize)
    }
}

fn types() -> Types {
    let structure = |size, objects: &[u32], exceptions: &[u32]| Shape::Struct {
        size,
        objects: objects.into(),
        exceptions: exceptions.into(),
    };
    let array = |element_size, elements| Shape::Array { element_size, elements };
    Types(vec![
        structure(20, &[], &[]),
        structure(32, &[16, 24], &[]),
        array(1, Traced::Nothing),
        array(8, Traced::Object),
        structure(1200, &[8, 1192], &[]),
        structure(32, &[24], &[8]),
        array(8, Traced::Exception),
    ])
}

pub(super) fn write(address: usize, value: usize) {
    // SAFETY: the tests write to objects that they have allocated, which the heap keeps accessible.
    unsafe { with_exposed_provenance_mut::<usize>(address).write_unaligned(value) }
}

pub(super) fn read(address: usize) -> usize {
    // SAFETY: as above.
    unsafe { with_exposed_provenance::<usize>(address).read_unaligned() }
}

fn write_header(address: usize, type_id: u32, length: u32) {
    // SAFETY: as above.
    unsafe { with_exposed_provenance_mut::<[u32; 2]>(address).write([type_id, length]) }
}

fn write_byte(address: usize, value: u8) {
    // SAFETY: as above.
    unsafe { with_exposed_provenance_mut::<u8>(address).write(value) }
}

pub(super) fn read_byte(address: usize) -> u8 {
    // SAFETY: as above.
    unsafe { with_exposed_provenance::<u8>(address).read() }
}

/// What a byte of an object is that is no reference.
pub(super) fn pattern(address: usize) -> u8 {
    u8::try_from(address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).expect("it is a byte") | 1
}

/// A heap with the window that compiled code has.
pub(super) struct Store {
    pub(super) heap: Heap,
    window: Window,
    types: Types,
    pub(super) limit: usize,
    collections: usize,
}

impl Store {
    pub(super) fn new(limit: usize) -> Self {
        let (heap, window) = (Heap::new(), Window::default());
        Self { heap, window, types: types(), limit, collections: 0 }
    }

    pub(super) fn size(&self, type_id: u32, length: u32) -> usize {
        self.types.shape(type_id).map_or(8, |shape| shape.size(length))
    }

    /// Allocates as compiled code does. Nothing is null or otherwise written but the header.
    fn try_raw(&mut self, type_id: u32, length: u32) -> Result<usize, Refused> {
        let size = self.size(type_id, length);
        let Window { next, end } = self.window;
        let address = if end - next >= size {
            self.window.next += size;
            next
        } else {
            self.heap.allocate(&mut self.window, size, self.limit)?.addr().get()
        };
        assert!(self.window.next <= self.window.end && address.is_multiple_of(8));
        write_header(address, type_id, length);
        Ok(address)
    }

    /// Where the references of an object are.
    pub(super) fn references(&self, type_id: u32, length: u32) -> Vec<usize> {
        match self.types.shape(type_id) {
            Some(Shape::Struct { objects, .. }) => objects.iter().map(|at| *at as usize).collect(),
            Some(Shape::Array { elements: Traced::Object, .. }) => {
                (0..length as usize).map(|index| 8 + 8 * index).collect()
            }
            _ => Vec::new(),
        }
    }

    /// An object whose references are null.
    pub(super) fn try_new(&mut self, type_id: u32, length: u32) -> Result<usize, Refused> {
        let address = self.try_raw(type_id, length)?;
        for at in address + 8..address + self.size(type_id, length) {
            write_byte(at, pattern(at));
        }
        for at in self.references(type_id, length) {
            write(address + at, 0);
        }
        if type_id == CATCH {
            write(address + 8, 0);
        }
        Ok(address)
    }

    /// The same, with a collection if one is due.
    fn new_with(&mut self, type_id: u32, length: u32, roots: &[usize]) -> usize {
        self.try_new(type_id, length).unwrap_or_else(|refused| {
            assert_eq!(refused, Refused::Collect);
            self.collect(roots);
            self.try_new(type_id, length).unwrap()
        })
    }

    fn new_object(&mut self, type_id: u32, length: u32) -> usize {
        self.try_new(type_id, length).unwrap()
    }

    fn collect(&mut self, roots: &[usize]) {
        self.collect_with(|marker| roots.iter().for_each(|root| marker.reference(*root)));
    }

    fn collect_words(&mut self, words: &[usize]) {
        self.collect_with(|marker| words.iter().for_each(|word| marker.word(*word)));
    }

    pub(super) fn collect_with(&mut self, mark: impl FnOnce(&mut Marker<'_, Types>)) {
        self.collections += 1;
        self.heap.collect(&mut self.window, &self.types, mark);
        assert_eq!(self.window, Window::default());
    }

    /// How many bytes the objects have that words lead to.
    fn live_from(&mut self, words: &[usize]) -> usize {
        self.collect_words(words);
        self.heap.live_bytes()
    }
}

/// A length of an array of bytes that has some more than so many blocks.
fn of_blocks(blocks: usize, more: usize) -> u32 {
    u32::try_from(blocks * BLOCK + more).unwrap()
}

fn collected<T>(result: Result<T, Refused>) -> Option<Refused> {
    result.err()
}

#[test]
fn a_heap_without_objects_has_nothing() {
    let mut store = Store::new(LIMIT);
    for address in [0, 1, 2, 8, 4096, usize::MAX - 7] {
        assert!(!store.heap.contains(address) && store.heap.header(address).is_none());
    }
    store.collect_with(|marker| {
        for raw in [0, 1, 2, 8, 16, 4096, usize::MAX - 7] {
            marker.reference(raw);
            marker.word(raw);
        }
        marker.trace();
        assert!(marker.take_exceptions().is_empty());
    });
    let heap = &store.heap;
    assert_eq!((heap.live_bytes(), heap.used_bytes(), heap.kept_bytes()), (0, 0, 0));
    let is_shared = |_: &(dyn Send + Sync)| true;
    assert!(is_shared(heap));
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn objects_follow_each_other_and_tell_their_headers() {
    let mut store = Store::new(LIMIT);
    let leaf = store.new_object(LEAF, u32::MAX);
    let array = store.new_object(BYTES, 3);
    let pair = store.new_object(PAIR, u32::MAX);
    assert_eq!((array - leaf, pair - array), (24, 16));
    assert_eq!(store.heap.header(array), Some(Header { type_id: BYTES, length: 3 }));
    assert_eq!(store.heap.header(pair), Some(Header { type_id: PAIR, length: u32::MAX }));
    assert!(!store.heap.contains(array + 4) && !store.heap.contains(pair + (1 << 20)));
    assert_eq!(store.heap.used_bytes(), BLOCK);
    // Zero bytes are an object, too: a header. Others are rounded up.
    for (size, rounded) in [(0, 8), (9, 16), (16, 16)] {
        let object = store.heap.allocate(&mut store.window, size, LIMIT).unwrap();
        assert_eq!(store.window.next - object.addr().get(), rounded);
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn what_roots_lead_to_lives_and_cycles_without_roots_do_not() {
    let mut store = Store::new(LIMIT);
    let mut ring = || {
        let nodes: Vec<_> = (0..100).map(|_| store.new_object(PAIR, u32::MAX)).collect();
        for (index, node) in nodes.iter().enumerate() {
            write(node + 16, nodes[(index + 1) % 100]);
            // Numbers, values of the host, the object itself.
            write(node + 24, [index << 1 | 1, index << 2 | 2, *node, 0][index % 4]);
        }
        nodes[7]
    };
    let (first, second) = (ring(), ring());
    store.collect(&[first, second]);
    assert_eq!(store.heap.live_bytes(), 200 * 32);
    // Other values first.
    store.collect(&[0, 5, 6, second + 4, second.wrapping_sub(1 << 40), second]);
    assert_eq!(store.heap.live_bytes(), 100 * 32);
    store.collect(&[]);
    assert_eq!((store.heap.live_bytes(), store.heap.used_bytes()), (0, 0));
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn a_list_of_a_million_and_long_arrays_are_traced() {
    const COUNT: usize = 1_000_000;
    let mut store = Store::new(LIMIT);
    let mut last = 0;
    for _ in 0..COUNT {
        let node = store.new_with(PAIR, u32::MAX, &[last]);
        write(node + 16, last);
        write(node + 24, node);
        last = node;
    }
    // Of each array the last element leads to the next, and two to a leaf.
    let leaf = store.new_with(LEAF, u32::MAX, &[last]);
    let length = 100_000;
    for elements in [length, 513, 512, 511, 1] {
        let array = store.new_with(REFERENCES, elements, &[last, leaf]);
        write(array + 8, leaf);
        write(array + 8 + 8 * (elements as usize / 2), leaf);
        write(array + 8 * elements as usize, last);
        last = array;
    }
    store.collect(&[last]);
    let arrays = 5 * 8 + 8 * (length as usize + 513 + 512 + 511 + 1);
    // The last one's only element is the next array.
    assert_eq!(store.heap.live_bytes(), COUNT * 32 + 24 + arrays);
    store.collect(&[]);
    assert_eq!(store.heap.live_bytes(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn words_lead_to_objects_from_all_of_their_bytes() {
    let mut store = Store::new(LIMIT);
    let before = store.new_object(BYTES, 40);
    let object = store.new_object(BYTES, 100);
    let behind = store.new_object(LEAF, u32::MAX);
    let size = store.size(BYTES, 100);
    assert_eq!((object - before, behind - object, size), (48, size, 112));
    // New the first time, and known later.
    for word in (object..behind).chain([object]) {
        assert_eq!(store.live_from(&[word]), size, "{word:#x}");
    }
    // Those around are dead.
    for word in [before, object - 1, behind, behind + 8, behind + 23, behind + 24] {
        assert_eq!(store.live_from(&[word, object]), size, "{word:#x}");
    }
    assert_eq!(store.live_from(&[behind]), 0);
    assert_eq!(store.live_from(&[object]), 0);
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn words_to_what_was_not_allocated_lead_nowhere() {
    let mut store = Store::new(LIMIT);
    // What is in the memory looks like objects.
    let filler: Vec<_> = (0..3000).map(|_| store.new_object(LEAF, u32::MAX)).collect();
    store.collect(&[]);
    let first = store.new_object(LEAF, u32::MAX);
    assert_eq!(first, filler[0]);
    let rest: Vec<_> = (first + 24..first + 3 * BLOCK).step_by(8).collect();
    store.collect_words(&rest);
    assert_eq!(store.heap.live_bytes(), 0);
    let first = store.new_object(LEAF, u32::MAX);
    let outside = [first.wrapping_sub(1), first.wrapping_add(1 << 20), first + (1 << 30), 0];
    store.collect_words(&outside);
    assert_eq!(store.heap.live_bytes(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn runs_of_both_windows_are_parsed() {
    let mut store = Store::new(LIMIT);
    let mut objects = BTreeMap::new();
    let mut random = Random::new(4);
    for _ in 0..2000 {
        let length = [10, 200, 1000, 7000][random.below(4)];
        objects.insert(store.new_object(BYTES, length), store.size(BYTES, length));
    }
    for _ in 0..3 {
        objects.retain(|_, _| random.below(3) > 0);
        let inside = |(start, size): (&usize, &usize)| start + random.below(*size);
        let words: Vec<_> = objects.iter().map(inside).collect();
        assert_eq!(store.live_from(&words), objects.values().sum::<usize>());
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn what_has_an_unknown_type_ends_a_run_and_is_no_object() {
    let mut store = Store::new(LIMIT);
    let known = store.new_object(LEAF, u32::MAX);
    let unknown = store.try_raw(UNKNOWN, 9).unwrap();
    let lost = store.new_object(LEAF, u32::MAX);
    let pair = store.new_object(PAIR, u32::MAX);
    write(pair + 16, unknown);
    assert_eq!(store.live_from(&[known + 3, unknown, lost]), 24);
    // An array that claims to be longer than its block.
    let known = store.new_object(LEAF, u32::MAX);
    let long = store.new_object(BYTES, 8);
    write_header(long, BYTES, u32::MAX);
    let lost = store.new_object(LEAF, u32::MAX);
    store.collect_with(|marker| {
        marker.word(known);
        marker.word(lost);
        marker.reference(long);
        marker.reference(long + 8);
        marker.reference(known + BLOCK);
    });
    assert_eq!(store.heap.live_bytes(), 24);
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn wrong_references_are_not_remembered() {
    let mut store = Store::new(LIMIT);
    let array = store.new_object(BYTES, 100);
    // What looks like something long.
    write_header(array + 16, BYTES, u32::MAX);
    store.collect(&[array, array + 16, array + 24]);
    assert_eq!(store.heap.live_bytes(), store.size(BYTES, 100));
    assert_eq!(store.live_from(&[array + 40]), store.size(BYTES, 100));
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn what_two_windows_leave_is_used_in_the_end() {
    let mut store = Store::new(LIMIT);
    let bytes = |store: &mut Store, size: usize| store.new_object(BYTES, of_blocks(0, size - 8));
    let (first, second) = (bytes(&mut store, 12_008), bytes(&mut store, 10_000));
    let third = bytes(&mut store, 8000);
    assert_eq!([second - first, third - first], [BLOCK, 2 * BLOCK]);
    // What is left of the third, and of the second.
    assert_eq!(bytes(&mut store, BLOCK - 8000), third + 8000);
    assert_eq!(bytes(&mut store, BLOCK - 10_000), second + 10_000);
    // There were three windows.
    let rest = 12_008_usize.next_multiple_of(LINE);
    assert_eq!(bytes(&mut store, 16), first + rest);
    assert_eq!(bytes(&mut store, BLOCK - rest - 16), first + rest + 16);
    assert_eq!(bytes(&mut store, 8), third + BLOCK);
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn holes_are_used_and_free_blocks_and_then_new_ones() {
    let mut store = Store::new(LIMIT);
    let per_block = BLOCK / 32;
    let objects: Vec<_> = (0..8 * per_block).map(|_| store.new_object(PAIR, u32::MAX)).collect();
    assert_eq!(store.heap.used_bytes(), 8 * BLOCK);
    // A line lives of every 1024 bytes of the first two blocks, and the fifth block.
    let lives = |index: usize| match index / per_block {
        0 | 1 => index % 32 == 9,
        block => block == 4,
    };
    let live: Vec<_> = objects.iter().enumerate().filter(|(index, _)| lives(*index)).collect();
    let live: Vec<_> = live.into_iter().map(|(_, object)| *object).collect();
    store.collect(&live);
    assert_eq!(store.heap.used_bytes(), 3 * BLOCK);
    let starts: Vec<_> = (0..7 * per_block).map(|_| store.new_object(PAIR, u32::MAX)).collect();
    let blocks: Vec<_> = starts.iter().map(|start| (start - objects[0]) / BLOCK).collect();
    assert!(blocks.is_sorted_by_key(|block| match block {
        0 | 1 => *block,
        _ => block + 8,
    }));
    // Of the two blocks, all but a line of every 32 objects.
    let lines = 2 * per_block / 32;
    assert_eq!(blocks.iter().filter(|block| **block < 2).count(), lines * (1024 - LINE) / 32);
    assert_eq!(store.heap.used_bytes(), 9 * BLOCK);
    // The first object of what was closed is where a hole began.
    assert_eq!(starts[0], objects[0]);
    assert!(starts.iter().all(|start| !live.contains(start)));
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn what_does_not_fit_a_hole_leaves_it_to_others() {
    let mut store = Store::new(LIMIT);
    let objects: Vec<_> = (0..BLOCK / 32).map(|_| store.new_object(PAIR, u32::MAX)).collect();
    // No hole has more than a kilobyte.
    let live: Vec<_> = objects.iter().copied().skip(24).step_by(32).collect();
    store.collect(&live);
    let small = store.new_object(PAIR, u32::MAX);
    let wide = store.new_object(WIDE, u32::MAX);
    // Both go on: the larger one as the window.
    let others = [store.new_object(WIDE, u32::MAX), store.new_object(PAIR, u32::MAX)];
    assert_eq!(small, objects[0]);
    assert_eq!(wide, objects[0] + BLOCK);
    assert_eq!(others, [wide + 1200, wide + 2400]);
    // When it is full, the rest of the hole is next.
    let left = (BLOCK - 2400 - 32) / 32;
    let filled: Vec<_> = (0..left).map(|_| store.new_object(PAIR, u32::MAX)).collect();
    assert_eq!(filled[left - 1], wide + 2400 + 32 * left);
    assert_eq!(store.new_object(PAIR, u32::MAX), small + 32);
    // Medium objects find holes that are large enough.
    let hole = store.new_object(BYTES, 700);
    assert_eq!(hole, objects[24] + LINE);
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn programs_with_medium_objects_only_use_holes_too() {
    let mut store = Store::new(LIMIT);
    let mut live: Vec<usize> = Vec::new();
    let mut random = Random::new(5);
    for _ in 0..60_000 {
        let object = store.new_with(WIDE, u32::MAX, &live);
        if live.len() < 3000 {
            live.push(object);
        } else {
            let index = random.below(3000);
            live[index] = object;
        }
    }
    // 3.6 MB live, and 4.2 MB are handed out in between.
    assert!(store.heap.used_bytes() < 11 << 20, "{}", store.heap.used_bytes());
    assert!(store.collections >= 10, "{}", store.collections);
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn large_objects_have_blocks_that_follow_each_other() {
    let mut store = Store::new(LIMIT);
    let small = store.new_object(LEAF, u32::MAX);
    let length = of_blocks(3, 1000);
    let large = store.new_object(BYTES, length);
    let largest_small = store.new_object(BYTES, of_blocks(0, BLOCK - 8));
    assert!(store.heap.contains(large) && !store.heap.contains(large + BLOCK));
    assert_eq!(large % BLOCK, store.heap.memory.base() % BLOCK);
    assert_eq!(store.heap.used_bytes(), (1 + 4 + 1) * BLOCK);
    let size = store.size(BYTES, length);
    // All of it leads to it, and nothing else does.
    for word in [large, large + 1, large + BLOCK, large + 3 * BLOCK + 7, large + size - 1] {
        assert_eq!(store.live_from(&[word]), size, "{word:#x}");
    }
    assert_eq!(store.heap.used_bytes(), 4 * BLOCK);
    assert_eq!(store.heap.header(large), Some(Header { type_id: BYTES, length }));
    // Its place is used again: by another, by small ones, and what is not enough, not.
    let (before, after) = (small, largest_small);
    assert_eq!(store.live_from(&[large + size, large - 1, before, after]), 0);
    let next = store.new_object(BYTES, of_blocks(4, 1000));
    assert_eq!(next, before);
    let other = store.new_object(BYTES, of_blocks(1, 200));
    assert_eq!(other, after);
    store.collect(&[other]);
    let longer = store.new_object(BYTES, of_blocks(6, 1000));
    assert_eq!(longer, other + 2 * BLOCK);
    assert_eq!(store.new_object(BYTES, of_blocks(1, 200)), before);
    store.collect_with(|marker| {
        // No object starts there.
        marker.reference(longer + 8);
        marker.reference(longer + BLOCK);
        // Nothing is there any more.
        marker.reference(other);
        marker.word(longer);
    });
    assert_eq!(
        store.heap.live_bytes(),
        store.size(BYTES, of_blocks(6, 1000)) + store.size(BYTES, of_blocks(1, 200))
    );
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn the_end_of_the_heap_is_used_for_a_large_object() {
    let mut store = Store::new(LIMIT);
    let keep = store.new_object(LEAF, u32::MAX);
    let array = store.new_object(BYTES, of_blocks(2, 1000));
    store.collect(&[keep]);
    // Three blocks are free at the end.
    assert_eq!(store.new_object(BYTES, of_blocks(5, 1000)), array);
    assert_eq!(store.heap.used_bytes(), 7 * BLOCK);
    assert_eq!(store.heap.blocks.count(), 7);
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn at_the_limit_a_collection_comes_before_the_heap_is_full() {
    let limit = 10 * BLOCK;
    for type_id in [PAIR, WIDE, BYTES] {
        let mut store = Store::new(limit);
        let length = if type_id == BYTES { of_blocks(1, 200) } else { u32::MAX };
        let mut live = Vec::new();
        let refused = loop {
            match store.try_new(type_id, length) {
                Ok(object) => live.push(object),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused, Refused::Collect);
        assert_eq!(store.heap.used_bytes(), limit);
        for _ in 0..3 {
            store.collect(&live);
            assert_eq!(store.heap.live_bytes(), live.len() * store.size(type_id, length));
            assert_eq!(collected(store.try_new(type_id, length)), Some(Refused::Full));
            // Whoever tries again may have dropped something.
            assert_eq!(collected(store.try_new(type_id, length)), Some(Refused::Collect));
        }
        // One that nobody asked for is not enough: roots may have gone since.
        let count = live.len();
        store.collect(&live);
        store.collect(&live);
        live.truncate(count / 2);
        assert_eq!(collected(store.try_new(type_id, length)), Some(Refused::Collect));
        store.collect(&live);
        let mut new = 0;
        while store.try_new(type_id, length).is_ok() {
            new += 1;
        }
        assert!(new + live.len() >= count * 9 / 10, "{new} of {count}");
        // Smaller objects may still fit.
        assert!(store.heap.used_bytes() <= limit);
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn what_can_never_be_is_refused_after_one_collection() {
    let mut store = Store::new(1 << 20);
    for size in [(1 << 20) + 1, 1 << 40, usize::MAX - 8, usize::MAX] {
        let allocate = |store: &mut Store| {
            let result = store.heap.allocate(&mut store.window, size, store.limit);
            collected(result)
        };
        assert_eq!(allocate(&mut store), Some(Refused::Collect));
        store.collect(&[]);
        assert_eq!(allocate(&mut store), Some(Refused::Full));
    }
    // It was not used up.
    assert_eq!(store.heap.used_bytes(), 0);
    store.new_object(BYTES, (1 << 20) - 8);
    assert_eq!(store.heap.used_bytes(), 1 << 20);
    let mut none = Store::new(BLOCK - 1);
    assert_eq!(collected(none.try_new(LEAF, u32::MAX)), Some(Refused::Collect));
    none.collect(&[]);
    assert_eq!(collected(none.try_new(LEAF, u32::MAX)), Some(Refused::Full));
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn collections_are_as_rare_as_what_lives_is_large() {
    let mut store = Store::new(LIMIT);
    let allocated = |store: &mut Store, live: &[usize]| {
        let before = store.collections;
        let mut bytes = 0;
        while store.collections == before {
            store.new_with(PAIR, u32::MAX, live);
            bytes += 32;
        }
        bytes
    };
    let is_about = |bytes: usize, wanted: usize| bytes.abs_diff(wanted) <= 2 * BLOCK;
    assert!(is_about(allocated(&mut store, &[]), MIN_THRESHOLD));
    assert!(is_about(allocated(&mut store, &[]), MIN_THRESHOLD));
    let large = store.new_with(BYTES, 20 << 20, &[]);
    store.collect(&[large]);
    assert!(is_about(allocated(&mut store, &[large]), 20 << 20));
    // One that is larger than that is possible nevertheless.
    store.collect(&[]);
    store.new_object(BYTES, 20 << 20);
    assert_eq!(collected(store.try_new(BYTES, 20 << 20)), Some(Refused::Collect));
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn exceptions_are_told_and_what_they_lead_to_is_traced_then() {
    let mut store = Store::new(LIMIT);
    let catch = store.new_object(CATCH, u32::MAX);
    let array = store.new_object(THROWN, 3);
    let value = store.new_object(CATCH, u32::MAX);
    let dead = store.new_object(CATCH, u32::MAX);
    write(catch + 8, 0x1000);
    write(catch + 24, array);
    (0..3).for_each(|index| write(array + 8 + 8 * index, [0, 0x2000, 0x2000][index]));
    write(value + 8, 0x3000);
    write(dead + 8, 0x4000);
    store.collect_with(|marker| {
        marker.reference(catch);
        assert!(marker.take_exceptions().is_empty());
        marker.trace();
        assert_eq!(marker.take_exceptions(), [0x1000, 0x2000]);
        marker.trace();
        assert!(marker.take_exceptions().is_empty());
        marker.reference(value);
        marker.trace();
        assert_eq!(marker.take_exceptions(), [0x3000]);
    });
    assert_eq!(store.heap.live_bytes(), 32 + 32 + 32);
}

/// What the system says about the mappings of a heap: where each starts, how many bytes have memory, and whether large pages are wanted.
fn mappings(store: &Store) -> Vec<(usize, usize, bool)> {
    let start = store.heap.memory.base();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut found: Vec<(usize, usize, bool)> = Vec::new();
    let mut is_there = false;
    for line in maps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        if let Some((from, to)) = range
            && let [Ok(from), Ok(_)] = [from, to].map(|it| usize::from_str_radix(it, 16))
        {
            is_there = (start..start + LIMIT).contains(&from);
            if is_there {
                found.push((from - start, 0, false));
            }
        } else if let Some((_, bytes, is_large)) = found.last_mut().filter(|_| is_there) {
            if let Some(kilobytes) = line.strip_prefix("Rss:") {
                let kilobytes = kilobytes.trim().trim_end_matches(" kB");
                *bytes = kilobytes.parse::<usize>().unwrap() << 10;
            } else if let Some(flags) = line.strip_prefix("VmFlags:") {
                *is_large = flags.split_whitespace().any(|flag| flag == "hg");
            }
        }
    }
    found
}

/// How many bytes of a heap have memory.
fn resident(store: &Store) -> usize {
    mappings(store).iter().map(|(_, bytes, _)| bytes).sum()
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn memory_far_beyond_the_need_is_given_back() {
    let mut store = Store::new(LIMIT);
    let arrays: Vec<_> = (0..60)
        .scan(Vec::new(), |live, _| {
            live.push(store.new_with(BYTES, 1 << 20, live));
            live.last().copied()
        })
        .collect();
    assert!(resident(&store) >= 60 << 20);
    store.collect(&[arrays[0], arrays[30]]);
    let live = store.heap.live_bytes();
    assert_eq!(store.heap.kept_bytes(), (live + MIN_THRESHOLD).next_multiple_of(BLOCK));
    assert!(resident(&store) <= live + store.heap.kept_bytes() + (4 << 20), "{}", resident(&store));
    // What was given back is used as any other, and not given back twice.
    store.collect(&[arrays[0], arrays[30]]);
    let next: Vec<_> = (0..40)
        .scan(vec![arrays[0], arrays[30]], |live, _| {
            live.push(store.new_with(BYTES, 1 << 20, live));
            live.last().copied()
        })
        .collect();
    assert!(resident(&store) >= 40 << 20);
    for array in next.into_iter().chain([arrays[0], arrays[30]]) {
        assert!((array + 8..array + (1 << 20)).all(|at| read_byte(at) == pattern(at)));
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn all_but_the_beginning_is_in_large_pages() {
    let has_some = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
    if !has_some || crate::sys::page_size() != 4096 {
        return eprintln!("skipped: this system has no large pages");
    }
    let mut store = Store::new(LIMIT);
    let is_large = |store: &Store| {
        let starts = mappings(store).into_iter().filter(|(.., is_large)| *is_large);
        starts.map(|(start, ..)| start).next()
    };
    store.new_object(BYTES, 1 << 20);
    assert_eq!(is_large(&store), None);
    store.new_object(BYTES, 1 << 20);
    assert_eq!(is_large(&store), Some(2 << 20));
    // One that begins with more.
    let mut store = Store::new(LIMIT);
    store.new_object(BYTES, 20 << 20);
    assert_eq!(is_large(&store), Some(2 << 20));
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn many_heaps_live_at_once() {
    let mut stores: Vec<_> = (0..200).map(|_| Store::new(64 << 30)).collect();
    let objects: Vec<_> = stores
        .iter_mut()
        .map(|store| (0..300).map(|_| store.new_object(PAIR, u32::MAX)).collect::<Vec<_>>())
        .collect();
    for (index, store) in stores.iter_mut().enumerate() {
        // An address of another heap is none.
        store.collect(&[objects[index][5], objects[(index + 1) % 200][5]]);
        assert_eq!(store.heap.live_bytes(), 32);
    }
    drop(stores.split_off(100));
    for (store, objects) in stores.iter_mut().zip(&objects) {
        assert_eq!(read_byte(objects[5] + 9), pattern(objects[5] + 9));
        store.collect(&[]);
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn a_collection_that_panicked_is_forgotten() {
    let mut store = Store::new(LIMIT);
    let nodes: Vec<_> = (0..10).map(|_| store.new_object(PAIR, u32::MAX)).collect();
    nodes.windows(2).for_each(|pair| write(pair[0] + 16, pair[1]));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.collect_with(|marker| {
            // Marked, but not traced.
            marker.reference(nodes[0]);
            std::panic::resume_unwind(Box::new(()));
        });
    }));
    assert!(panicked.is_err());
    let other = store.new_object(LEAF, u32::MAX);
    store.collect(&[nodes[0], other]);
    assert_eq!(store.heap.live_bytes(), 10 * 32 + 24);
}
