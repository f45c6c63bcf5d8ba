//! Calls of small functions, replaced by the functions' bodies.
//!
//! A call costs more than the few instructions of a small function: no register keeps its value across it, and the
//! optimiser sees neither side from the other. So functions that are small, call nothing, and
//! do not loop are translated first ([`Inlinable::add`]), and [`Inlinable::expand`] puts copies of
//! them where they are called.
//!
//! Small functions that call nothing but themselves, which may loop, get copies of themselves at these calls. The calls that
//! the copies make stay: one call does what about two levels of the recursion did.
//!
//! Backtraces must not show the difference. Each copied instruction gets a source location
//! that stands for its operator *and* the call it was copied for ([`Locations`]); sites keep both.

use std::borrow::Cow;
use std::collections::HashMap;

use cranelift_codegen::inline::{Inline, InlineCommand};
use cranelift_codegen::ir::{self, SourceLoc};
use cranelift_codegen::{CodegenResult, Context};
use wasmparser::Operator;

use crate::codegen::Inlined;
use crate::module::{Body, FuncIndex, TableIndex, TypeIndex};
use crate::product;
use crate::reference::Reference;
use crate::translate::Environment;

/// A larger body is not copied: in bytes of wasm.
const MAX_BODY: u64 = 80;

/// Nor is one with more instructions.
const MAX_INSTRUCTIONS: usize = 40;

/// How many copied instructions a function may gain, beyond as many as it has.
const MAX_GROWTH: usize = 2000;

/// How many copies a function may get. The code generator takes longer for each than for the one
/// before, since it grows lists that it searches.
const MAX_COPIES: usize = 500;

/// How many of these may be products of 128 bits. They go on for long in functions that are made of little else, whose registers
/// they then fill.
const MAX_PRODUCTS: usize = 32;

/// How many copies of itself a function may get: those of two or three calls are worth it, and code that calls itself more often
/// would only be longer.
const MAX_OWN_COPIES: usize = 4;

/// The functions of a module that are copied to their calls.
#[derive(Debug, Default)]
pub(crate) struct Inlinable<'wasm> {
    functions: HashMap<FuncIndex, Small<'wasm>>,
}

/// A function that is copied.
#[derive(Debug)]
struct Small<'wasm> {
    function: ir::Function,
    bytes: &'wasm [u8],
    /// Where in the wasm they begin.
    start: u32,
    /// Whether it was recognised as one that multiplies.
    is_product: bool,
    /// Whether it calls itself. It is copied to its own calls only, once.
    is_recursive: bool,
}

impl<'wasm> Inlinable<'wasm> {
    /// Whether a body may be worth a copy, as far as its operators tell.
    pub(crate) fn candidate(index: FuncIndex, body: &Body<'_>) -> bool {
        let range = body.body.range();
        let small = range.end - range.start <= MAX_BODY
            && Shape::of(index, body).is_ok_and(|shape| shape != Shape::Other);
        small || product::recognise(&body.body).is_some()
    }

    /// Adds a translated function, if it is small enough and calls nothing but itself.
    pub(crate) fn add(&mut self, index: FuncIndex, body: &Body<'wasm>, mut function: ir::Function) {
        let insts = function.layout.blocks().flat_map(|block| function.layout.block_insts(block));
        let insts = insts.map(|inst| function.dfg.insts[inst]);
        let mut calls = insts.filter(|inst| inst.opcode().is_call());
        // Also if nothing reaches the calls: it may loop.
        let is_recursive = Shape::of(index, body).is_ok_and(|shape| shape == Shape::Recursive);
        let is_allowed = |call| match call {
            ir::InstructionData::Call { opcode: ir::Opcode::Call, func_ref, .. } => {
                is_recursive && named(&function, func_ref) == Some(index)
            }
            _ => false,
        };
        let start = u32::try_from(body.body.range().start);
        if function.dfg.num_insts() > MAX_INSTRUCTIONS || !calls.all(is_allowed) {
            return;
        }
        let Ok(start) = start else { return };
        // The caller has compared the stack pointer, and its frame is the only one.
        function.stack_limit = None;
        function.global_values.clear();
        let is_product = product::recognise(&body.body).is_some();
        let bytes = body.body.as_bytes();
        self.functions.insert(index, Small { function, bytes, start, is_product, is_recursive });
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
        if self.functions.is_empty() {
            return Ok(());
        }
        let room = context.func.dfg.num_insts() + MAX_GROWTH;
        let mut expansion =
            Expansion { inlinable: self, room, products: MAX_PRODUCTS, copies: Vec::new() };
        context.inline(&mut expansion)?;
        for copy in expansion.copies {
            let callee = &self.functions[&copy.inlined.function].function;
            locations.mark(&mut context.func, callee, &copy);
        }
        Ok(())
    }

    /// The functions that a body calls and may get copies of, in the order of the first calls.
    pub(crate) fn called_by(&self, env: &Environment<'_>, body: &Body<'_>) -> Vec<FuncIndex> {
        let mut found = Vec::new();
        if self.functions.is_empty() {
            return found;
        }
        // What cannot be read is not valid, which is found elsewhere.
        let operators = body.body.get_operators_reader().into_iter().flatten();
        for operator in operators.map_while(Result::ok) {
            let index = match operator {
                Operator::Call { function_index } => Some(FuncIndex::from_u32(function_index)),
                Operator::CallIndirect { type_index, table_index } => env.only_target(
                    TypeIndex::from_u32(type_index),
                    TableIndex::from_u32(table_index),
                ),
                _ => None,
            };
            // A copy of itself is the same body once more.
            if let Some(index) = index
                && self.functions.get(&index).is_some_and(|small| !small.is_recursive)
                && !found.contains(&index)
            {
                found.push(index);
            }
        }
        found
    }

    /// The bytes of the body of a function that is copied.
    pub(crate) fn bytes(&self, index: FuncIndex) -> Option<&'wasm [u8]> {
        self.functions.get(&index).map(|small| small.bytes)
    }

    /// Where in the wasm that body begins.
    pub(crate) fn start(&self, index: FuncIndex) -> Option<u32> {
        self.functions.get(&index).map(|small| small.start)
    }
}

/// What a body does, as far as the usual calls tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// It neither loops nor calls.
    Straight,
    /// It calls itself and nothing else.
    Recursive,
    Other,
}

impl Shape {
    fn of(index: FuncIndex, body: &Body<'_>) -> wasmparser::Result<Self> {
        let (mut loops, mut calls_itself) = (false, false);
        for operator in body.body.get_operators_reader()? {
            match operator? {
                Operator::Call { function_index } if function_index == index.as_u32() => {
                    calls_itself = true;
                }
                Operator::Call { .. } | Operator::CallIndirect { .. } => return Ok(Self::Other),
                Operator::Loop { .. } => loops = true,
                _ => {}
            }
        }
        Ok(match (calls_itself, loops) {
            (true, _) => Self::Recursive,
            (false, false) => Self::Straight,
            (false, true) => Self::Other,
        })
    }
}

/// The function of the module that another one calls by a name.
fn named(caller: &ir::Function, callee: ir::FuncRef) -> Option<FuncIndex> {
    let ir::ExternalName::User(name) = caller.dfg.ext_funcs[callee].name else { return None };
    match Reference::of(&caller.params.user_named_funcs()[name]) {
        Some(Reference::Function(index)) => Some(index),
        _ => None,
    }
}

/// Where the copied instructions of a function come from: the offset in the wasm of the operator, and
/// the call that it was copied for.
#[derive(Debug, Default)]
pub(crate) struct Locations {
    /// The end of the function's body in the wasm. Source locations from here on count the
    /// entries; below, they are offsets in the wasm. So they move with the body.
    end: u32,
    entries: Vec<(u32, Inlined)>,
}

impl Locations {
    /// Those of a function whose body ends at `end`.
    pub(crate) fn new(end: u32) -> Self {
        Self { end, entries: Vec::new() }
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(u32, Inlined)> {
        self.entries.iter()
    }

    /// The offset in the wasm that a source location stands for and, of a copy, its call.
    pub(crate) fn resolve(&self, location: SourceLoc) -> (u32, Option<Inlined>) {
        let bits = location.bits();
        let number = bits.checked_sub(self.end).map(|number| number as usize);
        match number.and_then(|number| self.entries.get(number)) {
            Some((wasm, inlined)) => (*wasm, Some(*inlined)),
            None => (bits, None),
        }
    }

    /// Gives the instructions of a copy their locations. The copies of a block's instructions are
    /// at the start of the block's copy, in the same order.
    fn mark(&mut self, caller: &mut ir::Function, callee: &ir::Function, copy: &Copy) {
        let first = self.entries.len();
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
                let known = self.entries[first..].iter().position(|(it, _)| *it == wasm.bits());
                let number = known.map_or(self.entries.len(), |number| first + number);
                if known.is_none() {
                    self.entries.push((wasm.bits(), copy.inlined));
                }
                let location = u32::try_from(number).ok().and_then(|it| self.end.checked_add(it));
                // No module is so long that there is no room for what `MAX_GROWTH` allows.
                caller.set_srcloc(inst, SourceLoc::new(location.unwrap_or(self.end)));
            }
        }
    }
}

/// One copy: of which function, for which call, and where its blocks begin.
struct Copy {
    inlined: Inlined,
    first_block: u32,
}

struct Expansion<'a, 'wasm> {
    inlinable: &'a Inlinable<'wasm>,
    /// How many more instructions may be copied.
    room: usize,
    /// How many more products may be.
    products: usize,
    copies: Vec<Copy>,
}

impl Inline for Expansion<'_, '_> {
    fn inline(
        &mut self,
        caller: &ir::Function,
        call: ir::Inst,
        opcode: ir::Opcode,
        callee: ir::FuncRef,
        _arguments: &[ir::Value],
    ) -> InlineCommand<'_> {
        if opcode != ir::Opcode::Call || self.copies.len() == MAX_COPIES {
            return InlineCommand::KeepCall;
        }
        let Some(function) = named(caller, callee) else {
            return InlineCommand::KeepCall;
        };
        let Some(small) = self.inlinable.functions.get(&function) else {
            return InlineCommand::KeepCall;
        };
        let is_own = Reference::of_own(&caller.name) == Some(Reference::Function(function));
        if small.is_recursive && !(is_own && self.copies.len() < MAX_OWN_COPIES) {
            return InlineCommand::KeepCall;
        }
        let Some(products) = self.products.checked_sub(usize::from(small.is_product)) else {
            return InlineCommand::KeepCall;
        };
        let body = &small.function;
        let Some(room) = self.room.checked_sub(body.dfg.num_insts()) else {
            return InlineCommand::KeepCall;
        };
        (self.room, self.products) = (room, products);
        self.copies.push(Copy {
            inlined: Inlined { function, call: caller.srcloc(call).bits() },
            // The blocks of a copy are appended to those of the function, in their order.
            first_block: u32::try_from(caller.dfg.num_blocks()).unwrap_or(u32::MAX),
        });
        InlineCommand::Inline { callee: Cow::Borrowed(body), visit_callee: false }
    }
}
