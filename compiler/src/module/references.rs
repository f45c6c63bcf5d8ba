//! Which functions have references: those that something outside of the module, or a value, may lead to.
//!
//! Each has a record in the artifact, a place in the vmctx, and for its type a trampoline that the host enters wasm by. The program of
//! a language like C has nearly all of its references in a table that is only ever called through. If the elements of such a
//! table are known ([`Dispatch`]) and no function takes a reference from anywhere, nobody ever sees those in the table, and the module does
//! without them: [`Module::leave_out_elements`].

use cranelift_codegen::entity::{EntitySet, PrimaryMap, SecondaryMap};
use cwasm_artifact::abi::vmctx::{VmctxCounts, VmctxLayout};

use super::{
    ConstExpr, Dispatch, ElementItems, ElementSegment, Export, ExportItem, FuncIndex, Global,
    GlobalIndex, Module, SegmentMode, TableIndex,
};

/// Everything that refers to functions, but for segments.
pub(super) struct Referring<'a> {
    pub(super) exports: &'a [Export<'a>],
    pub(super) globals: &'a PrimaryMap<GlobalIndex, Global>,
    /// What the elements of tables are at first that do not begin as null.
    pub(super) table_inits: &'a SecondaryMap<TableIndex, Option<ConstExpr>>,
    pub(super) start: Option<FuncIndex>,
}

impl Referring<'_> {
    /// The functions, imported ones as well, with those in these segments.
    pub(super) fn functions<'e>(
        self,
        elements: impl Iterator<Item = &'e ElementSegment>,
    ) -> EntitySet<FuncIndex> {
        let mut found = EntitySet::new();
        let exported = self.exports.iter().filter_map(|export| match export.item {
            ExportItem::Func(index) => Some(index),
            _ => None,
        });
        let in_globals = self.globals.values().filter_map(|global| global.init.as_ref());
        let in_constants =
            in_globals.chain(self.table_inits.values().flatten()).flat_map(ConstExpr::funcs);
        for index in exported.chain(in_constants).chain(self.start) {
            found.insert(index);
        }
        for element in elements {
            match &element.items {
                ElementItems::Funcs(functions) => found.extend(functions.iter().copied()),
                ElementItems::Exprs(items) => found.extend(items.iter().flat_map(ConstExpr::funcs)),
            }
        }
        found
    }
}

impl Module<'_> {
    /// The functions that have references wherever the elements of constant tables are left out; imported ones as well.
    pub(crate) fn referred_to_without_elements(&self, dispatch: &Dispatch) -> EntitySet<FuncIndex> {
        Referring {
            exports: &self.exports,
            globals: &self.globals,
            table_inits: &self.table_inits,
            start: self.start,
        }
        .functions(self.elements.iter().filter(|element| !is_constant(element, dispatch)))
    }

    /// Leaves out what is put into constant tables, and the references that nothing else needs. Only calls of such tables are left, and these need neither.
    ///
    /// Code must not depend on the number of any reference.
    pub(crate) fn leave_out_elements(&mut self, dispatch: &Dispatch) {
        let needed = self.referred_to_without_elements(dispatch);
        let func_refs: PrimaryMap<_, _> =
            self.func_refs.values().copied().filter(|index| needed.contains(*index)).collect();
        // What comes before the references has the same place in the vmctx with any number of them.
        let count = u32::try_from(func_refs.len()).unwrap_or(u32::MAX);
        let counts = VmctxCounts { func_refs: count, ..*self.vmctx.counts() };
        // There are fewer.
        let Some(vmctx) = VmctxLayout::new(counts) else { return };
        self.vmctx = vmctx;
        for function in self.functions.values_mut() {
            function.func_ref = None;
        }
        for (number, index) in &func_refs {
            self.functions[*index].func_ref = Some(number);
        }
        self.func_refs = func_refs;
        for element in self.elements.iter_mut().filter(|element| is_constant(element, dispatch)) {
            element.mode = SegmentMode::Declared;
            element.items = ElementItems::Funcs(Vec::new());
        }
    }
}

/// Whether a segment is put into a table whose elements are known.
fn is_constant(element: &ElementSegment, dispatch: &Dispatch) -> bool {
    matches!(&element.mode, SegmentMode::Active { target, .. } if dispatch.table(*target).is_some())
}
