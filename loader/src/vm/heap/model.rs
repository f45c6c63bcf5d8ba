//! Programs that allocate, link and forget at random, beside a model of what must be alive.

use std::collections::{BTreeMap, BTreeSet};

use super::random::Random;
use super::tests::{
    BYTES, LEAF, LIMIT, PAIR, REFERENCES, Store, WIDE, pattern, read, read_byte, write,
};
use super::*;

/// An object of the model.
#[derive(Clone, Debug)]
struct Object {
    type_id: u32,
    length: u32,
    size: usize,
    /// By offset.
    references: BTreeMap<usize, usize>,
}

/// A store, and what must be in it.
struct Model {
    store: Store,
    objects: BTreeMap<usize, Object>,
    roots: Vec<usize>,
    random: Random,
}

impl Model {
    fn reachable(&self) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut pending = self.roots.clone();
        while let Some(address) = pending.pop() {
            if address != 0 && found.insert(address) {
                pending.extend(self.objects[&address].references.values());
            }
        }
        found
    }

    fn check(&self, address: usize, object: &Object) {
        let header = Header { type_id: object.type_id, length: object.length };
        assert_eq!(self.store.heap.header(address), Some(header));
        for (offset, reference) in &object.references {
            assert_eq!(read(address + offset), *reference, "at {offset} of {address:#x}");
        }
        let mut at = address + 8;
        while at < address + object.size {
            if object.references.contains_key(&(at - address)) {
                at += 8;
                continue;
            }
            assert_eq!(read_byte(at), pattern(at), "at {} of {address:#x}", at - address);
            at += 1;
        }
    }

    /// Collects with the roots as references or as words to somewhere in the objects.
    fn collect(&mut self) {
        let reachable = self.reachable();
        let as_words = self.random.below(2) == 0;
        let inside: Vec<_> = self
            .roots
            .iter()
            .map(|root| (*root, root + self.random.below(self.objects[root].size)))
            .collect();
        self.store.collect_with(|marker| {
            for (root, inside) in inside {
                if as_words {
                    marker.word(inside);
                } else {
                    marker.reference(root);
                }
            }
        });
        self.objects.retain(|address, _| reachable.contains(address));
        let live: usize = self.objects.values().map(|object| object.size).sum();
        assert_eq!(self.store.heap.live_bytes(), live);
        assert!(self.store.heap.used_bytes() <= self.store.limit);
        for (address, object) in &self.objects {
            self.check(*address, object);
        }
    }

    fn allocate(&mut self) {
        let (type_id, longest) = match self.random.below(100) {
            0..40 => (PAIR, None),
            40..55 => (LEAF, None),
            55..70 => (REFERENCES, Some(30)),
            70..90 => (BYTES, Some(400)),
            90..94 => (WIDE, None),
            94..97 => (BYTES, Some(9000)),
            97..99 => (REFERENCES, Some(2000)),
            _ => (BYTES, Some(200_000)),
        };
        let length =
            longest.map_or(u32::MAX, |longest| u32::try_from(self.random.below(longest)).unwrap());
        let address = match self.store.try_new(type_id, length) {
            Ok(address) => address,
            Err(refused) => {
                assert_eq!(refused, Refused::Collect);
                self.collect();
                match self.store.try_new(type_id, length) {
                    Ok(address) => address,
                    Err(refused) => {
                        assert_eq!(refused, Refused::Full);
                        self.roots.truncate(self.roots.len() / 2);
                        return;
                    }
                }
            }
        };
        let size = self.store.size(type_id, length);
        // Nothing that is alive is there. What is dead may be, but is not after what was just collected or allocated.
        let (before, after) = (self.objects.range(..address), self.objects.range(address..));
        if let Some((before, object)) = before.last() {
            assert!(before + object.size <= address, "{before:#x} reaches into {address:#x}");
        }
        if let Some((after, _)) = { after }.next() {
            assert!(address + size <= *after, "{address:#x} reaches into {after:#x}");
        }
        let mut references = BTreeMap::new();
        for offset in self.store.references(type_id, length) {
            let target = match self.random.below(4) {
                0 | 1 if !self.roots.is_empty() => self.roots[self.random.below(self.roots.len())],
                2 => address,
                _ => 0,
            };
            write(address + offset, target);
            references.insert(offset, target);
        }
        self.objects.insert(address, Object { type_id, length, size, references });
        self.roots.push(address);
    }

    fn relink(&mut self) {
        let (from, to) = (self.random.below(self.roots.len()), self.random.below(self.roots.len()));
        let (from, to) = (self.roots[from], self.roots[to]);
        let Some(object) = self.objects.get_mut(&from) else { return };
        let Some(count) = std::num::NonZeroUsize::new(object.references.len()) else { return };
        let nth = self.random.below(count.get());
        if let Some((offset, reference)) = object.references.iter_mut().nth(nth) {
            *reference = to;
            write(from + offset, to);
        }
    }
}

/// Runs a program that allocates, links and forgets at random, in a heap with a limit.
fn run_at_random(seed: u64, limit: usize, most_roots: usize, steps: usize) {
    let mut model = Model {
        store: Store::new(limit),
        objects: BTreeMap::new(),
        roots: Vec::new(),
        random: Random::new(seed),
    };
    for _ in 0..steps {
        match model.random.below(1000) {
            0 => model.collect(),
            1..150 if !model.roots.is_empty() => model.relink(),
            150..400 if !model.roots.is_empty() => {
                let index = model.random.below(model.roots.len());
                model.roots.swap_remove(index);
            }
            _ => model.allocate(),
        }
        if model.roots.len() > most_roots {
            let kept = model.random.below(most_roots);
            model.roots.truncate(kept);
        }
    }
    model.collect();
    model.roots.clear();
    model.collect();
    assert_eq!((model.store.heap.live_bytes(), model.store.heap.used_bytes()), (0, 0));
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn live_objects_stay_as_they_are_whatever_a_program_does() {
    for seed in 10..16 {
        run_at_random(seed, LIMIT, 100 + 150 * usize::try_from(seed - 10).unwrap(), 12_000);
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps memory")]
fn they_do_so_at_the_limit() {
    for (seed, limit) in [(20, 40 * BLOCK), (21, 20 * BLOCK), (22, 8 * BLOCK), (23, 3 * BLOCK)] {
        run_at_random(seed, limit, 300, 6000);
    }
}
