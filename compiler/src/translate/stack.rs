//! The operand stack and the stack of open blocks.

use std::rc::Rc;

use cranelift_codegen::ir::{Block, Inst, Value};

/// What opened a block.
pub(super) enum FrameKind {
    /// `block`, or the function itself.
    Block,
    /// `loop`; branches go to its header.
    Loop {
        /// The block that begins each turn.
        header: Block,
        /// From which depth on locals were known before.
        known_from: usize,
    },
    /// `if`, whose `else` has not been seen.
    If {
        /// What goes one way or the other.
        branch: Inst,
        /// Where control goes when the condition is zero.
        otherwise: Block,
        /// Whether it seldom is.
        cold: bool,
    },
    /// `try_table`.
    Try {
        /// Its handlers are those in [`Stack::handlers`] from here on.
        handlers: usize,
    },
}

/// A catch clause of an open `try_table`.
#[derive(Clone, Copy)]
pub(super) struct Handler {
    /// The tag that it catches; `None` for all.
    pub(super) tag: Option<u32>,
    /// The block that a caught exception goes on at.
    pub(super) pad: Block,
}

/// A block that is open.
pub(super) struct Frame {
    pub(super) kind: FrameKind,
    /// Its number among those of the function; an `else` has one of its own.
    pub(super) serial: u32,
    /// Where code after the block's `end` begins. Made by the first branch there.
    pub(super) exit: Option<Block>,
    /// Whether code that is not cold goes there.
    pub(super) warm: bool,
    /// The types of the block.
    pub(super) ty: wasmparser::BlockType,
    /// The height of the operand stack below the block's parameters.
    pub(super) height: usize,
    /// The values that an `if` was entered with, in [`Stack::saved`] from here on.
    pub(super) saved: usize,
}

/// Operands and open blocks.
#[derive(Default)]
pub(super) struct Stack {
    pub(super) values: Vec<Value>,
    pub(super) frames: Vec<Frame>,
    /// How many frames have a number.
    pub(super) serials: u32,
    /// Parameters of the open `if` blocks, for their `else`.
    pub(super) saved: Vec<Value>,
    /// Catch clauses of the open `try_table` blocks; the last is tried first.
    pub(super) handlers: Vec<Handler>,
    /// Those of them that a call has, if they are known.
    pub(super) effective: Option<Rc<[Handler]>>,
    /// Blocks that were opened where control does not reach.
    pub(super) unreachable_depth: usize,
}

impl Stack {
    pub(super) fn push(&mut self, value: Value) {
        self.values.push(value);
    }

    /// Takes the top operand. Validation has shown that there is one.
    pub(super) fn pop(&mut self) -> Value {
        self.values.pop().expect("validation checks operands")
    }

    /// Takes the top two operands, the lower one first.
    pub(super) fn pop2(&mut self) -> (Value, Value) {
        let b = self.pop();
        (self.pop(), b)
    }

    /// Takes the top three operands, the lowest first.
    pub(super) fn pop3(&mut self) -> (Value, Value, Value) {
        let c = self.pop();
        let (a, b) = self.pop2();
        (a, b, c)
    }

    /// The top `count` operands, the lowest first.
    pub(super) fn top(&self, count: usize) -> &[Value] {
        &self.values[self.values.len() - count..]
    }

    /// Drops the top `count` operands.
    pub(super) fn drop(&mut self, count: usize) {
        self.values.truncate(self.values.len() - count);
    }

    /// The number of the next frame.
    pub(super) fn next_serial(&mut self) -> u32 {
        // A body has fewer than 2^32 bytes.
        self.serials += 1;
        self.serials - 1
    }

    /// The block that a branch of this depth names.
    pub(super) fn frame(&mut self, depth: u32) -> &mut Frame {
        let index = self.frames.len() - 1 - depth as usize;
        &mut self.frames[index]
    }
}
