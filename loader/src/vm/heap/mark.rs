//! Marking: which objects something leads to.
//!
//! An object is marked when a reference to it is seen first, and waits to be traced on a list, so that nothing here calls itself. Of a long
//! array only a part is traced at once, and what that leads to before the next.

use super::blocks::{Block, Blocks, Kind};
use super::lines::Lines;
use super::memory::Words;
use super::shape::{HEADER, Header, Shape, Shapes, Traced};
use super::{BLOCK, GRAIN};

/// How many elements of an array are traced at once.
const PART: u32 = 512;

/// How many objects are traced together: the processor waits for the memory of all of them at once.
const TOGETHER: usize = 4;

/// Marks what the roots of a collection lead to.
#[derive(Debug)]
pub(crate) struct Marker<'a, S: ?Sized> {
    words: Words<'a>,
    /// The address of the first byte.
    base: usize,
    /// How many bytes the blocks have.
    length: usize,
    blocks: &'a mut Blocks,
    shapes: &'a S,
    /// Objects that are marked and wait to be traced.
    pending: Vec<usize>,
    /// What is left of long arrays.
    arrays: Vec<Elements>,
    exceptions: Vec<usize>,
    /// How many bytes the objects have that were traced.
    live: usize,
}

/// Elements of an array that wait to be traced.
#[derive(Clone, Copy, Debug)]
struct Elements {
    at: usize,
    left: u32,
    size: u32,
    traced: Traced,
}

impl<'a, S: Shapes + ?Sized> Marker<'a, S> {
    pub(super) fn new(
        words: Words<'a>,
        base: usize,
        blocks: &'a mut Blocks,
        shapes: &'a S,
    ) -> Self {
        Self {
            words,
            base,
            length: blocks.count() * BLOCK,
            blocks,
            shapes,
            pending: Vec::new(),
            arrays: Vec::new(),
            exceptions: Vec::new(),
            live: 0,
        }
    }

    /// Marks the object of a reference. It is not for null, numbers, values of the host and addresses elsewhere.
    #[inline]
    pub(crate) fn reference(&mut self, raw: usize) {
        let at = raw.wrapping_sub(self.base);
        if at < self.length
            && at.is_multiple_of(GRAIN)
            && let Some(block) = self.blocks.get_mut(at / BLOCK)
            && block.marks.insert(at % BLOCK)
        {
            self.pending.push(at);
        }
    }

    /// Marks the object that a word leads to, if it is an address in one.
    pub(crate) fn word(&mut self, word: usize) {
        let at = word.wrapping_sub(self.base);
        if at < self.length
            && let Some(start) = self.object_around(at)
        {
            self.reference(self.base + start);
        }
    }

    /// Traces all that is marked.
    pub(crate) fn trace(&mut self) {
        loop {
            while let Some(at) = self.pending.pop() {
                if self.pending.is_empty() {
                    self.trace_object(at, self.words.header(at));
                } else {
                    self.trace_together(at);
                }
            }
            let Some(elements) = self.arrays.pop() else { return };
            self.trace_elements(elements);
        }
    }

    /// The exceptions that objects which were traced lead to. Some may be there several times.
    pub(crate) fn take_exceptions(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.exceptions)
    }

    /// How many bytes the objects have that were traced.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Traces an object, and some of those that wait.
    fn trace_together(&mut self, first: usize) {
        let mut objects = [(first, self.words.header(first)); TOGETHER];
        let mut count = 1;
        while count < TOGETHER
            && let Some(at) = self.pending.pop()
        {
            objects[count] = (at, self.words.header(at));
            count += 1;
        }
        for (at, header) in &objects[..count] {
            self.trace_object(*at, *header);
        }
    }

    fn trace_object(&mut self, at: usize, header: Header) {
        // It borrows nothing of this.
        let shapes: &'a S = self.shapes;
        let shape = shapes.shape(header.type_id);
        let Some(block) = self.blocks.get_mut(at / BLOCK) else { return };
        let Some((shape, size)) = shape.map(|shape| (shape, shape.size(header.length))) else {
            return block.marks.remove(at % BLOCK);
        };
        if !mark_lines(block, at % BLOCK, size) {
            return block.marks.remove(at % BLOCK);
        }
        self.live += size;
        match shape {
            Shape::Struct { objects, exceptions, .. } => {
                for offset in objects {
                    self.reference(self.words.reference(at + *offset as usize));
                }
                for offset in exceptions {
                    self.exception(self.words.reference(at + *offset as usize));
                }
            }
            Shape::Array { elements: Traced::Nothing, .. } => {}
            Shape::Array { element_size, elements } => self.trace_elements(Elements {
                at: at + HEADER,
                left: header.length,
                size: *element_size,
                traced: *elements,
            }),
        }
    }

    /// Traces the first elements, and lets the others wait.
    fn trace_elements(&mut self, elements: Elements) {
        let Elements { mut at, left, size, traced } = elements;
        let count = left.min(PART);
        if left > count {
            let at = at + count as usize * size as usize;
            self.arrays.push(Elements { at, left: left - count, ..elements });
        }
        for _ in 0..count {
            let raw = self.words.reference(at);
            match traced {
                Traced::Nothing => {}
                Traced::Object => self.reference(raw),
                Traced::Exception => self.exception(raw),
            }
            at += size as usize;
        }
    }

    fn exception(&mut self, raw: usize) {
        if raw != 0 && self.exceptions.last() != Some(&raw) {
            self.exceptions.push(raw);
        }
    }

    /// Where the object starts that has this byte, if it was live at the last collection, or was allocated since.
    fn object_around(&mut self, at: usize) -> Option<usize> {
        let index = at / BLOCK;
        let start = match self.blocks.get(index)?.kind {
            Kind::Free => return None,
            Kind::Large { .. } => index * BLOCK,
            Kind::Rest { start } => start as usize * BLOCK,
            Kind::Lines => {
                self.parse(index, at % BLOCK);
                index * BLOCK + self.blocks.get(index)?.starts.last_up_to(at % BLOCK)?
            }
        };
        let header = self.words.header(start);
        let size = self.shapes.shape(header.type_id)?.size(header.length);
        (at - start < size).then_some(start)
    }

    /// Finds out where objects start that were allocated around a place of a block since the last collection. It takes place once for each
    /// run, however many words lead there.
    #[inline]
    fn parse(&mut self, index: usize, at: usize) {
        let Some(run) = self.blocks.take_recent(index, at) else { return };
        let mut start = run.start;
        while start < run.end {
            let header = self.words.header(index * BLOCK + start);
            let Some(shape) = self.shapes.shape(header.type_id) else { return };
            let size = shape.size(header.length);
            if size > run.end - start {
                return;
            }
            if let Some(block) = self.blocks.get_mut(index) {
                block.starts.insert(start);
            }
            start += size;
        }
    }
}

/// Marks the lines of an object. Whether it can be there.
#[inline]
fn mark_lines(block: &mut Block, at: usize, size: usize) -> bool {
    match block.kind {
        Kind::Lines if size <= BLOCK - at => {
            block.live.insert(Lines::touched(at..at + size));
            true
        }
        Kind::Large { blocks } => at == 0 && size <= blocks as usize * BLOCK,
        _ => false,
    }
}
