//! Locals, constants, and operators that only move operands.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::ir::{
    self, InstBuilder as _, InstructionData, Opcode, Value, immediates, types,
};
use cranelift_frontend::Variable;
use wasmparser::{FunctionBody, Operator};

use super::Translator;
use super::loops::Loops;

/// The locals of a function, by number.
///
/// Where blocks meet, the builder finds out what a variable is: it gives the block a parameter, looks for what all others that lead there pass,
/// and takes most parameters away again. That a local is what it was is known without: from where that was
/// found, up to the end of the block of wasm that this is in, as long as nothing assigns the local.
pub(super) struct Locals<'a> {
    variables: Vec<Variable>,
    known: Vec<Option<Known>>,
    /// What is known of locals in frames below this depth may be wrong, since a loop may have assigned them.
    visible_from: usize,
    body: &'a FunctionBody<'a>,
    /// Of the body, once it is known to have some.
    loops: Option<Loops>,
}

/// What a local is, in a block of wasm that is open.
#[derive(Clone, Copy)]
struct Known {
    value: Value,
    /// Which frame that is, and its number: another one may be there now.
    depth: usize,
    serial: u32,
}

impl<'a> Locals<'a> {
    /// None yet, of a function with this body.
    pub(super) fn new(body: &'a FunctionBody<'a>) -> Self {
        let (variables, known) = (Vec::new(), Vec::new());
        Self { variables, known, visible_from: 0, body, loops: None }
    }

    /// Adds the next, which is not assigned yet.
    pub(super) fn push(&mut self, variable: Variable) {
        self.variables.push(variable);
        self.known.push(None);
    }

    pub(super) fn len(&self) -> usize {
        self.variables.len()
    }

    /// The body from this offset on.
    pub(super) fn body_from(&self, offset: u32) -> &'a [u8] {
        self.body.as_bytes().get(offset as usize..).unwrap_or_default()
    }
}

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn local(&mut self, operator: &Operator<'_>) -> bool {
        match *operator {
            Operator::LocalGet { local_index } => {
                let value = self.local_value(local_index as usize);
                self.stack.push(value);
            }
            Operator::LocalSet { local_index } => {
                let value = self.stack.pop();
                self.assign(local_index as usize, value);
            }
            Operator::LocalTee { local_index } => {
                let value = self.stack.top(1)[0];
                self.assign(local_index as usize, value);
            }
            Operator::I32Const { value } => {
                // The upper half of a narrow constant must be clear.
                let bits = i64::from(value.cast_unsigned());
                let value = self.constant(types::I32, bits);
                self.stack.push(value);
            }
            Operator::I64Const { value } => {
                let value = self.constant(types::I64, value);
                self.stack.push(value);
            }
            Operator::F32Const { value } => {
                let bits = immediates::Ieee32::with_bits(value.bits());
                let value = self.builder.ins().f32const(bits);
                self.stack.push(value);
            }
            Operator::F64Const { value } => {
                let bits = immediates::Ieee64::with_bits(value.bits());
                let value = self.builder.ins().f64const(bits);
                self.stack.push(value);
            }
            Operator::Drop => {
                self.stack.pop();
            }
            Operator::Select | Operator::TypedSelect { .. } => {
                let condition = self.pop_condition();
                let (a, b) = self.stack.pop2();
                let value = self.builder.ins().select(condition, a, b);
                self.stack.push(value);
            }
            Operator::Nop => {}
            _ => return false,
        }
        true
    }

    /// What a local is.
    pub(super) fn local_value(&mut self, local: usize) -> Value {
        if let Some(Known { value, depth, serial }) = self.locals.known[local]
            && depth >= self.locals.visible_from
            && self.stack.frames.get(depth).is_some_and(|frame| frame.serial == serial)
        {
            return value;
        }
        let value = self.builder.use_var(self.locals.variables[local]);
        self.know(local, value);
        value
    }

    /// The bits of an integer that is a constant of the wasm. The upper half of one of 32 bits is zero.
    pub(super) fn constant_of(&self, value: Value) -> Option<i64> {
        let dfg = &self.builder.func.dfg;
        let InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } =
            dfg.insts[dfg.value_def(value).inst()?]
        else {
            return None;
        };
        let mask = if dfg.value_type(value) == types::I32 { i64::from(u32::MAX) } else { -1 };
        Some(imm.bits() & mask)
    }

    /// Assigns a local.
    pub(super) fn assign(&mut self, local: usize, value: Value) {
        self.builder.def_var(self.locals.variables[local], value);
        self.know(local, value);
    }

    fn know(&mut self, local: usize, value: Value) {
        let frame = self.stack.frames.last().map(|frame| frame.serial);
        // Before the first frame is opened, that is where it will be.
        let (depth, serial) = (self.stack.frames.len().saturating_sub(1), frame.unwrap_or(0));
        self.locals.known[local] = Some(Known { value, depth, serial });
    }

    /// Forgets what the loop assigns that is about to be opened. Returns from which depth on locals were known before.
    pub(super) fn forget_assigned(&mut self) -> usize {
        let Locals { known, visible_from, body, loops, .. } = &mut self.locals;
        let before = *visible_from;
        match loops.get_or_insert_with(|| Loops::of(body)).assigned(self.offset) {
            Some(assigned) => {
                for local in assigned {
                    // Bodies are valid up to here, and not known to be behind.
                    if let Some(known) = known.get_mut(*local as usize) {
                        *known = None;
                    }
                }
            }
            None => *visible_from = self.stack.frames.len(),
        }
        before
    }

    /// At the end of a loop.
    pub(super) fn see_from(&mut self, depth: usize) {
        self.locals.visible_from = depth;
    }

    /// An integer. The upper half of a narrow one is clear.
    ///
    /// Each is made once, at the beginning of the function. The optimiser copies it to the blocks that use it; of one for each use, it would
    /// make one first, after looking at them all.
    pub(super) fn constant(&mut self, ty: ir::Type, value: i64) -> Value {
        let builder = &mut self.builder;
        *self.constants.entry((ty, value)).or_insert_with(|| {
            let layout = &builder.func.layout;
            match layout.entry_block().and_then(|entry| layout.first_inst(entry)) {
                Some(first) => FuncCursor::new(builder.func).at_inst(first).ins().iconst(ty, value),
                None => builder.ins().iconst(ty, value),
            }
        })
    }
}
