//! Calls through tables whose elements never change.
//!
//! The linker puts such a table into the text: for each index eight bytes, of which the first four
//! are the distance from the table to the function, and the others the number of its type.

use cranelift_codegen::ir::{
    ExternalName, GlobalValue, GlobalValueData, InstBuilder as _, Value, condcodes::IntCC, types,
};
use cwasm_artifact::abi::traps::Trap;

use super::call::Callee;
use super::runtime::field;
use super::{Environment, Translator, trap_code};
use crate::link::{NO_TYPE, constant_element};
use crate::module::{FuncIndex, TableIndex, Targets, TypeIndex};
use crate::reference::Reference;

impl Environment<'_> {
    /// The function that every call through a table with this type leads to that does not trap, if there is one.
    pub(crate) fn only_target(&self, ty: TypeIndex, table: TableIndex) -> Option<FuncIndex> {
        let ty = self.module.canonical_types[ty];
        match self.dispatch.table(table)?.targets(ty)? {
            Targets::Place(function, _) | Targets::Function(function) => Some(function),
            Targets::Many => None,
        }
    }
}

impl Translator<'_, '_> {
    /// The function at an index of a constant table, or a trap if it has another type.
    ///
    /// SANDBOX-CRITICAL: `index < length` and the type are checked here and nowhere else. Where the index
    /// itself says which function it is, no more is asked. Speculation past the check of the index reads the first element.
    pub(super) fn constant_element(
        &mut self,
        table: TableIndex,
        index: Value,
        ty: TypeIndex,
    ) -> Callee {
        let env = self.env;
        if let Some(function) = self.element_at_constant(table, index, ty) {
            return Callee::Direct(self.callee(function));
        }
        let index = self.extend(index, env.module.tables[table].index);
        let ty = env.module.canonical_types[ty];
        let known = env.dispatch.table(table).and_then(|table| table.targets(ty));
        if let Some(Targets::Place(function, place)) = known {
            let elsewhere = self.builder.ins().icmp_imm_u(IntCC::NotEqual, index, i64::from(place));
            let go_on = self.rarely(elsewhere);
            let element = self.constant_element_address(table, index);
            let found = self.type_of_element(element);
            self.trap_for_type(table, found);
            self.builder.switch_to_block(go_on);
            self.builder.seal_block(go_on);
            return Callee::Direct(self.callee(function));
        }
        let element = self.constant_element_address(table, index);
        let found = self.type_of_element(element);
        let differs = self.builder.ins().icmp_imm_u(IntCC::NotEqual, found, i64::from(ty.as_u32()));
        let go_on = self.rarely(differs);
        self.trap_for_type(table, found);
        self.builder.switch_to_block(go_on);
        self.builder.seal_block(go_on);
        if let Some(Targets::Function(function)) = known {
            return Callee::Direct(self.callee(function));
        }
        let flags = field().with_readonly();
        let offset = constant_element::DISTANCE;
        let distance = self.builder.ins().sload32(flags, element, offset);
        let base = self.constant_table(table);
        Callee::Pointer(self.builder.ins().iadd(base, distance))
    }

    /// The function at an index that is a constant of the wasm, if it has the type.
    fn element_at_constant(
        &self,
        table: TableIndex,
        index: Value,
        ty: TypeIndex,
    ) -> Option<FuncIndex> {
        let index = self.constant_of(index)?;
        let elements = &self.env.dispatch.table(table)?.elements;
        let function = (*elements.get(usize::try_from(index).ok()?)?)?;
        let module = self.env.module;
        let found = module.canonical_types[module.functions[function].ty];
        (found == module.canonical_types[ty]).then_some(function)
    }

    /// Traps as a call with another type does.
    fn trap_for_type(&mut self, table: TableIndex, found: Value) {
        let has_null = self.env.dispatch.table(table).is_some_and(|table| table.has_null);
        if has_null {
            let null = self.builder.ins().icmp_imm_u(IntCC::Equal, found, i64::from(NO_TYPE));
            self.builder.ins().trapnz(null, trap_code(Trap::UninitializedElement));
        }
        self.builder.ins().trap(trap_code(Trap::IndirectCallTypeMismatch));
    }

    fn type_of_element(&mut self, element: Value) -> Value {
        let flags = field().with_readonly();
        self.builder.ins().load(types::I32, flags, element, constant_element::TYPE)
    }

    /// The address of the element at an index, or a trap if there is none.
    fn constant_element_address(&mut self, table: TableIndex, index: Value) -> Value {
        let length = self.env.dispatch.table(table).map_or(0, |table| table.elements.len());
        let length = i64::try_from(length).unwrap_or(0);
        let outside =
            self.builder.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, index, length);
        self.builder.ins().trapnz(outside, trap_code(Trap::UndefinedElement));
        let first = self.builder.ins().iconst(types::I64, 0);
        let index = self.builder.ins().select_spectre_guard(outside, first, index);
        let offset = self.builder.ins().ishl_imm_u(index, 3);
        let base = self.constant_table(table);
        self.builder.ins().iadd(base, offset)
    }

    /// The address of a constant table in the text.
    fn constant_table(&mut self, table: TableIndex) -> Value {
        let symbol = self.constant_table_symbol(table);
        self.builder.ins().symbol_value(types::I64, symbol)
    }

    /// The same as a symbol, declared once in each function.
    fn constant_table_symbol(&mut self, table: TableIndex) -> GlobalValue {
        if let Some(symbol) = self.constant_tables.get(&table) {
            return *symbol;
        }
        let name = Reference::Table(table).name();
        let name = self.builder.func.declare_imported_user_function(name);
        let symbol = self.builder.create_global_value(GlobalValueData::Symbol {
            name: ExternalName::user(name),
            offset: 0.into(),
            colocated: true,
            tls: false,
        });
        self.constant_tables.insert(table, symbol);
        symbol
    }
}
