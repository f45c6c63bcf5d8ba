//! A module as the compiler sees it: everything that the wasm declares, gathered
//! in one pass, with function bodies left as ranges for the code generator's
//! threads to validate and translate.

mod constant;
mod dispatch;
mod features;
mod hints;
mod images;
mod index;
mod names;
mod parse;
mod references;
mod types;

use cranelift_codegen::entity::{PrimaryMap, SecondaryMap};
use cwasm_artifact::abi::vmctx::VmctxLayout;
use cwasm_artifact::types::{FuncType, GlobalType, MemoryType, SubType, TableType, ValType};
use wasmparser::{
    FuncToValidate, FuncValidator, FuncValidatorAllocations, FunctionBody, ValidatorResources,
};

pub use constant::{Arithmetic, ConstExpr, ConstOp};
pub use dispatch::{ConstantTable, Dispatch, Targets};
pub(crate) use features::{TYPES, refuse_vectors};
pub use hints::BranchHints;
pub use images::{Image, Images};
pub use index::{
    DefinedFuncIndex, DefinedGlobalIndex, FuncIndex, FuncRefIndex, GlobalIndex, MemoryIndex,
    TableIndex, TagIndex, TypeIndex,
};
pub use names::Names;
pub(crate) use parse::explain_in_body;
pub use parse::parse;
pub use types::ExternType;
pub(crate) use types::{heap_type, ref_type, val_type};

/// Something that a module imports.
#[derive(Clone, Copy, Debug)]
pub struct Import<'wasm> {
    /// The name of the module to import from.
    pub module: &'wasm str,
    /// The name within that module.
    pub name: &'wasm str,
    /// What it must be.
    pub ty: ExternType,
}

/// Something that a module exports, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportItem {
    /// A function.
    Func(FuncIndex),
    /// A table.
    Table(TableIndex),
    /// A memory.
    Memory(MemoryIndex),
    /// A global.
    Global(GlobalIndex),
    /// A tag.
    Tag(TagIndex),
}

/// An export.
#[derive(Clone, Copy, Debug)]
pub struct Export<'wasm> {
    /// The name it is exported under.
    pub name: &'wasm str,
    /// What is exported.
    pub item: ExportItem,
}

/// A function of the module.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// Its type.
    pub ty: TypeIndex,
    /// Its function reference in the vmctx, if it is a defined function that
    /// can be reached other than by a direct call.
    pub func_ref: Option<FuncRefIndex>,
}

/// A global of the module.
#[derive(Clone, Debug)]
pub struct Global {
    /// Its type.
    pub ty: GlobalType,
    /// Its initial value; `None` if it is imported.
    pub init: Option<ConstExpr>,
}

impl Global {
    /// The value, if it never changes and does not depend on an import.
    #[must_use]
    pub fn constant(&self) -> Option<ConstOp> {
        if self.ty.mutable { None } else { self.init.as_ref()?.constant() }
    }
}

/// What happens to a segment at instantiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentMode<Target> {
    /// It waits for `memory.init` or `table.init`.
    Passive,
    /// It is copied to this place and dropped.
    Active {
        /// The memory or table that it is copied to.
        target: Target,
        /// Where in the target it begins.
        offset: ConstExpr,
    },
    /// It only declares function references, and is dropped.
    Declared,
}

/// The elements of an element segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElementItems {
    /// References to these functions.
    Funcs(Vec<FuncIndex>),
    /// The values of these expressions.
    Exprs(Vec<ConstExpr>),
}

/// An element segment.
#[derive(Clone, Debug)]
pub struct ElementSegment {
    /// What happens to it at instantiation.
    pub mode: SegmentMode<TableIndex>,
    /// The type of its elements.
    pub ty: ValType,
    /// Its elements.
    pub items: ElementItems,
}

/// A data segment.
#[derive(Clone, Debug)]
pub struct DataSegment<'wasm> {
    /// What happens to it at instantiation.
    pub mode: SegmentMode<MemoryIndex>,
    /// Its bytes.
    pub bytes: &'wasm [u8],
}

/// The declarations of a module.
#[derive(Debug)]
pub struct Module<'wasm> {
    /// The type section.
    pub types: PrimaryMap<TypeIndex, SubType>,
    /// For each type, the first of its recursion group.
    pub group_of: Vec<u32>,
    /// For each type, the first type that is equal to it.
    pub canonical_types: SecondaryMap<TypeIndex, TypeIndex>,
    /// Imports, in order.
    pub imports: Vec<Import<'wasm>>,
    /// Exports, in order.
    pub exports: Vec<Export<'wasm>>,
    /// Imported and defined functions.
    pub functions: PrimaryMap<FuncIndex, Function>,
    /// How many of the functions are imported.
    pub imported_functions: u32,
    /// The defined functions that have a function reference.
    pub func_refs: PrimaryMap<FuncRefIndex, FuncIndex>,
    /// Imported and defined tables.
    pub tables: PrimaryMap<TableIndex, TableType>,
    /// How many of the tables are imported.
    pub imported_tables: u32,
    /// The initial value of the elements of a table that does not begin as null.
    pub table_inits: SecondaryMap<TableIndex, Option<ConstExpr>>,
    /// Imported and defined tags, by the types whose parameters they carry.
    pub tags: PrimaryMap<TagIndex, TypeIndex>,
    /// How many of the tags are imported.
    pub imported_tags: u32,
    /// Imported and defined memories.
    pub memories: PrimaryMap<MemoryIndex, MemoryType>,
    /// How many of the memories are imported.
    pub imported_memories: u32,
    /// Imported and defined globals.
    pub globals: PrimaryMap<GlobalIndex, Global>,
    /// How many of the globals are imported.
    pub imported_globals: u32,
    /// Element segments, in order.
    pub elements: Vec<ElementSegment>,
    /// Data segments, in order.
    pub data: Vec<DataSegment<'wasm>>,
    /// The start function.
    pub start: Option<FuncIndex>,
    /// Names for the people who read backtraces and symbol tables.
    pub names: Names<'wasm>,
    /// Which way branches usually go.
    pub hints: BranchHints,
    /// Where the instance's vmctx holds what the code needs.
    pub vmctx: VmctxLayout,
}

impl Module<'_> {
    /// The number of a function among the defined ones, or `None` if it is imported.
    #[must_use]
    pub fn defined_func(&self, index: FuncIndex) -> Option<DefinedFuncIndex> {
        index.as_u32().checked_sub(self.imported_functions).map(DefinedFuncIndex::from_u32)
    }

    /// The index of a defined function in the module.
    #[must_use]
    pub fn func_index(&self, index: DefinedFuncIndex) -> FuncIndex {
        FuncIndex::from_u32(self.imported_functions + index.as_u32())
    }

    /// The number of a global among the defined ones, or `None` if it is imported.
    #[must_use]
    pub fn defined_global(&self, index: GlobalIndex) -> Option<DefinedGlobalIndex> {
        index.as_u32().checked_sub(self.imported_globals).map(DefinedGlobalIndex::from_u32)
    }

    /// The type of a function.
    #[must_use]
    pub fn func_type(&self, index: FuncIndex) -> &FuncType {
        self.signature(self.functions[index].ty)
    }

    /// The function type with this index.
    #[must_use]
    pub fn signature(&self, index: TypeIndex) -> &FuncType {
        static NONE: FuncType = FuncType { params: Vec::new(), results: Vec::new() };
        // Validation makes sure that it is one, wherever one is needed.
        self.types[index].func().unwrap_or(&NONE)
    }

    /// The types of functions that stand for all types equal to them, in order.
    pub fn distinct_signatures(&self) -> impl Iterator<Item = TypeIndex> + '_ {
        let is_func = |ty: &TypeIndex| self.types[*ty].func().is_some();
        self.types.keys().filter(|ty| self.canonical_types[*ty] == *ty).filter(is_func)
    }

    /// How many types a type is declared below.
    #[must_use]
    pub fn depth(&self, ty: TypeIndex) -> u32 {
        let mut depth = 0;
        let mut next = self.supertype(ty);
        while let Some(above) = next {
            depth += 1;
            next = self.supertype(above);
        }
        depth
    }

    /// Whether a type is another, or declared below it.
    #[must_use]
    pub fn is_below(&self, ty: TypeIndex, above: TypeIndex) -> bool {
        let mut next = Some(ty);
        while let Some(ty) = next {
            if self.canonical_types[ty] == self.canonical_types[above] {
                return true;
            }
            next = self.supertype(ty);
        }
        false
    }

    /// The type that a type is declared below, which comes before it.
    fn supertype(&self, ty: TypeIndex) -> Option<TypeIndex> {
        self.types[ty].supertype.map(|above| TypeIndex::from_u32(above.number()))
    }
}

/// A function body that is neither validated nor translated yet.
pub struct Body<'wasm> {
    /// Validates the body in the context of its module.
    pub validate: FuncToValidate<ValidatorResources>,
    /// The locals and operators.
    pub body: FunctionBody<'wasm>,
}

impl Body<'_> {
    /// A validator of the body. A body may be validated more than once.
    pub(crate) fn validator(
        &self,
        allocations: FuncValidatorAllocations,
    ) -> FuncValidator<ValidatorResources> {
        let FuncToValidate { resources, index, ty, features } = &self.validate;
        let validate = FuncToValidate {
            resources: resources.clone(),
            index: *index,
            ty: *ty,
            features: *features,
        };
        validate.into_validator(allocations)
    }
}
