//! Tables: elements, sizes and bulk operations.

use cranelift_codegen::ir::{InstBuilder as _, MemFlagsData, Value, condcodes::IntCC, types};
use cwasm_artifact::abi::builtins::Builtin;
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::abi::vmctx::table_definition;
use cwasm_artifact::types::IndexType;
use wasmparser::Operator;

use super::bulk::shorter;
use super::reference::is_traced;
use super::runtime::field;
use super::{Translator, trap_code};
use crate::module::TableIndex;

impl Translator<'_, '_> {
    /// Translates the operator if it belongs to this family.
    pub(super) fn table(&mut self, operator: &Operator<'_>) -> bool {
        match *operator {
            Operator::TableGet { table } => {
                let ty = self.env.module.tables[TableIndex::from_u32(table)];
                self.holds_traced |= is_traced(ty.element);
                self.func_refs.taken = true;
                let index = self.stack.pop();
                let value = self.table_element(table, index, Trap::TableOutOfBounds);
                self.stack.push(value);
            }
            Operator::TableSet { table } => {
                let (index, value) = self.stack.pop2();
                let address = self.element_address(table, index, Trap::TableOutOfBounds);
                let flags = self.element_flags();
                self.builder.ins().store(flags, value, address, 0);
            }
            Operator::TableSize { table } => {
                let length = self.table_length(TableIndex::from_u32(table));
                let length = self.reduce(length, self.table_index_type(table));
                self.stack.push(length);
            }
            Operator::TableGrow { table } => {
                let index = self.table_index_type(table);
                let delta = self.pop_index(index);
                let value = self.stack.pop();
                let table = self.u32_constant(table);
                let old = self.builtin_value(Builtin::TableGrow, &[table, delta, value]);
                let old = self.reduce(old, index);
                self.stack.push(old);
            }
            Operator::TableCopy { dst_table, src_table } => {
                self.func_refs.taken = true;
                let target = self.table_index_type(dst_table);
                let source = self.table_index_type(src_table);
                let len = self.pop_index(shorter(target, source));
                let (src, dst) = (self.pop_index(source), self.pop_index(target));
                let (to, from) = (self.u32_constant(dst_table), self.u32_constant(src_table));
                self.table_bulk(Builtin::TableCopy, &[to, from, dst, src, len]);
            }
            Operator::TableFill { table } => {
                let index = self.table_index_type(table);
                let len = self.pop_index(index);
                let value = self.stack.pop();
                let dst = self.pop_index(index);
                let table = self.u32_constant(table);
                self.table_bulk(Builtin::TableFill, &[table, dst, value, len]);
            }
            Operator::TableInit { elem_index, table } => {
                self.func_refs.taken = true;
                let (src, len) = self.stack.pop2();
                let dst = self.pop_index(self.table_index_type(table));
                let (table, elem) = (self.u32_constant(table), self.u32_constant(elem_index));
                self.table_bulk(Builtin::TableInit, &[table, elem, dst, src, len]);
            }
            Operator::ElemDrop { elem_index } => {
                let elem = self.u32_constant(elem_index);
                self.builtin(Builtin::ElemDrop, &[elem]);
            }
            _ => return false,
        }
        true
    }

    fn table_bulk(&mut self, builtin: Builtin, arguments: &[Value]) {
        self.builtin_or_trap(builtin, arguments, Trap::TableOutOfBounds);
    }

    /// Loads an element, or traps if there is none with this index.
    pub(super) fn table_element(&mut self, table: u32, index: Value, trap: Trap) -> Value {
        let address = self.element_address(table, index, trap);
        let flags = self.element_flags();
        self.builder.ins().load(types::I64, flags, address, 0)
    }

    fn element_flags(&self) -> MemFlagsData {
        field().with_alias_region(Some(self.regions.elements))
    }

    fn table_index_type(&self, table: u32) -> IndexType {
        self.env.module.tables[TableIndex::from_u32(table)].index
    }

    /// The address of an element. SANDBOX-CRITICAL: `index < length` is
    /// checked here and nowhere else, in 64 bits, and an element has eight bytes.
    /// Speculation past the check does not get an address outside either.
    fn element_address(&mut self, table: u32, index: Value, trap: Trap) -> Value {
        let index = self.extend(index, self.table_index_type(table));
        let table = TableIndex::from_u32(table);
        let length = self.table_length(table);
        let outside = self.builder.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, index, length);
        self.builder.ins().trapnz(outside, trap_code(trap));
        let definition = self.table_definition(table);
        let elements = match self.fixed_length(table) {
            Some(_) => self.fixed_definition_field(definition, table_definition::ELEMENTS),
            None => self.definition_field(definition, table_definition::ELEMENTS),
        };
        let offset = self.builder.ins().ishl_imm_u(index, 3);
        let address = self.builder.ins().iadd(elements, offset);
        // A processor that guesses the check right of a wrong index would load
        // whatever is there, and might even call it. It gets null instead.
        let null = self.builder.ins().iconst(types::I64, 0);
        self.builder.ins().select_spectre_guard(outside, null, address)
    }

    /// The number of elements, if it can never change. A table that is imported
    /// with equal bounds has exactly this many elements too.
    fn fixed_length(&self, table: TableIndex) -> Option<i64> {
        let limits = self.env.module.tables[table].limits;
        (limits.max == Some(limits.min)).then_some(limits.min.cast_signed())
    }

    /// The current number of elements, in 64 bits.
    fn table_length(&mut self, table: TableIndex) -> Value {
        if let Some(length) = self.fixed_length(table) {
            return self.builder.ins().iconst(types::I64, length);
        }
        let definition = self.table_definition(table);
        self.definition_field(definition, table_definition::LENGTH)
    }

    fn table_definition(&mut self, table: TableIndex) -> Value {
        let slot = self.env.module.vmctx.table(table.as_u32());
        self.vmctx_field(types::I64, slot)
    }
}
