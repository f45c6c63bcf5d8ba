//! Calls of small functions, replaced by the functions' bodies.
//!
//! A call costs more than the few instructions of a small function: no register keeps its value across it, and the
//! optimiser sees neither side from the other. So functions that are small, call nothing, and
//! do not loop are translated first ([`Inlinable::of`]), and [`Inlinable::expand`] puts copies of
//! them where they are called.
//!
//! Backtraces must not show the difference. Each copied instruction gets a source location
//! that stands for its operator *and* the call it was copied for ([`Locations`]); sites keep both.

use std::collections::HashMap;

use cranelift_codegen::inline::{Inline, InlineCommand};
use cranelift_codegen::ir::{self, SourceLoc};
use cranelift_codegen::{CodegenResult, Context};
use wasmparser::Operator;

use crate::codegen::Inlined;
use crate::module::{Body, FuncIndex};

/// A larger body is not copied: in bytes of wasm.
const MAX_BODY: u64 = 80;

/// Nor is one with more instructions.
const MAX_INSTRUCTIONS: usize = 40;

/// How many copied instructions a function may gain, beyond as many as it has.
const MAX_GROWTH: usize = 2000;

/// Source locations from here on count [`Locations`]; below, they are offsets in the wasm.
const FIRST_LOCATION: u32 = 1 << 31;

/// Where the copied instructions of a function come from: the offset in the wasm of the operator, and
/// the call that it was copied for.
#[derive(Debug, Default)]
pub(crate) struct Locations(Vec<(u32, Inlined)>);

impl Locations {
    /// Offsets in a longer module could be mistaken for numbers.
    pub(crate) const MAX_WASM: usize = FIRST_LOCATION as usize;

    /// The offset in the wasm that a source location stands for and, of a copy, its call.
    pub(crate) fn resolve(&self, location: SourceLoc) -> (u32, Option<Inlined>) {
        let bits = location.bits();
        let number = bits.checked_sub(FIRST_LOCATION).map(|number| number as usize);
        match number.and_then(|number| self.0.get(number)) {
            Some((wasm, inlined)) => (*wasm, Some(*inlined)),
            None => (bits, None),
        }
    }

    /// Gives the instructions of a copy their locations. The copies of a block's instructions are
    /// at the start of the block's copy, in the same order.
    fn mark(&mut self, caller: &mut ir::Function, callee: &ir::Function, copy: &Copy) {
        let first = self.0.len();
        for block in callee.layout.blocks() {
            let copied = ir::Block::from_u32(copy.first_block + block.as_u32());
            let mut next = caller.layout.first_inst(copied);
            for original in callee.layout.block_insts(block) {
                let Some(inst) = next else { break };
                next = caller.layout.next_inst(inst);
                let wasm = callee.srcloc(original);
                if wasm.is_default() {
                    continue;
                }
                let known = self.0[first..].iter().position(|(known, _)| *known == wasm.bits());
                let number = known.map_or(self.0.len(), |number| first + number);
                if known.is_none() {
                    self.0.push((wasm.bits(), copy.inlined));
                }
                // `MAX_GROWTH` bounds how many there are.
                let number = u32::try_from(number).unwrap_or(0);
                caller.set_srcloc(inst, SourceLoc::new(FIRST_LOCATION + number));
            }
        }
    }
}

/// The functions of a module that are copied to their calls.
#[derive(Debug, Default)]
pub(crate) struct Inlinable {
    functions: HashMap<FuncIndex, ir::Function>,
}

impl Inlinable {
    /// Whether a body is worth a copy, as far as its operators tell.
    pub(crate) fn candidate(body: &Body<'_>) -> bool {
        let range = body.body.range();
        range.end - range.start <= MAX_BODY && leaf(body).unwrap_or(false)
    }

    /// Adds a translated function, if it is small enough.
    pub(crate) fn add(&mut self, index: FuncIndex, mut function: ir::Function) {
        if function.dfg.num_insts() > MAX_INSTRUCTIONS {
            return;
        }
        // The caller has compared the stack pointer, and its frame is the only one.
        function.stack_limit = None;
        function.global_values.clear();
        self.functions.insert(index, function);
    }

    /// Replaces calls in the function of the context. `locations` gets where what was copied comes from.
    ///
    /// # Errors
    /// If the function would exceed a limit of the code generator; it is then of no use.
    pub(crate) fn expand(
        &self,
        context: &mut Context,
        locations: &mut Locations,
    ) -> CodegenResult<()> {
        locations.0.clear();
        if self.functions.is_empty() {
            return Ok(());
        }
        let instructions = context.func.dfg.num_insts();
        let mut expansion =
            Expansion { inlinable: self, room: instructions + MAX_GROWTH, copies: Vec::new() };
        context.inline(&mut expansion)?;
        for copy in expansion.copies {
            let callee = &self.functions[&copy.inlined.function];
            locations.mark(&mut context.func, callee, &copy);
        }
        Ok(())
    }
}

/// Whether a body calls nothing and contains no loop.
fn leaf(body: &Body<'_>) -> wasmparser::Result<bool> {
    for operator in body.body.get_operators_reader()? {
        if matches!(
            operator?,
            Operator::Call { .. }
                | Operator::CallIndirect { .. }
                | Operator::Loop { .. }
                | Operator::Unreachable
                | Operator::MemoryGrow { .. }
                | Operator::MemoryCopy { .. }
                | Operator::MemoryFill { .. }
                | Operator::MemoryInit { .. }
                | Operator::DataDrop { .. }
                | Operator::TableGrow { .. }
                | Operator::TableCopy { .. }
                | Operator::TableFill { .. }
                | Operator::TableInit { .. }
                | Operator::ElemDrop { .. }
        ) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One copy: of which function, for which call, and where its blocks begin.
struct Copy {
    inlined: Inlined,
    first_block: u32,
}

struct Expansion<'a> {
    inlinable: &'a Inlinable,
    room: usize,
    copies: Vec<Copy>,
}

impl Inline for Expansion<'_> {
    fn inline(
        &mut self,
        caller: &ir::Function,
        call: ir::Inst,
        opcode: ir::Opcode,
        callee: ir::FuncRef,
        _arguments: &[ir::Value],
    ) -> InlineCommand<'_> {
        let ir::ExternalName::User(name) = caller.dfg.ext_funcs[callee].name else {
            return InlineCommand::KeepCall;
        };
        if opcode != ir::Opcode::Call {
            return InlineCommand::KeepCall;
        }
        let function = FuncIndex::from_u32(caller.params.user_named_funcs()[name].index);
        let Some(body) = self.inlinable.functions.get(&function) else {
            return InlineCommand::KeepCall;
        };
        let Some(room) = self.room.checked_sub(body.dfg.num_insts()) else {
            return InlineCommand::KeepCall;
        };
        self.room = room;
        self.copies.push(Copy {
            inlined: Inlined { function, call: caller.srcloc(call).bits() },
            // The blocks of a copy are appended to those of the function, in their order.
            first_block: u32::try_from(caller.dfg.num_blocks()).unwrap_or(u32::MAX),
        });
        InlineCommand::Inline { callee: std::borrow::Cow::Borrowed(body), visit_callee: false }
    }
}
