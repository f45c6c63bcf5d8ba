//! Which locals the loops of a body assign.
//!
//! What a local is where a loop begins is known if nothing in the loop assigns it: what it was before. Otherwise it depends on which turn it is. The
//! translator comes to know that at the loop's end, so here a body is read once before.

use wasmparser::{FunctionBody, Operator};

/// So many locals are noted for all loops of a body. Where that is not enough, a loop may assign all of them: loops in thousands of loops could
/// assign thousands of locals each.
const MOST: usize = 1 << 20;

/// The loops of a body.
pub(super) struct Loops {
    /// Where each begins in the body, in this order, and the locals that it assigns, if not all may be.
    loops: Vec<(u32, Option<Vec<u32>>)>,
}

impl Loops {
    /// Reads a body. What is not valid is found later; here it ends what is known.
    pub(super) fn of(body: &FunctionBody<'_>) -> Self {
        let mut reading = Reading { loops: Vec::new(), around: Vec::new(), left: MOST };
        let _ = reading.operators(body);
        // Those that have no end are not valid.
        while !reading.around.is_empty() {
            reading.end();
        }
        Self { loops: reading.loops }
    }

    /// The locals that the loop at this offset assigns, or `None` if it may be all of them.
    pub(super) fn assigned(&self, offset: u32) -> Option<&[u32]> {
        let number = self.loops.binary_search_by_key(&offset, |(offset, _)| *offset).ok()?;
        self.loops[number].1.as_deref()
    }
}

struct Reading {
    loops: Vec<(u32, Option<Vec<u32>>)>,
    /// The numbers of the loops around the current operator.
    around: Vec<usize>,
    /// How many more locals are noted.
    left: usize,
}

impl Reading {
    fn operators(&mut self, body: &FunctionBody<'_>) -> wasmparser::Result<()> {
        let start = body.range().start;
        // Whether each block that is open is a loop.
        let mut open: Vec<bool> = Vec::new();
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset()?;
            match operator {
                Operator::Loop { .. } => {
                    let offset = u32::try_from(offset.saturating_sub(start)).unwrap_or(u32::MAX);
                    open.push(true);
                    self.around.push(self.loops.len());
                    self.loops.push((offset, Some(Vec::new())));
                }
                Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                    open.push(false);
                }
                Operator::End if open.pop() == Some(true) => self.end(),
                Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => {
                    self.note(&[local_index]);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends a loop. What it assigns, those around it do.
    fn end(&mut self) {
        let Some(number) = self.around.pop() else { return };
        let Some(mut locals) = self.loops[number].1.take() else {
            if let Some(outer) = self.around.last() {
                self.loops[*outer].1 = None;
            }
            return;
        };
        locals.sort_unstable();
        locals.dedup();
        self.note(&locals);
        self.loops[number].1 = Some(locals);
    }

    /// The innermost loop assigns these.
    fn note(&mut self, more: &[u32]) {
        let Some(number) = self.around.last() else { return };
        let Some(locals) = &mut self.loops[*number].1 else { return };
        match self.left.checked_sub(more.len()) {
            Some(left) => {
                self.left = left;
                locals.extend_from_slice(more);
            }
            None => self.loops[*number].1 = None,
        }
    }
}
