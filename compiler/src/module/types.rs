//! From wasmparser's types to the types that an artifact can hold. What has no
//! counterpart there belongs to proposals that are not compiled.

use cranelift_codegen::entity::PrimaryMap;
use cwasm_artifact::types::{
    CompositeType, FieldType, FuncType, GlobalType, HeapType, IndexType, Limits, MemoryType,
    RefType, StorageType, StructType, SubType, TableType, TypeRef, ValType,
};
use wasmparser::CompositeInnerType;

use super::index::TypeIndex;

/// What is known of the types that a module declares while others are read.
pub(crate) trait Declared {
    /// What refers to the type with this index.
    fn heap_type(&self, index: u32) -> Option<HeapType>;
}

impl Declared for PrimaryMap<TypeIndex, SubType> {
    fn heap_type(&self, index: u32) -> Option<HeapType> {
        let ty = self.get(TypeIndex::from_u32(index))?;
        Some(ty.heap_type(TypeRef::of_module(index)))
    }
}

/// In the order of the types.
impl Declared for Vec<HeapType> {
    fn heap_type(&self, index: u32) -> Option<HeapType> {
        self.get(index as usize).copied()
    }
}

/// What refers to a type, which has this index.
pub(super) fn heap_type_of(ty: &wasmparser::SubType, index: u32) -> Option<HeapType> {
    let name = TypeRef::of_module(index);
    Some(match ty.composite_type.inner {
        CompositeInnerType::Func(_) => HeapType::Concrete(name),
        CompositeInnerType::Struct(_) => HeapType::ConcreteStruct(name),
        CompositeInnerType::Array(_) => HeapType::ConcreteArray(name),
        CompositeInnerType::Cont(_) => return None,
    })
}

/// A declared type.
pub(super) fn sub_type(ty: &wasmparser::SubType, declared: &impl Declared) -> Option<SubType> {
    let values = |types: &[wasmparser::ValType]| {
        types.iter().map(|ty| val_type(*ty, declared)).collect::<Option<Vec<_>>>()
    };
    let field = |ty: &wasmparser::FieldType| {
        let storage = match ty.element_type {
            wasmparser::StorageType::I8 => StorageType::I8,
            wasmparser::StorageType::I16 => StorageType::I16,
            wasmparser::StorageType::Val(ty) => val_type(ty, declared)?.into(),
        };
        Some(FieldType { storage, mutable: ty.mutable })
    };
    let composite = match &ty.composite_type.inner {
        CompositeInnerType::Func(ty) => CompositeType::Func(FuncType {
            params: values(ty.params())?,
            results: values(ty.results())?,
        }),
        CompositeInnerType::Struct(ty) => CompositeType::Struct(StructType {
            fields: ty.fields.iter().map(field).collect::<Option<_>>()?,
        }),
        CompositeInnerType::Array(ty) => CompositeType::Array(field(&ty.0)?),
        CompositeInnerType::Cont(_) => return None,
    };
    let supertype = match ty.supertype_idxs[..] {
        [] => None,
        [index] => Some(TypeRef::of_module(index.unpack().as_module_index()?)),
        // No proposal that is compiled allows several.
        _ => return None,
    };
    Some(SubType { composite, is_final: ty.is_final, supertype })
}

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

pub(crate) fn val_type(ty: wasmparser::ValType, declared: &impl Declared) -> Option<ValType> {
    Some(match ty {
        wasmparser::ValType::I32 => ValType::I32,
        wasmparser::ValType::I64 => ValType::I64,
        wasmparser::ValType::F32 => ValType::F32,
        wasmparser::ValType::F64 => ValType::F64,
        wasmparser::ValType::V128 => ValType::V128,
        wasmparser::ValType::Ref(reference) => ref_type(reference, declared)?.into(),
    })
}

pub(crate) fn ref_type(ty: wasmparser::RefType, declared: &impl Declared) -> Option<RefType> {
    Some(RefType { nullable: ty.is_nullable(), heap: heap_type(ty.heap_type(), declared)? })
}

pub(crate) fn heap_type(ty: wasmparser::HeapType, declared: &impl Declared) -> Option<HeapType> {
    use wasmparser::AbstractHeapType as Abstract;
    match ty {
        wasmparser::HeapType::Abstract { shared: false, ty } => Some(match ty {
            Abstract::Func => HeapType::Func,
            Abstract::NoFunc => HeapType::NoFunc,
            Abstract::Extern => HeapType::Extern,
            Abstract::NoExtern => HeapType::NoExtern,
            Abstract::Exn => HeapType::Exn,
            Abstract::NoExn => HeapType::NoExn,
            Abstract::Any => HeapType::Any,
            Abstract::Eq => HeapType::Eq,
            Abstract::I31 => HeapType::I31,
            Abstract::Struct => HeapType::Struct,
            Abstract::Array => HeapType::Array,
            Abstract::None => HeapType::None,
            _ => return None,
        }),
        wasmparser::HeapType::Concrete(index) => {
            index.as_module_index().and_then(|index| declared.heap_type(index))
        }
        _ => None,
    }
}

pub(super) fn table_type(ty: wasmparser::TableType, declared: &impl Declared) -> Option<TableType> {
    let limits = Limits { min: ty.initial, max: ty.maximum };
    let element = ref_type(ty.element_type, declared)?.into();
    Some(TableType { element, limits, index: index_type(ty.table64) })
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

pub(super) fn global_type(
    ty: wasmparser::GlobalType,
    declared: &impl Declared,
) -> Option<GlobalType> {
    Some(GlobalType { value: val_type(ty.content_type, declared)?, mutable: ty.mutable })
}
