//! From a compiled module to the records of an artifact's sections.

use cwasm_artifact::builder::{BuildError, Tables};
use cwasm_artifact::records::{
    ConstOpRecord, DataSegmentRecord, DefinedRecord, ElementRecord, ExportRecord, ExternRecord,
    FuncRefRecord, FunctionRecord, HandlerRecord, ImageRecord, ImportRecord, InlinedRecord,
    ItemRecord, ModuleRecord, NONE, Span, const_op, extern_kind, item_kind, segment_mode,
};

use cwasm_artifact::sites::Site;

use crate::CompiledModule;
use crate::error::CompileError;
use crate::module::{
    Arithmetic, ConstExpr, ConstOp, DefinedFuncIndex, ElementItems, ElementSegment, ExportItem,
    ExternType, Module, SegmentMode,
};

impl From<BuildError> for CompileError {
    fn from(error: BuildError) -> Self {
        match error {
            // A limit of the format is the only one that a valid module reaches.
            BuildError::TooMany { what, limit } => Self::Limit { what, limit, found: limit + 1 },
            other => Self::Assembly { message: other.to_string() },
        }
    }
}

/// Writes everything but the code down as records.
pub(crate) fn tables(compiled: &CompiledModule<'_>, page: u32) -> Result<Tables, CompileError> {
    let CompiledModule { module, text, images } = compiled;
    let mut tables = Tables::default();
    let name = tables.add_text(module.names.module.unwrap_or(""))?;
    tables.module =
        ModuleRecord { name, start: module.start.map_or(NONE, |index| index.as_u32()).into() };
    types(&mut tables, compiled)?;
    imports(&mut tables, module)?;
    // Their names come before those of functions, which nobody needs before a backtrace.
    for export in &module.exports {
        let (kind, index) = match export.item {
            ExportItem::Func(index) => (extern_kind::FUNC, index.as_u32()),
            ExportItem::Table(index) => (extern_kind::TABLE, index.as_u32()),
            ExportItem::Memory(index) => (extern_kind::MEMORY, index.as_u32()),
            ExportItem::Global(index) => (extern_kind::GLOBAL, index.as_u32()),
            ExportItem::Tag(index) => (extern_kind::TAG, index.as_u32()),
        };
        let name = tables.add_text(export.name)?;
        tables.exports.push(ExportRecord { name, kind: kind.into(), index: index.into() });
    }

    for (number, range) in (0..).map(DefinedFuncIndex::from_u32).zip(&text.functions) {
        let index = module.func_index(number);
        let function = module.functions[index];
        let name = tables.add_text(module.names.function(index).unwrap_or(""))?;
        tables.functions.push(FunctionRecord {
            text: range.offset.into(),
            length: range.len.into(),
            name,
        });
        // Their numbers ascend with the functions.
        if function.func_ref.is_some() {
            tables.func_refs.push(FuncRefRecord {
                function: index.as_u32().into(),
                text: range.offset.into(),
                ty: function.ty.as_u32().into(),
            });
        }
    }
    definitions(&mut tables, module)?;
    for segment in &module.elements {
        element(&mut tables, module, segment)?;
    }
    for (index, segment) in module.data.iter().enumerate() {
        let (mode, memory, offset) = mode(&mut tables, &segment.mode, |memory| memory.as_u32())?;
        let in_image = index < images.covered && mode == segment_mode::ACTIVE;
        let bytes = if in_image { &[] } else { segment.bytes };
        let data = tables.add_data(bytes);
        tables.data_segments.push(DataSegmentRecord {
            mode: mode.into(),
            memory: memory.into(),
            offset,
            data: data.into(),
            length: (bytes.len() as u64).into(),
            in_image: u32::from(in_image).into(),
            reserved: 0.into(),
        });
    }
    for image in &images.runs {
        let bytes = tables.add_image_bytes(image.offset, &image.bytes, page);
        tables.images.push(ImageRecord {
            memory: image.memory.as_u32().into(),
            reserved: 0.into(),
            address: image.offset.into(),
            bytes: bytes.into(),
            length: (image.bytes.len() as u64).into(),
        });
    }
    let sites = text.sites.iter().map(|site| Site {
        text: site.text,
        wasm: site.wasm,
        trap: site.trap.map_or(0, |trap| trap.code()),
    });
    tables.set_sites(&sites.collect::<Vec<_>>())?;
    tables.handlers.extend(text.handlers.iter().map(|handler| HandlerRecord {
        call: handler.call.into(),
        handler: handler.handler.into(),
        tag: handler.tag.map_or(NONE, |tag| tag.as_u32()).into(),
        frame: handler.frame.into(),
        vmctx: handler.vmctx.into(),
    }));
    tables.inlined.extend(text.sites.iter().filter_map(|site| {
        let inlined = site.inlined?;
        // No instruction that traps begins at the last byte of a call, as one may where it returns to.
        let text = site.text - u32::from(site.trap.is_none());
        Some(InlinedRecord {
            text: text.into(),
            function: inlined.function.as_u32().into(),
            call: inlined.call.into(),
        })
    }));
    Ok(tables)
}

/// Equal types have the same trampolines.
fn types(tables: &mut Tables, compiled: &CompiledModule<'_>) -> Result<(), CompileError> {
    let CompiledModule { module, text, .. } = compiled;
    for (index, ty) in &module.types {
        let canonical = module.canonical_types[index];
        let trampolines = text
            .trampolines
            .binary_search_by_key(&canonical, |(ty, _)| *ty)
            .map(|position| text.trampolines[position].1)
            .unwrap_or_default();
        let offset = |range: Option<crate::link::TextRange>| range.map(|range| range.offset);
        let group = module.group_of[index.as_u32() as usize];
        tables.add_type(ty, group, offset(trampolines.entry), offset(trampolines.exit))?;
    }
    Ok(())
}

fn imports(tables: &mut Tables, module: &Module<'_>) -> Result<(), CompileError> {
    for import in &module.imports {
        let ty = match &import.ty {
            ExternType::Func(index) => ExternRecord::func(index.as_u32()),
            ExternType::Table(ty) => ExternRecord::table(ty),
            ExternType::Memory(ty) => ExternRecord::memory(ty),
            ExternType::Global(ty) => ExternRecord::global(ty),
            ExternType::Tag(index) => ExternRecord::tag(index.as_u32()),
        };
        let record = ImportRecord {
            module: tables.add_text(import.module)?,
            name: tables.add_text(import.name)?,
            ty,
        };
        tables.imports.push(record);
    }
    Ok(())
}

fn definitions(tables: &mut Tables, module: &Module<'_>) -> Result<(), CompileError> {
    for (index, ty) in module.tables.iter().skip(module.imported_tables as usize) {
        let ty = ExternRecord::table(ty);
        let init = match &module.table_inits[index] {
            Some(init) => add_const(tables, init)?,
            None => Span::default(),
        };
        tables.tables.push(DefinedRecord { ty, init });
    }
    for ty in module.tags.values().skip(module.imported_tags as usize) {
        let ty = ExternRecord::tag(ty.as_u32());
        tables.tags.push(DefinedRecord { ty, init: Span::default() });
    }
    for ty in module.memories.values().skip(module.imported_memories as usize) {
        let ty = ExternRecord::memory(ty);
        tables.memories.push(DefinedRecord { ty, init: Span::default() });
    }
    for global in module.globals.values() {
        if let Some(init) = &global.init {
            let init = add_const(tables, init)?;
            tables.globals.push(DefinedRecord { ty: ExternRecord::global(&global.ty), init });
        }
    }
    Ok(())
}

fn element(
    tables: &mut Tables,
    module: &Module<'_>,
    segment: &ElementSegment,
) -> Result<(), CompileError> {
    let (mode, table, offset) = mode(tables, &segment.mode, |table| table.as_u32())?;
    let (kind, items) = match &segment.items {
        ElementItems::Funcs(functions) => {
            let items = functions.iter().map(|index| {
                let number = module.functions[*index].func_ref;
                let number = number.map_or(NONE, |number| number.as_u32());
                ItemRecord { first: index.as_u32().into(), count: number.into() }
            });
            (item_kind::FUNCTIONS, tables.add_items(items)?)
        }
        ElementItems::Exprs(expressions) => {
            let mut items = Vec::with_capacity(expressions.len());
            for expression in expressions {
                let Span { start, count } = add_const(tables, expression)?;
                items.push(ItemRecord { first: start, count });
            }
            (item_kind::EXPRESSIONS, tables.add_items(items)?)
        }
    };
    tables.elements.push(ElementRecord {
        mode: mode.into(),
        table: table.into(),
        offset,
        ty: segment.ty.code().into(),
        item_kind: kind.into(),
        items,
    });
    Ok(())
}

/// The mode of a segment, its target, and where in the target it goes.
fn mode<Target: Copy>(
    tables: &mut Tables,
    mode: &SegmentMode<Target>,
    number: impl Fn(Target) -> u32,
) -> Result<(u32, u32, Span), CompileError> {
    Ok(match mode {
        SegmentMode::Passive => (segment_mode::PASSIVE, 0, Span::default()),
        SegmentMode::Declared => (segment_mode::DECLARED, 0, Span::default()),
        SegmentMode::Active { target, offset } => {
            (segment_mode::ACTIVE, number(*target), add_const(tables, offset)?)
        }
    })
}

fn add_const(tables: &mut Tables, expression: &ConstExpr) -> Result<Span, BuildError> {
    tables.add_const(expression.ops().iter().map(|op| const_op(*op)))
}

fn const_op(op: ConstOp) -> ConstOpRecord {
    let (op, index, value) = match op {
        ConstOp::I32(value) => (const_op::I32, 0, value.cast_unsigned().into()),
        ConstOp::I64(value) => (const_op::I64, 0, value.cast_unsigned().into()),
        ConstOp::F32(bits) => (const_op::F32, 0, bits.into()),
        ConstOp::F64(bits) => (const_op::F64, 0, bits.into()),
        ConstOp::V128(bits) => (const_op::V128, 0, bits),
        ConstOp::RefNull(ty) => (const_op::REF_NULL, ty.code(), 0),
        ConstOp::RefFunc(function) => (const_op::REF_FUNC, function.as_u32(), 0),
        ConstOp::GlobalGet(global) => (const_op::GLOBAL_GET, global.as_u32(), 0),
        ConstOp::I32Arithmetic(Arithmetic::Add) => (const_op::I32_ADD, 0, 0),
        ConstOp::I32Arithmetic(Arithmetic::Sub) => (const_op::I32_SUB, 0, 0),
        ConstOp::I32Arithmetic(Arithmetic::Mul) => (const_op::I32_MUL, 0, 0),
        ConstOp::I64Arithmetic(Arithmetic::Add) => (const_op::I64_ADD, 0, 0),
        ConstOp::I64Arithmetic(Arithmetic::Sub) => (const_op::I64_SUB, 0, 0),
        ConstOp::I64Arithmetic(Arithmetic::Mul) => (const_op::I64_MUL, 0, 0),
        ConstOp::StructNew(ty) => (const_op::STRUCT_NEW, ty.as_u32(), 0),
        ConstOp::StructNewDefault(ty) => (const_op::STRUCT_NEW_DEFAULT, ty.as_u32(), 0),
        ConstOp::ArrayNew(ty) => (const_op::ARRAY_NEW, ty.as_u32(), 0),
        ConstOp::ArrayNewDefault(ty) => (const_op::ARRAY_NEW_DEFAULT, ty.as_u32(), 0),
        ConstOp::ArrayNewFixed(ty, length) => {
            (const_op::ARRAY_NEW_FIXED, ty.as_u32(), length.into())
        }
        ConstOp::RefI31 => (const_op::REF_I31, 0, 0),
        ConstOp::AnyConvertExtern => (const_op::ANY_CONVERT_EXTERN, 0, 0),
        ConstOp::ExternConvertAny => (const_op::EXTERN_CONVERT_ANY, 0, 0),
    };
    #[expect(clippy::cast_possible_truncation, reason = "a half is taken")]
    let (low, high) = (value as u64, (value >> 64) as u64);
    ConstOpRecord { op: op.into(), index: index.into(), low: low.into(), high: high.into() }
}
