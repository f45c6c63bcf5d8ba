//! Structured control: blocks, branches, `return` and `unreachable`.
//!
//! A `block` costs nothing until something branches to its end, and an `if`
//! passes its parameters without block arguments: both arms see the values that
//! were on the stack. Where control does not reach, only nesting is followed.
//!
//! Code that a branch hint makes unlikely is *cold*, and so is what only cold
//! code leads to; the code generator places it behind the rest.

use std::collections::HashMap;

use cranelift_codegen::ir::{Block, BlockArg, InstBuilder as _, JumpTableData, Value};
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::types::ValType;
use wasmparser::{BlockType, Operator};

use super::reference::is_traced;
use super::stack::{Frame, FrameKind};
use super::{Translator, clif_type, trap_code};
use crate::module::{TypeIndex, val_type};

/// A branch table with more entries is made of several, a power of two.
const MAX_TABLE: usize = 8192;

impl Translator<'_, '_> {
    /// Opens the frame of the function itself.
    pub(super) fn enter_function(&mut self) {
        self.load_fuel();
        self.check_interrupts();
        self.open(FrameKind::Block, BlockType::Empty);
    }

    /// Translates the operator if it belongs to this family.
    pub(super) fn control(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::Block { blockty } => {
                self.open(FrameKind::Block, *blockty);
            }
            Operator::Loop { blockty } => self.open_loop(*blockty),
            Operator::If { blockty } => self.open_if(*blockty),
            Operator::Else => self.open_else(),
            Operator::End => self.end(),
            Operator::Br { relative_depth } => {
                self.flush_fuel();
                let (target, arity) = self.target(*relative_depth);
                let arguments = self.arguments(arity);
                self.builder.ins().jump(target, &arguments);
                self.reachable = false;
            }
            Operator::BrIf { relative_depth } => {
                let condition = self.pop_condition();
                self.flush_fuel();
                let (hint, here) = (self.hint(), self.cold);
                self.cold = here || hint == Some(false);
                let (target, arity) = self.target(*relative_depth);
                self.cold = here || hint == Some(true);
                let arguments = self.arguments(arity);
                let next = self.new_block();
                self.builder.ins().brif(condition, target, &arguments, next, &[]);
                self.builder.switch_to_block(next);
                self.builder.seal_block(next);
            }
            Operator::BrTable { targets } => self.branch_table(targets),
            Operator::Return => {
                self.return_from_function();
                self.reachable = false;
            }
            Operator::Unreachable => {
                self.save_fuel();
                self.builder.ins().trap(trap_code(Trap::Unreachable));
                self.reachable = false;
            }
            _ => return false,
        }
        true
    }

    /// Follows the nesting of blocks where control does not reach.
    pub(super) fn unreachable_operator(&mut self, operator: &Operator<'_>) {
        match operator {
            Operator::Block { .. }
            | Operator::Loop { .. }
            | Operator::If { .. }
            | Operator::TryTable { .. } => {
                self.stack.unreachable_depth += 1;
            }
            Operator::Else if self.stack.unreachable_depth == 0 => self.open_else(),
            Operator::End if self.stack.unreachable_depth == 0 => self.end(),
            Operator::End => self.stack.unreachable_depth -= 1,
            _ => {}
        }
    }

    pub(super) fn open(&mut self, kind: FrameKind, ty: BlockType) {
        self.holds_traced |= match ty {
            BlockType::Empty => false,
            BlockType::Type(ty) => val_type(ty, &self.env.module.types).is_some_and(is_traced),
            BlockType::FuncType(ty) => {
                self.env.module.signature(TypeIndex::from_u32(ty)).values().any(is_traced)
            }
        };
        let height = self.stack.values.len() - self.params(ty).len();
        let saved = self.stack.saved.len();
        let serial = self.stack.next_serial();
        self.stack.frames.push(Frame { kind, serial, exit: None, warm: false, ty, height, saved });
    }

    fn open_loop(&mut self, ty: BlockType) {
        self.fill_ahead();
        self.flush_fuel();
        let params = self.params(ty).len();
        let header = self.block_with_params(ty, true);
        let arguments = self.arguments(params);
        self.builder.ins().jump(header, &arguments);
        let known_from = self.forget_assigned();
        self.open(FrameKind::Loop { header, known_from }, ty);
        // The header is sealed at the loop's end, when all branches are known.
        self.builder.switch_to_block(header);
        self.stack.drop(params);
        self.stack.values.extend_from_slice(self.builder.block_params(header));
        self.check_interrupts();
    }

    fn open_if(&mut self, ty: BlockType) {
        let condition = self.pop_condition();
        self.flush_fuel();
        let (hint, here) = (self.hint(), self.cold);
        let else_cold = here || hint == Some(true);
        self.cold = else_cold;
        let otherwise = self.new_block();
        self.cold = here || hint == Some(false);
        let then = self.new_block();
        let branch = self.builder.ins().brif(condition, then, &[], otherwise, &[]);
        self.builder.switch_to_block(then);
        self.builder.seal_block(then);
        self.open(FrameKind::If { branch, otherwise, cold: else_cold }, ty);
        let params = self.params(ty).len();
        let (values, saved) = (&self.stack.values, &mut self.stack.saved);
        saved.extend_from_slice(&values[values.len() - params..]);
    }

    fn open_else(&mut self) {
        if self.reachable {
            self.jump_to_exit();
        }
        let frame = self.stack.frame(0);
        let FrameKind::If { otherwise, cold, .. } = frame.kind else {
            unreachable!("validation checks that an else follows an if");
        };
        frame.kind = FrameKind::Block;
        let (height, saved) = (frame.height, frame.saved);
        let serial = self.stack.next_serial();
        self.stack.frame(0).serial = serial;
        self.stack.values.truncate(height);
        let values = self.stack.saved.split_off(saved);
        self.stack.values.extend(values);
        self.builder.switch_to_block(otherwise);
        self.builder.seal_block(otherwise);
        self.cold = cold;
        self.reachable = true;
    }

    fn end(&mut self) {
        if self.stack.frames.len() == 1 {
            self.end_function();
            return;
        }
        match self.stack.frame(0).kind {
            FrameKind::If { branch, otherwise, cold } => {
                // Without an else, a zero condition passes the parameters on.
                if self.reachable {
                    self.jump_to_exit();
                }
                self.cold = cold;
                let saved = self.stack.frame(0).saved;
                let exit = self.exit(0);
                let arguments: Vec<BlockArg> =
                    self.stack.saved.drain(saved..).map(BlockArg::from).collect();
                if arguments.is_empty() {
                    self.builder.change_jump_destination(branch, otherwise, exit);
                } else {
                    self.builder.switch_to_block(otherwise);
                    self.builder.ins().jump(exit, &arguments);
                }
                self.builder.seal_block(otherwise);
                self.reachable = false;
            }
            FrameKind::Loop { header, known_from } => {
                self.builder.seal_block(header);
                self.see_from(known_from);
            }
            FrameKind::Try { handlers } => self.close_handlers(handlers),
            FrameKind::Block => {}
        }
        if self.stack.frame(0).exit.is_some() && self.reachable {
            self.jump_to_exit();
        }
        let Some(frame) = self.stack.frames.pop() else { return };
        if let Some(exit) = frame.exit {
            self.builder.switch_to_block(exit);
            self.cold = !frame.warm;
            if self.cold {
                self.builder.set_cold_block(exit);
            }
            self.builder.seal_block(exit);
            self.stack.values.truncate(frame.height);
            self.stack.values.extend_from_slice(self.builder.block_params(exit));
            self.reachable = true;
        }
        // Otherwise control falls out of the block, with the results on the
        // stack, or is still unreachable.
    }

    fn end_function(&mut self) {
        if let Some(exit) = self.stack.frame(0).exit {
            if self.reachable {
                self.jump_to_exit();
            }
            self.builder.switch_to_block(exit);
            self.builder.seal_block(exit);
            self.stack.values.clear();
            self.stack.values.extend_from_slice(self.builder.block_params(exit));
            self.reachable = true;
        }
        if self.reachable {
            self.return_from_function();
            self.reachable = false;
        }
        self.stack.frames.pop();
    }

    fn return_from_function(&mut self) {
        self.save_fuel();
        let results = self.stack.top(self.results.len()).to_vec();
        self.builder.ins().return_(&results);
    }

    fn branch_table(&mut self, targets: &wasmparser::BrTable<'_>) {
        let index = self.stack.pop();
        self.flush_fuel();
        let (default, arity) = self.target(targets.default());
        let arguments = self.arguments(arity);
        // The targets were read once by the validator.
        let targets: Vec<Block> =
            targets.targets().flatten().map(|depth| self.target(depth).0).collect();
        if targets.len() <= MAX_TABLE {
            self.jump_table(index, &targets, default, &arguments);
        } else {
            self.tables_of_tables(index, &targets, default, &arguments);
        }
        self.reachable = false;
    }

    fn jump_table(&mut self, index: Value, targets: &[Block], default: Block, args: &[BlockArg]) {
        let mut call = |block: &Block| self.builder.func.dfg.block_call(*block, args);
        let (default, calls) = (call(&default), targets.iter().map(call).collect::<Vec<_>>());
        let table = self.builder.create_jump_table(JumpTableData::new(default, &calls));
        self.builder.ins().br_table(index, table);
    }

    /// A table with many entries, as a table of parts. The code generator takes time with the square of the entries that are
    /// waiting for their target's place; each part has its own block for each of its targets, close behind it.
    fn tables_of_tables(
        &mut self,
        index: Value,
        targets: &[Block],
        default: Block,
        args: &[BlockArg],
    ) {
        let parts: Vec<_> =
            targets.chunks(MAX_TABLE).map(|_| self.builder.create_block()).collect();
        let part = self.builder.ins().ushr_imm_u(index, i64::from(MAX_TABLE.ilog2()));
        let inside = self.builder.ins().band_imm_u(index, MAX_TABLE as i64 - 1);
        // The block for the default has parameters; those of parts have none.
        let otherwise = self.builder.create_block();
        self.jump_table(part, &parts, otherwise, &[]);
        self.builder.seal_block(otherwise);
        self.builder.switch_to_block(otherwise);
        self.builder.ins().jump(default, args);
        for (block, targets) in parts.into_iter().zip(targets.chunks(MAX_TABLE)) {
            let mut near: HashMap<Block, Block> = HashMap::new();
            let mut order = Vec::new();
            let mut entry = |this: &mut Self, target: Block| {
                *near.entry(target).or_insert_with(|| {
                    let block = this.builder.create_block();
                    order.push((block, target));
                    block
                })
            };
            let entries: Vec<Block> = targets.iter().map(|target| entry(self, *target)).collect();
            let behind = entry(self, default);
            self.builder.seal_block(block);
            self.builder.switch_to_block(block);
            self.jump_table(inside, &entries, behind, &[]);
            for (block, target) in order {
                self.builder.seal_block(block);
                self.builder.switch_to_block(block);
                self.builder.ins().jump(target, args);
            }
        }
    }

    /// Where a branch of this depth goes, and with how many operands.
    pub(super) fn target(&mut self, depth: u32) -> (Block, usize) {
        let frame = self.stack.frame(depth);
        if let FrameKind::Loop { header, .. } = frame.kind {
            let ty = frame.ty;
            return (header, self.params(ty).len());
        }
        let exit = self.exit(depth);
        (exit, self.builder.block_params(exit).len())
    }

    /// The block after the end of an open block, made when it is first needed.
    fn exit(&mut self, depth: u32) -> Block {
        if !self.cold {
            self.stack.frame(depth).warm = true;
        }
        if let Some(exit) = self.stack.frame(depth).exit {
            return exit;
        }
        let outermost = depth as usize + 1 == self.stack.frames.len();
        let exit = if outermost {
            let exit = self.builder.create_block();
            for ty in self.results {
                self.builder.append_block_param(exit, clif_type(*ty));
            }
            exit
        } else {
            let ty = self.stack.frame(depth).ty;
            self.block_with_params(ty, false)
        };
        self.stack.frame(depth).exit = Some(exit);
        exit
    }

    /// Ends the innermost block with a jump to the code after it.
    fn jump_to_exit(&mut self) {
        self.flush_fuel();
        let exit = self.exit(0);
        let arity = self.builder.block_params(exit).len();
        let arguments = self.arguments(arity);
        self.builder.ins().jump(exit, &arguments);
        self.reachable = false;
    }

    /// A block that runs as seldom as the current one.
    pub(super) fn new_block(&mut self) -> Block {
        let block = self.builder.create_block();
        if self.cold {
            self.builder.set_cold_block(block);
        }
        block
    }

    /// Whether the current branch is usually taken, if the module says so.
    fn hint(&self) -> Option<bool> {
        let position = self.hints.binary_search_by_key(&self.offset, |(offset, _)| *offset);
        position.ok().map(|position| self.hints[position].1)
    }

    pub(super) fn arguments(&self, count: usize) -> Vec<BlockArg> {
        self.stack.top(count).iter().copied().map(Value::into).collect()
    }

    /// A block whose parameters are those of a block type, or its results.
    fn block_with_params(&mut self, ty: BlockType, params: bool) -> Block {
        let block = if params { self.new_block() } else { self.builder.create_block() };
        match ty {
            BlockType::Empty => {}
            BlockType::Type(ty) if !params => {
                let ty = val_type(ty, &self.env.module.types).unwrap_or(ValType::I64);
                self.builder.append_block_param(block, clif_type(ty));
            }
            BlockType::Type(_) => {}
            BlockType::FuncType(index) => {
                let ty = self.env.module.signature(TypeIndex::from_u32(index));
                let types = if params { &ty.params } else { &ty.results };
                for ty in types {
                    self.builder.append_block_param(block, clif_type(*ty));
                }
            }
        }
        block
    }

    /// The types of a block's parameters.
    fn params(&self, ty: BlockType) -> &[ValType] {
        match ty {
            BlockType::Empty | BlockType::Type(_) => &[],
            BlockType::FuncType(index) => {
                &self.env.module.signature(TypeIndex::from_u32(index)).params
            }
        }
    }
}
