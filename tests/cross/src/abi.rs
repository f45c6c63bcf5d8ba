//! The constants of the format and the ABI as a header in C, from their own definitions.

use std::fmt::Write as _;
use std::mem::offset_of;

use cwasm_artifact::abi::builtins::Builtin;
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::abi::vmctx::{
    self, func_import, func_ref, host_context, memory_definition, memory_slot, store_context,
    table_definition,
};
use cwasm_artifact::header::{HEADER_OFFSET, Header, Section};
use cwasm_artifact::records::{NONE, TypeRecord, extern_kind};

/// The text of the header.
#[must_use]
pub fn header() -> String {
    let mut text = String::from("/* Written by the test. */\n");
    let mut define = |name: &str, value: u64| {
        let _ = writeln!(text, "#define {name} UINT64_C({value})");
    };
    define("HEADER_OFFSET", HEADER_OFFSET as u64);
    define("HEADER_SECTIONS", offset_of!(Header, sections) as u64);
    for section in Section::ALL {
        let name = section.name();
        let name = name.strip_prefix(".cwasm.").or_else(|| name.strip_prefix('.')).unwrap_or(name);
        define(&format!("SECTION_{}", name.to_uppercase()), section as u64);
    }
    define("NONE", NONE.into());
    define("TYPE_RECORD_SIZE", size_of::<TypeRecord>() as u64);
    for (name, kind) in [
        ("FUNC", extern_kind::FUNC),
        ("TABLE", extern_kind::TABLE),
        ("MEMORY", extern_kind::MEMORY),
        ("GLOBAL", extern_kind::GLOBAL),
        ("TAG", extern_kind::TAG),
    ] {
        define(&format!("KIND_{name}"), kind.into());
    }
    for (name, value) in [
        ("VALUE_SIZE", vmctx::VALUE_SIZE),
        ("VMCTX_MAGIC", vmctx::VMCTX_MAGIC),
        ("HOST_CONTEXT_MAGIC", vmctx::HOST_CONTEXT_MAGIC),
        ("VMCTX_MAGIC_OFFSET", vmctx::MAGIC),
        ("VMCTX_STORE_CONTEXT", vmctx::STORE_CONTEXT),
        ("VMCTX_BUILTINS", vmctx::BUILTINS),
        ("VMCTX_HEAD_SIZE", vmctx::VMCTX_HEAD_SIZE),
        ("STORE_CONTEXT_STACK_LIMIT", store_context::STACK_LIMIT),
        ("STORE_CONTEXT_ENTRY_FP", store_context::ENTRY_FP),
        ("STORE_CONTEXT_ENTRY_SP", store_context::ENTRY_SP),
        ("STORE_CONTEXT_ENTRY_HANDLER", store_context::ENTRY_HANDLER),
        ("STORE_CONTEXT_SIZE", store_context::SIZE),
        ("HOST_CONTEXT_CALL", host_context::CALL),
        ("HOST_RETURNED", host_context::RETURNED.into()),
        ("FUNC_REF_CODE", func_ref::CODE),
        ("FUNC_REF_VMCTX", func_ref::VMCTX),
        ("FUNC_REF_TYPE_ID", func_ref::TYPE_ID),
        ("FUNC_REF_ENTRY", func_ref::ENTRY),
        ("FUNC_REF_SIZE", func_ref::SIZE),
        ("FUNC_IMPORT_FUNC_REF", func_import::FUNC_REF),
        ("FUNC_IMPORT_SIZE", func_import::SIZE),
        ("MEMORY_SLOT_BASE", memory_slot::BASE),
        ("MEMORY_SLOT_DEFINITION", memory_slot::DEFINITION),
        ("MEMORY_DEFINITION_BASE", memory_definition::BASE),
        ("MEMORY_DEFINITION_BYTE_LENGTH", memory_definition::BYTE_LENGTH),
        ("TABLE_DEFINITION_ELEMENTS", table_definition::ELEMENTS),
        ("TABLE_DEFINITION_LENGTH", table_definition::LENGTH),
        ("BUILTIN_COUNT", count(Builtin::ALL.len())),
        ("TRAP_MEMORY_OUT_OF_BOUNDS", Trap::MemoryOutOfBounds.code().into()),
        ("TRAP_TABLE_OUT_OF_BOUNDS", Trap::TableOutOfBounds.code().into()),
    ] {
        define(name, value.into());
    }
    define("GUARDED_SPACE", vmctx::GUARDED_SPACE);
    for builtin in Builtin::ALL {
        define(&format!("BUILTIN_{}", builtin.name().to_uppercase()), *builtin as u64);
    }
    text
}

fn count(number: usize) -> u32 {
    u32::try_from(number).expect("there are few of them")
}
