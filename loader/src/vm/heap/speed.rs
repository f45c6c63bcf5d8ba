//! What the heap costs. Measured by hand, in a build that is optimised:
//! `cargo test --profile soak -p cwasm-loader --lib heap::speed -- --ignored --nocapture --test-threads 1`.

use std::ptr::with_exposed_provenance_mut;
use std::time::{Duration, Instant};

use super::random::Random;
use super::*;

const LIMIT: usize = 4 << 30;

struct Types([Shape; 3]);

impl Shapes for Types {
    fn shape(&self, type_id: u32) -> Option<&Shape> {
        self.0.get(type_id as usize)
    }
}

struct Program {
    heap: Heap,
    window: Window,
    types: Types,
    collections: u32,
    collecting: Duration,
    /// How often there was a new window.
    calls: usize,
}

impl Program {
    fn new() -> Self {
        let structure =
            |size| Shape::Struct { size, objects: [8, 16].into(), exceptions: [].into() };
        let array = Shape::Array { element_size: 8, elements: Traced::Object };
        Self {
            heap: Heap::new(),
            window: Window::default(),
            types: Types([structure(24), structure(32), array]),
            collections: 0,
            collecting: Duration::ZERO,
            calls: 0,
        }
    }

    /// Allocates as compiled code does.
    #[inline(always)]
    fn new_object(&mut self, type_id: u32, size: usize, length: u32, roots: &[usize]) -> usize {
        let Window { next, end } = self.window;
        let address = if size <= end - next {
            self.window.next += size;
            next
        } else {
            self.allocate(size, roots)
        };
        // SAFETY: it is the header of an object that was just allocated.
        unsafe { with_exposed_provenance_mut::<[u32; 2]>(address).write([type_id, length]) };
        address
    }

    #[cold]
    #[inline(never)]
    fn allocate(&mut self, size: usize, roots: &[usize]) -> usize {
        self.calls += 1;
        let mut result = self.heap.allocate(&mut self.window, size, LIMIT);
        if result == Err(Refused::Collect) {
            self.collect(roots);
            result = self.heap.allocate(&mut self.window, size, LIMIT);
        }
        result.unwrap().addr().get()
    }

    fn collect(&mut self, roots: &[usize]) {
        let start = Instant::now();
        self.heap.collect(&mut self.window, &self.types, |marker| {
            roots.iter().for_each(|root| marker.reference(*root));
        });
        self.collecting += start.elapsed();
        self.collections += 1;
    }

    #[inline(always)]
    fn write(&mut self, address: usize, value: usize) {
        // SAFETY: it is a field of an object that is alive.
        unsafe { with_exposed_provenance_mut::<usize>(address).write(value) };
    }

    /// An object with two references.
    #[inline(always)]
    fn pair(&mut self, size: usize, references: [usize; 2], roots: &[usize]) -> usize {
        let object = self.new_object(u32::from(size == 32), size, u32::MAX, roots);
        self.write(object + 8, references[0]);
        self.write(object + 16, references[1]);
        if size == 32 {
            self.write(object + 24, 7);
        }
        object
    }

    fn report(&self, what: &str, count: usize, took: Duration) {
        let per = |time: Duration| time.as_secs_f64() * 1e9 / count as f64;
        println!(
            "{what}: {:.2} ns each, {:.2} of them in {} collections ({:?} each); {:.1} for a call; live {} KiB, used {} KiB",
            per(took),
            per(self.collecting),
            self.collections,
            self.collecting / self.collections.max(1),
            count as f64 / self.calls.max(1) as f64,
            self.heap.live_bytes() >> 10,
            self.heap.used_bytes() >> 10,
        );
    }
}

#[test]
#[ignore = "measures"]
fn short_lived_objects() {
    const COUNT: usize = 20_000_000;
    for size in [24, 32] {
        for kept in [0, 1 << 10, 1 << 16] {
            let mut program = Program::new();
            let mut live = 0;
            for _ in 0..kept {
                live = program.pair(size, [live, 0], &[live]);
            }
            let mut best = Duration::MAX;
            for _ in 0..5 {
                program.collect(&[live]);
                (program.collecting, program.collections, program.calls) = Default::default();
                let start = Instant::now();
                let mut last = 0;
                for _ in 0..COUNT {
                    last = program.pair(size, [last & 8, 0], &[live]);
                }
                best = best.min(start.elapsed());
            }
            program.report(&format!("{size}, {kept} live"), COUNT, best);
        }
    }
}

/// Every fourth object of those before stays, in another order each time.
#[test]
#[ignore = "measures"]
fn objects_in_holes() {
    const COUNT: usize = 1 << 20;
    let mut program = Program::new();
    let mut random = Random::new(1);
    let table = program.new_object(2, 8 + 8 * COUNT, u32::try_from(COUNT).unwrap(), &[]);
    (0..COUNT).for_each(|index| program.write(table + 8 + 8 * index, 0));
    for round in 0..4 {
        (program.collecting, program.collections, program.calls) = Default::default();
        let start = Instant::now();
        for _ in 0..4 * COUNT {
            let object = program.pair(32, [0, 0], &[table]);
            let index = random.below(4 * COUNT);
            if index < COUNT {
                program.write(table + 8 + 8 * index, object);
            }
        }
        program.report(&format!("round {round}"), 4 * COUNT, start.elapsed());
    }
}

#[test]
#[ignore = "measures"]
fn marking() {
    const COUNT: usize = 4 << 20;
    let mut random = Random::new(2);
    for shuffled in [false, true] {
        let mut program = Program::new();
        program.heap.threshold = LIMIT;
        let mut nodes: Vec<_> = (0..COUNT).map(|_| program.pair(32, [0, 0], &[])).collect();
        if shuffled {
            (1..COUNT).for_each(|index| nodes.swap(index, random.below(index + 1)));
        }
        // A list, and a tree.
        for is_tree in [false, true] {
            for index in 0..COUNT {
                let next = |index: usize| nodes.get(index).copied().unwrap_or(0);
                let references = if is_tree {
                    [next(2 * index + 1), next(2 * index + 2)]
                } else {
                    [next(index + 1), next(0)]
                };
                program.write(nodes[index] + 8, references[0]);
                program.write(nodes[index] + 16, references[1]);
            }
            (program.collecting, program.collections) = Default::default();
            let start = Instant::now();
            program.collect(&[nodes[0]]);
            let what = format!("marking, shuffled {shuffled}, tree {is_tree}");
            program.report(&what, COUNT, start.elapsed());
            assert_eq!(program.heap.live_bytes(), 32 * COUNT);
        }
    }
}

#[test]
#[ignore = "measures"]
fn small_stores() {
    const COUNT: u32 = 10_000;
    for objects in [1, 100, 10_000] {
        let start = Instant::now();
        for _ in 0..COUNT / objects.min(100) {
            let mut program = Program::new();
            for _ in 0..objects {
                program.pair(32, [0, 0], &[]);
            }
        }
        let each = start.elapsed() / (COUNT / objects.min(100));
        println!("a heap with {objects} objects: {each:?}");
    }
}

#[test]
#[ignore = "measures"]
fn words_of_a_deep_stack() {
    const COUNT: usize = 100_000;
    let mut program = Program::new();
    program.heap.threshold = LIMIT;
    let mut nodes: Vec<_> = (0..COUNT).map(|_| program.pair(32, [0, 0], &[])).collect();
    let mut random = Random::new(3);
    (1..COUNT).for_each(|index| nodes.swap(index, random.below(index + 1)));
    for round in ["new", "known"] {
        let start = Instant::now();
        program.heap.collect(&mut program.window, &program.types, |marker| {
            nodes.iter().for_each(|node| marker.word(node + 8));
        });
        assert_eq!(program.heap.live_bytes(), 32 * COUNT);
        println!("words, {round}: {:?} each", start.elapsed() / u32::try_from(COUNT).unwrap());
    }
}
