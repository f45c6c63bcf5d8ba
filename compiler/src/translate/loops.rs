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

#[cfg(test)]
mod tests {
    use wasmparser::{Parser, Payload};

    use super::*;

    /// What each loop of a body assigns, in order.
    fn loops(body: &str) -> Vec<Option<Vec<u32>>> {
        let locals = "i32 ".repeat(1100);
        let wasm = wat::parse_str(format!("(module (func (local {locals}) {body}))")).unwrap();
        let body = Parser::new(0).parse_all(&wasm).find_map(|payload| match payload.unwrap() {
            Payload::CodeSectionEntry(body) => Some(body),
            _ => None,
        });
        let loops = Loops::of(&body.unwrap());
        let assigned = |(offset, _): &(u32, _)| loops.assigned(*offset).map(<[u32]>::to_vec);
        loops.loops.iter().map(assigned).collect()
    }

    #[test]
    fn loops_assign_what_loops_in_them_do_and_nothing_else() {
        let set = |local: u32| format!("(local.set {local} (i32.const 0))");
        let [a, b, c, d] = [1, 2, 3, 4].map(set);
        let tee = "(drop (local.tee 5 (local.get 6)))";
        let found = loops(&format!(
            "{a} (loop {b} (block {c} (loop {tee} {b})) (if (i32.const 1) (then (loop)))) {d} (loop {d})"
        ));
        let wanted = [vec![2, 3, 5], vec![2, 5], vec![], vec![4]];
        assert_eq!(found, wanted.map(Some));
    }

    #[test]
    fn too_many_are_not_noted() {
        let sets: String =
            (0..1000).map(|local| format!("(local.set {local} (i32.const 0))")).collect();
        let depth = MOST / 1000 + 50;
        let found = loops(&format!("{}{sets}{}", "(loop ".repeat(depth), ")".repeat(depth)));
        let noted = found.iter().filter(|locals| locals.is_some()).count();
        assert_eq!((noted, found[0].is_none()), (MOST / 1000, true));
        assert_eq!(found.last().unwrap().as_ref().unwrap().len(), 1000);
    }
}
