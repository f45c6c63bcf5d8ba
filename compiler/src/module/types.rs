//! From wasmparser's types to the types that an artifact can hold. What has no
//! counterpart there belongs to proposals that are not compiled.

use cwasm_artifact::types::{
    GlobalType, HeapType, IndexType, Limits, MemoryType, RefType, TableType, TypeRef, ValType,
};

use super::index::TypeIndex;

/// The type of something imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternType {
    /// A function of this type.
    Func(TypeIndex),
    /// A table.
    Table(TableType),
    /// A memory.
    Memory(MemoryType),
    /// A global.
    Global(GlobalType),
    /// A tag whose values are the parameters of this type.
    Tag(TypeIndex),
}

pub(crate) fn val_type(ty: wasmparser::ValType) -> Option<ValType> {
    Some(match ty {
        wasmparser::ValType::I32 => ValType::I32,
        wasmparser::ValType::I64 => ValType::I64,
        wasmparser::ValType::F32 => ValType::F32,
        wasmparser::ValType::F64 => ValType::F64,
        wasmparser::ValType::V128 => ValType::V128,
        wasmparser::ValType::Ref(reference) => return ref_type(reference),
    })
}

pub(super) fn ref_type(ty: wasmparser::RefType) -> Option<ValType> {
    let heap = heap_type(ty.heap_type())?;
    Some(ValType::Ref(RefType { nullable: ty.is_nullable(), heap }))
}

/// The heap type of a type of the module; those of the garbage collection proposal are to be added here.
fn heap_type(ty: wasmparser::HeapType) -> Option<HeapType> {
    use wasmparser::AbstractHeapType as Abstract;
    match ty {
        wasmparser::HeapType::Abstract { shared: false, ty } => Some(match ty {
            Abstract::Func => HeapType::Func,
            Abstract::NoFunc => HeapType::NoFunc,
            Abstract::Extern => HeapType::Extern,
            Abstract::NoExtern => HeapType::NoExtern,
            Abstract::Exn => HeapType::Exn,
            Abstract::NoExn => HeapType::NoExn,
            _ => return None,
        }),
        wasmparser::HeapType::Concrete(index) => {
            index.as_module_index().map(|index| HeapType::Concrete(TypeRef::of_module(index)))
        }
        _ => None,
    }
}

pub(super) fn table_type(ty: wasmparser::TableType) -> Option<TableType> {
    let limits = Limits { min: ty.initial, max: ty.maximum };
    Some(TableType { element: ref_type(ty.element_type)?, limits, index: index_type(ty.table64) })
}

pub(super) fn memory_type(ty: wasmparser::MemoryType) -> MemoryType {
    MemoryType {
        limits: Limits { min: ty.initial, max: ty.maximum },
        index: index_type(ty.memory64),
        // Validation allows 0 and 16.
        page_size_log2: ty.page_size_log2.map_or(MemoryType::PAGE_SIZE_LOG2, |log2| {
            u8::try_from(log2).unwrap_or(MemoryType::PAGE_SIZE_LOG2)
        }),
        shared: ty.shared,
    }
}

fn index_type(is_64: bool) -> IndexType {
    if is_64 { IndexType::I64 } else { IndexType::I32 }
}

pub(super) fn global_type(ty: wasmparser::GlobalType) -> Option<GlobalType> {
    Some(GlobalType { value: val_type(ty.content_type)?, mutable: ty.mutable })
}
