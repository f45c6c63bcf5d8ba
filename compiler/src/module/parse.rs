//! From wasm bytes to [`Module`]: one pass over the sections, each validated
//! before it is read.

use cranelift_codegen::entity::{PrimaryMap, SecondaryMap};
use cwasm_artifact::abi::vmctx::{VmctxCounts, VmctxLayout};
use cwasm_artifact::reference;
use cwasm_artifact::types::{GlobalType, HeapType, MemoryType, RefType, SubType, TableType};
use wasmparser::{ExternalKind, Parser, Payload, TypeRef, ValidPayload, Validator};

use super::features::{self, SUPPORTED, TYPES};
use super::references::Referring;
use super::{
    Body, BranchHints, ConstExpr, DataSegment, ElementItems, ElementSegment, Export, ExportItem,
    ExternType, FuncIndex, Function, Global, GlobalIndex, Import, MemoryIndex, Module, Names,
    SegmentMode, TableIndex, TagIndex, TypeIndex, types,
};
use crate::error::CompileError;

/// Reads and validates the declarations of a wasm binary. The bodies are returned in
/// the order of the defined functions, and are not validated yet.
pub fn parse(wasm: &[u8]) -> Result<(Module<'_>, Vec<Body<'_>>), CompileError> {
    check_header(wasm)?;
    // The operators' offsets are stored in 32 bits, one number of which is taken.
    let limit = u64::from(u32::MAX) - 1;
    if wasm.len() as u64 > limit {
        return Err(CompileError::limit("bytes", limit, wasm.len() as u64));
    }
    let mut reader = Reader::new();
    match reader.read(wasm) {
        Ok(()) => reader.finish(),
        Err(Problem::Wasm(error)) => Err(features::explain(wasm, &error)),
        Err(Problem::Unsupported(feature, offset)) => {
            Err(CompileError::Unsupported { feature, offset, function: None })
        }
    }
}

/// Explains an error in a function body as [`parse`] explains other errors.
pub(crate) fn explain_in_body(
    wasm: &[u8],
    function: u32,
    error: &wasmparser::Error,
) -> CompileError {
    features::explain(wasm, error).within(function)
}

/// Says what the input is, if it is not a core module of version 1.
fn check_header(wasm: &[u8]) -> Result<(), CompileError> {
    let not_wasm = |found| Err(CompileError::NotWasm { found });
    match wasm {
        [] => not_wasm("empty"),
        [b'\0', b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Err(CompileError::Component),
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(()),
        [b'\0', b'a', b's', b'm', _, _, _, _, ..] => {
            not_wasm("a WebAssembly binary of a version other than 1")
        }
        _ if wasm.len() < 8 && b"\0asm\x01\0\0\0".starts_with(wasm) => {
            Err(CompileError::Truncated { offset: wasm.len() as u64 })
        }
        [0x7f, b'E', b'L', b'F', ..] => not_wasm("an ELF file (is it already compiled?)"),
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => not_wasm("an archive of object files"),
        [b'B', b'C', 0xc0, 0xde, ..] => not_wasm("LLVM bitcode"),
        [b'M', b'Z', ..] => not_wasm("a Windows program"),
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [b'P', b'K', 3, 4, ..] => {
            not_wasm("a compressed file")
        }
        [b'#', b'!', ..] => not_wasm("a script"),
        _ if wasm.trim_ascii_start().starts_with(b"(") => {
            not_wasm("text that may be WebAssembly text (give it the ending .wat)")
        }
        _ if std::str::from_utf8(wasm).is_ok() => not_wasm("text"),
        _ => not_wasm("something else (it does not begin with \\0asm)"),
    }
}

enum Problem {
    Wasm(wasmparser::Error),
    Unsupported(&'static str, u64),
}

impl From<wasmparser::Error> for Problem {
    fn from(error: wasmparser::Error) -> Self {
        Self::Wasm(error)
    }
}

/// What has been read so far.
struct Reader<'wasm> {
    types: PrimaryMap<TypeIndex, SubType>,
    /// For each type, the first of its recursion group.
    group_of: Vec<u32>,
    /// What refers to each type; also to those of the group that is being read.
    heap_types: Vec<HeapType>,
    imports: Vec<Import<'wasm>>,
    exports: Vec<Export<'wasm>>,
    function_types: PrimaryMap<FuncIndex, TypeIndex>,
    imported_functions: usize,
    tables: PrimaryMap<TableIndex, TableType>,
    imported_tables: usize,
    table_inits: SecondaryMap<TableIndex, Option<ConstExpr>>,
    tags: PrimaryMap<TagIndex, TypeIndex>,
    imported_tags: usize,
    memories: PrimaryMap<MemoryIndex, MemoryType>,
    imported_memories: usize,
    globals: PrimaryMap<GlobalIndex, Global>,
    imported_globals: usize,
    elements: Vec<ElementSegment>,
    data: Vec<DataSegment<'wasm>>,
    start: Option<FuncIndex>,
    names: Names<'wasm>,
    hints: BranchHints,
    bodies: Vec<Body<'wasm>>,
}

impl<'wasm> Reader<'wasm> {
    fn new() -> Self {
        Self {
            types: PrimaryMap::new(),
            group_of: Vec::new(),
            heap_types: Vec::new(),
            imports: Vec::new(),
            exports: Vec::new(),
            function_types: PrimaryMap::new(),
            imported_functions: 0,
            tables: PrimaryMap::new(),
            imported_tables: 0,
            table_inits: SecondaryMap::new(),
            tags: PrimaryMap::new(),
            imported_tags: 0,
            memories: PrimaryMap::new(),
            imported_memories: 0,
            globals: PrimaryMap::new(),
            imported_globals: 0,
            elements: Vec::new(),
            data: Vec::new(),
            start: None,
            names: Names::default(),
            hints: BranchHints::default(),
            bodies: Vec::new(),
        }
    }

    fn read(&mut self, wasm: &'wasm [u8]) -> Result<(), Problem> {
        let mut validator = Validator::new_with_features(SUPPORTED);
        let mut parser = Parser::new(0);
        parser.set_features(SUPPORTED);
        for payload in parser.parse_all(wasm) {
            let payload = payload?;
            if let ValidPayload::Func(validate, body) = validator.payload(&payload)? {
                self.bodies.push(Body { validate, body });
            }
            self.section(payload)?;
        }
        Ok(())
    }

    /// Reads one section, which is valid.
    fn section(&mut self, payload: Payload<'wasm>) -> Result<(), Problem> {
        match payload {
            Payload::TypeSection(section) => {
                for group in section.into_iter_with_offsets() {
                    let (offset, group) = group?;
                    self.group(&group).ok_or(Problem::Unsupported(TYPES, offset))?;
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports_with_offsets() {
                    let (offset, import) = import?;
                    self.import(import, offset)?;
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    self.function_types.push(TypeIndex::from_u32(ty?));
                }
            }
            Payload::TableSection(section) => {
                for table in section.into_iter_with_offsets() {
                    let (offset, table) = table?;
                    let index = self.tables.push(self.table_type(table.ty, offset)?);
                    if let wasmparser::TableInit::Expr(init) = &table.init {
                        self.table_inits[index] = Some(self.const_expr(init, offset)?);
                    }
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    self.memories.push(types::memory_type(memory?));
                }
            }
            Payload::TagSection(section) => {
                for tag in section {
                    self.tags.push(TypeIndex::from_u32(tag?.func_type_idx));
                }
            }
            Payload::GlobalSection(section) => {
                for global in section.into_iter_with_offsets() {
                    let (offset, global) = global?;
                    let ty = self.global_type(global.ty, offset)?;
                    let init = Some(self.const_expr(&global.init_expr, offset)?);
                    self.globals.push(Global { ty, init });
                }
            }
            Payload::ExportSection(section) => {
                for export in section.into_iter_with_offsets() {
                    let (offset, export) = export?;
                    let item = match export.kind {
                        ExternalKind::Func => ExportItem::Func(FuncIndex::from_u32(export.index)),
                        ExternalKind::Table => {
                            ExportItem::Table(TableIndex::from_u32(export.index))
                        }
                        ExternalKind::Memory => {
                            ExportItem::Memory(MemoryIndex::from_u32(export.index))
                        }
                        ExternalKind::Global => {
                            ExportItem::Global(GlobalIndex::from_u32(export.index))
                        }
                        ExternalKind::Tag => ExportItem::Tag(TagIndex::from_u32(export.index)),
                        ExternalKind::FuncExact => {
                            return Err(Problem::Unsupported("exact types", offset));
                        }
                    };
                    self.exports.push(Export { name: export.name, item });
                }
            }
            Payload::StartSection { func, .. } => self.start = Some(FuncIndex::from_u32(func)),
            Payload::ElementSection(section) => {
                for element in section.into_iter_with_offsets() {
                    let (offset, element) = element?;
                    self.element(&element, offset)?;
                }
            }
            Payload::DataSection(section) => {
                for data in section.into_iter_with_offsets() {
                    let (offset, data) = data?;
                    let mode = match data.kind {
                        wasmparser::DataKind::Passive => SegmentMode::Passive,
                        wasmparser::DataKind::Active { memory_index, offset_expr } => {
                            SegmentMode::Active {
                                target: MemoryIndex::from_u32(memory_index),
                                offset: self.const_expr(&offset_expr, offset)?,
                            }
                        }
                    };
                    self.data.push(DataSegment { mode, bytes: data.data });
                }
            }
            Payload::CodeSectionStart { count, .. } => self.bodies.reserve(count as usize),
            Payload::CustomSection(section) => {
                self.names.read(&section, self.function_types.len());
                self.hints.read(&section);
            }
            _ => {}
        }
        Ok(())
    }

    fn import(&mut self, import: wasmparser::Import<'wasm>, offset: u64) -> Result<(), Problem> {
        let ty = match import.ty {
            TypeRef::Func(index) => {
                let index = TypeIndex::from_u32(index);
                self.function_types.push(index);
                self.imported_functions += 1;
                ExternType::Func(index)
            }
            TypeRef::Table(ty) => {
                let ty = self.table_type(ty, offset)?;
                self.tables.push(ty);
                self.imported_tables += 1;
                ExternType::Table(ty)
            }
            TypeRef::Memory(ty) => {
                let ty = types::memory_type(ty);
                self.memories.push(ty);
                self.imported_memories += 1;
                ExternType::Memory(ty)
            }
            TypeRef::Global(ty) => {
                let ty = self.global_type(ty, offset)?;
                self.globals.push(Global { ty, init: None });
                self.imported_globals += 1;
                ExternType::Global(ty)
            }
            TypeRef::Tag(ty) => {
                let index = TypeIndex::from_u32(ty.func_type_idx);
                self.tags.push(index);
                self.imported_tags += 1;
                ExternType::Tag(index)
            }
            TypeRef::FuncExact(_) => return Err(Problem::Unsupported("exact types", offset)),
        };
        self.imports.push(Import { module: import.module, name: import.name, ty });
        Ok(())
    }

    fn element(&mut self, element: &wasmparser::Element<'_>, offset: u64) -> Result<(), Problem> {
        let mode = match &element.kind {
            wasmparser::ElementKind::Passive => SegmentMode::Passive,
            wasmparser::ElementKind::Declared => SegmentMode::Declared,
            wasmparser::ElementKind::Active { table_index, offset_expr } => SegmentMode::Active {
                target: TableIndex::from_u32(table_index.unwrap_or(0)),
                offset: self.const_expr(offset_expr, offset)?,
            },
        };
        let (ty, items) = match &element.items {
            wasmparser::ElementItems::Functions(functions) => {
                let functions: wasmparser::Result<Vec<_>> = functions
                    .clone()
                    .into_iter()
                    .map(|index| Ok(FuncIndex::from_u32(index?)))
                    .collect();
                // Functions are never null.
                let ty = RefType { nullable: false, ..RefType::FUNC };
                (ty.into(), ElementItems::Funcs(functions?))
            }
            wasmparser::ElementItems::Expressions(ty, expressions) => {
                let ty = types::ref_type(*ty, &self.heap_types);
                let ty = ty.ok_or(Problem::Unsupported(TYPES, offset))?.into();
                let mut items = Vec::new();
                for expression in expressions.clone() {
                    items.push(self.const_expr(&expression?, offset)?);
                }
                (ty, ElementItems::Exprs(items))
            }
        };
        self.elements.push(ElementSegment { mode, ty, items });
        Ok(())
    }

    fn const_expr(
        &self,
        expr: &wasmparser::ConstExpr<'_>,
        offset: u64,
    ) -> Result<ConstExpr, Problem> {
        let expr = ConstExpr::read(expr, &self.globals, &self.heap_types)?;
        expr.ok_or(Problem::Unsupported(TYPES, offset))
    }

    /// Reads a recursion group. `None` if something in it is not compiled.
    fn group(&mut self, group: &wasmparser::RecGroup) -> Option<()> {
        let first = u32::try_from(self.types.len()).ok()?;
        for (index, ty) in (first..).zip(group.types()) {
            self.heap_types.push(types::heap_type_of(ty, index)?);
            self.group_of.push(first);
        }
        for ty in group.types() {
            self.types.push(types::sub_type(ty, &self.heap_types)?);
        }
        Some(())
    }

    fn table_type(&self, ty: wasmparser::TableType, offset: u64) -> Result<TableType, Problem> {
        types::table_type(ty, &self.heap_types).ok_or(Problem::Unsupported(TYPES, offset))
    }

    fn global_type(&self, ty: wasmparser::GlobalType, offset: u64) -> Result<GlobalType, Problem> {
        types::global_type(ty, &self.heap_types).ok_or(Problem::Unsupported(TYPES, offset))
    }

    /// Marks the functions that escape, and lays out the vmctx.
    fn finish(self) -> Result<(Module<'wasm>, Vec<Body<'wasm>>), CompileError> {
        let escapes = Referring {
            exports: &self.exports,
            globals: &self.globals,
            table_inits: &self.table_inits,
            start: self.start,
        }
        .functions(self.elements.iter());
        let mut func_refs = PrimaryMap::new();
        let mut functions = PrimaryMap::with_capacity(self.function_types.len());
        for (index, ty) in &self.function_types {
            let needed =
                escapes.contains(index) && index.as_u32() as usize >= self.imported_functions;
            let func_ref = needed.then(|| func_refs.push(index));
            functions.push(Function { ty: *ty, func_ref });
        }

        let counts = VmctxCounts {
            imported_functions: count(self.imported_functions, "imported functions")?,
            memories: count(self.memories.len(), "memories")?,
            tables: count(self.tables.len(), "tables")?,
            imported_globals: count(self.imported_globals, "imported globals")?,
            defined_globals: count(self.globals.len() - self.imported_globals, "globals")?,
            types: count(self.types.len(), "types")?,
            func_refs: count(func_refs.len(), "function references")?,
            tags: count(self.tags.len(), "tags")?,
        };
        let vmctx = VmctxLayout::new(counts).ok_or_else(|| {
            let found = self.globals.len() + self.types.len() + func_refs.len();
            CompileError::limit("globals, types and function references", 1 << 25, found as u64)
        })?;

        let module = Module {
            canonical_types: canonical(&self.types, &self.group_of),
            types: self.types,
            group_of: self.group_of,
            imports: self.imports,
            exports: self.exports,
            functions,
            imported_functions: counts.imported_functions,
            func_refs,
            tables: self.tables,
            imported_tables: count(self.imported_tables, "imported tables")?,
            table_inits: self.table_inits,
            tags: self.tags,
            imported_tags: count(self.imported_tags, "imported tags")?,
            memories: self.memories,
            imported_memories: count(self.imported_memories, "imported memories")?,
            globals: self.globals,
            imported_globals: counts.imported_globals,
            elements: self.elements,
            data: self.data,
            start: self.start,
            names: self.names,
            hints: self.hints,
            vmctx,
        };
        Ok((module, self.bodies))
    }
}

fn count(number: usize, what: &'static str) -> Result<u32, CompileError> {
    u32::try_from(number).map_err(|_| CompileError::limit(what, u32::MAX.into(), number as u64))
}

/// For each type, the first that is equal to it.
fn canonical(
    types: &PrimaryMap<TypeIndex, SubType>,
    group_of: &[u32],
) -> SecondaryMap<TypeIndex, TypeIndex> {
    let mut canonical = SecondaryMap::with_default(TypeIndex::from_u32(0));
    for (index, first) in types.keys().zip(reference::canonical(types.as_values_slice(), group_of))
    {
        canonical[index] = TypeIndex::from_u32(first);
    }
    canonical
}
