//! Exceptions: `throw` and `throw_ref`, `try_table`, and the handlers of calls.
//!
//! A catch clause becomes a *pad*: a block that takes the exception, reads the values out of it, and
//! branches to the label of the clause. Every call in the body of a `try_table` ends its block with an
//! edge to each pad that may catch what leaves the call, so locals have the right values there. The
//! loader finds the pad by the return address of the call; code that does not throw pays nothing.
//!
//! Throwing is a call too, of a builtin, with the handlers of any other call at this place.
//!
//! The loader looks for references to exceptions and objects on the stack, and not in registers. So a function that may hold one
//! makes all its calls as if an exception could end them: then no register survives a call, and
//! what is needed after it is in the frame.

use std::collections::HashSet;
use std::rc::Rc;

use cranelift_codegen::ir::{
    BlockArg, ExceptionTableData, ExceptionTableItem, ExceptionTag, InstBuilder as _, SigRef,
    Value, types,
};
use cwasm_artifact::abi::builtins::Builtin;
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::abi::vmctx::{VALUE_SIZE, exception};
use cwasm_artifact::types::ValType;
use wasmparser::{Catch, Operator, TryTable};

use super::call::Callee;
use super::reference::is_traced;
use super::runtime::{field, offset32};
use super::stack::{FrameKind, Handler};
use super::{BodyError, Translator, clif_type, trap_code};
use crate::module::TagIndex;

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn exception(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::TryTable { try_table } => self.open_try(try_table),
            Operator::Throw { tag_index } => self.throw_new(*tag_index),
            Operator::ThrowRef => {
                let exception = self.stack.pop();
                self.save_fuel();
                self.builder.ins().trapz(exception, trap_code(Trap::NullReference));
                self.throw(exception);
            }
            _ => return false,
        }
        true
    }

    fn throw_new(&mut self, tag: u32) {
        let number = self.u32_constant(tag);
        let (signature, code) = self.builtin_code(Builtin::ExceptionNew);
        self.save_fuel();
        let callee = Callee::Pointer(code);
        let exception = self.call_with_handlers(signature, callee, &[self.vmctx, number])[0];
        self.builder.ins().trapz(exception, trap_code(Trap::TooManyExceptions));
        let count = self.tag_values(tag).len();
        for (position, value) in (0..).zip(self.stack.top(count).to_vec()) {
            self.builder.ins().store(field(), value, exception, value_offset(position));
        }
        self.stack.drop(count);
        self.throw(exception);
    }

    /// Throws an exception that is not null.
    fn throw(&mut self, exception: Value) {
        let (signature, code) = self.builtin_code(Builtin::Throw);
        self.save_fuel();
        self.call_with_handlers(signature, Callee::Pointer(code), &[self.vmctx, exception]);
        self.builder.ins().trap(trap_code(Trap::UncaughtException));
        self.reachable = false;
    }

    /// The types of the values of a tag.
    fn tag_values(&self, tag: u32) -> &[ValType] {
        let module = self.env.module;
        &module.signature(module.tags[TagIndex::from_u32(tag)]).params
    }

    fn open_try(&mut self, try_table: &TryTable) {
        self.flush_fuel();
        let body = self.builder.create_block();
        self.builder.ins().jump(body, &[]);
        let first = self.stack.handlers.len();
        let handlers: Vec<Handler> =
            try_table.catches.iter().map(|catch| self.pad(catch)).collect();
        // The last is tried first.
        self.stack.handlers.extend(handlers.into_iter().rev());
        self.stack.effective = None;
        self.open(FrameKind::Try { handlers: first }, try_table.ty);
        self.builder.switch_to_block(body);
        self.builder.seal_block(body);
    }

    /// Makes the pad of a catch clause, whose label counts from outside of its `try_table`.
    fn pad(&mut self, catch: &Catch) -> Handler {
        let (tag, label, by_reference) = match *catch {
            Catch::One { tag, label } => (Some(tag), label, false),
            Catch::OneRef { tag, label } => (Some(tag), label, true),
            Catch::All { label } => (None, label, false),
            Catch::AllRef { label } => (None, label, true),
        };
        self.holds_traced |= by_reference;
        let (target, _) = self.target(label);
        let pad = self.builder.create_block();
        self.builder.set_cold_block(pad);
        let exception = self.builder.append_block_param(pad, types::I64);
        self.builder.switch_to_block(pad);
        self.restore_fuel();
        let mut arguments = Vec::new();
        if let Some(tag) = tag {
            for (position, ty) in (0..).zip(self.tag_values(tag).to_vec()) {
                self.holds_traced |= is_traced(ty);
                let ty = clif_type(ty);
                let value = self.builder.ins().load(ty, field(), exception, value_offset(position));
                arguments.push(BlockArg::from(value));
            }
        }
        if by_reference {
            let one = self.u32_constant(1);
            self.builder.ins().store(field(), one, exception, offset32(exception::SHARED));
            arguments.push(exception.into());
        } else {
            self.builtin(Builtin::ExceptionDrop, &[exception]);
        }
        self.builder.ins().jump(target, &arguments);
        // Sealed at the end of the block, when all calls in it are known.
        Handler { tag, pad }
    }

    /// Ends the scope of the handlers from `first` on.
    pub(super) fn close_handlers(&mut self, first: usize) {
        for handler in self.stack.handlers.drain(first..) {
            self.builder.seal_block(handler.pad);
        }
        self.stack.effective = None;
    }

    /// Calls something that may throw.
    pub(super) fn call_with_handlers(
        &mut self,
        signature: SigRef,
        callee: Callee,
        arguments: &[Value],
    ) -> Vec<Value> {
        let handlers = self.effective_handlers();
        if handlers.is_empty() && !self.holds_traced {
            let call = match callee {
                Callee::Direct(callee) => self.builder.ins().call(callee, arguments),
                Callee::Pointer(code) => {
                    self.builder.ins().call_indirect(signature, code, arguments)
                }
            };
            return self.builder.inst_results(call).to_vec();
        }
        self.call_and_keep_nothing(signature, callee, arguments, &handlers)
    }

    /// Calls something with these handlers, such that no register keeps what it has, and all that is needed after the call is in the
    /// frame.
    pub(super) fn call_and_keep_nothing(
        &mut self,
        signature: SigRef,
        callee: Callee,
        arguments: &[Value],
        handlers: &[Handler],
    ) -> Vec<Value> {
        let returned = self.new_block();
        let results: Vec<_> = self.builder.func.dfg.signatures[signature]
            .returns
            .iter()
            .map(|result| result.value_type)
            .collect();
        let returned_arguments: Vec<BlockArg> =
            (0..).take(results.len()).map(BlockArg::TryCallRet).collect();
        for ty in results {
            self.builder.append_block_param(returned, ty);
        }
        let returned_call = self.builder.func.dfg.block_call(returned, &returned_arguments);
        let mut items = Vec::new();
        if !handlers.is_empty() {
            items.push(ExceptionTableItem::Context(self.vmctx));
        }
        for &Handler { tag, pad } in handlers {
            let call = self.builder.func.dfg.block_call(pad, &[BlockArg::TryCallExn(0)]);
            items.push(match tag {
                Some(tag) => ExceptionTableItem::Tag(ExceptionTag::from_u32(tag), call),
                None => ExceptionTableItem::Default(call),
            });
        }
        let table = ExceptionTableData::new(signature, returned_call, items);
        let table = self.builder.func.dfg.exception_tables.push(table);
        match callee {
            Callee::Direct(callee) => self.builder.ins().try_call(callee, arguments, table),
            Callee::Pointer(code) => self.builder.ins().try_call_indirect(code, arguments, table),
        };
        self.builder.switch_to_block(returned);
        self.builder.seal_block(returned);
        self.builder.block_params(returned).to_vec()
    }

    /// The handlers that can be reached, in the order in which they are tried: none behind one for
    /// the same tag, or for all. They are the same for all calls until a block opens or ends.
    fn effective_handlers(&mut self) -> Rc<[Handler]> {
        let stack = &mut self.stack;
        let found = stack.effective.get_or_insert_with(|| {
            let mut known = HashSet::new();
            let mut open = stack.handlers.iter().rev();
            let mut found = Vec::new();
            while let Some(handler) = open.next().filter(|_| !known.contains(&None)) {
                if known.insert(handler.tag) {
                    found.push(*handler);
                }
            }
            found.into()
        });
        self.handler_edges += found.len();
        Rc::clone(found)
    }

    /// Refuses a function in which calls and handlers multiply to more than a compiler can take.
    pub(super) fn check_handler_edges(&self, offset: u64) -> Result<(), BodyError> {
        if self.handler_edges <= MAX_HANDLER_EDGES {
            return Ok(());
        }
        Err(BodyError::Unsupported(
            "more than 1,000,000 pairs of calls and handlers of exceptions in a function",
            offset,
        ))
    }
}

/// How many edges from calls to handlers a function may have. Nesting makes them many times more than
/// there are calls and catch clauses.
const MAX_HANDLER_EDGES: usize = 1_000_000;

/// Where a value is in an exception.
fn value_offset(position: u32) -> i32 {
    // A tag has at most 1000 values.
    offset32(exception::VALUES + position * VALUE_SIZE)
}
