//! The ABI fingerprint: a digest of the ABI's own definition.
//!
//! [`describe`] writes the ABI down as text, from the very constants that the
//! compiler and the loader use; the fingerprint is the hash of that text. Changing a
//! constant, adding a builtin or moving a field needs another fingerprint: nothing
//! works before it is written down here, in any build with debug assertions. What constants cannot
//! express is said in words in `CONVENTIONS`; change the words with the meaning.

use std::fmt::Write as _;
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use super::builtins::Builtin;
use super::traps::Trap;
use super::{WASM_CALLING_CONVENTION, vmctx};
use crate::hex::{Hex, parse_digest};

/// Agreements that no constant expresses. Part of the fingerprint.
const CONVENTIONS: &str = "\
wasm function: (vmctx pointer, params) -> results
entry trampoline: C (callee vmctx, callee code, values, store context) -> u8; 1 returned, 0 unwound
exit trampoline: wasm function whose vmctx is a host context; host function is C (host context, values) -> u8; 0 traps, 2 throws the exception that the store holds
exit trampolines: for the types of imports, and for all types where a function calls by a reference; no other code calls a host function
throwing: the builtin throw takes the exception, or null for the one that the store holds; it returns if no handler is found, and the caller traps
handlers: resumed with sp and fp of their call and the exception in the first register for payloads; no other register is kept
references to exceptions and objects: during a call of a wasm function, those that are needed after it are in the frame of the caller, not in registers; any address inside of an object keeps it
objects: allocated between objects_next and objects_end, or by object_new; written completely before anything else runs
exceptions: the tag and the values are written by code; one that was caught without its reference is given back
unwinding: sp, fp and pc are set to the entry trampoline's recorded values; no other register is kept
frames: frame pointer chain; return address above the saved frame pointer
references: 64-bit pointers, zero is null; references to functions point to a func_ref, exnref to an exception; all others are tagged
table elements: one reference each; no lazy initialisation
lengths of shared memories change at any time; they are read and written atomically
vmctx order: head, memories, defined globals, tables, imported globals, tags, imported functions, type ids, func refs
";

/// The identity of an ABI. Artifacts load only where it is equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl core::fmt::Display for Fingerprint {
    /// The first eight bytes in hex: enough to tell two ABIs apart in a message.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        Hex(&self.0[..8]).fmt(f)
    }
}

impl core::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&Hex(&self.0), f)
    }
}

/// The hash of what [`describe`] says. To write and hash that takes 2% of the time of a small program.
const WRITTEN: &str = "34e8c0efbb55fe30f2df90af7815318859af33b89502a807d2f26534e3d0141c";

/// The fingerprint of the ABI in this module.
///
/// # Panics
/// In builds with debug assertions, if the ABI was changed and the fingerprint was not.
#[must_use]
pub fn fingerprint() -> Fingerprint {
    const FINGERPRINT: Fingerprint =
        Fingerprint(parse_digest(WRITTEN).expect("it is written in hexadecimal digits"));
    if cfg!(debug_assertions) {
        static COMPUTED: OnceLock<Fingerprint> = OnceLock::new();
        let computed = COMPUTED.get_or_init(compute);
        assert!(
            *computed == FINGERPRINT,
            "the ABI was changed: its fingerprint is {}",
            Hex(&computed.0)
        );
    }
    FINGERPRINT
}

fn compute() -> Fingerprint {
    Fingerprint(Sha256::digest(describe().as_bytes()).into())
}

/// The ABI as text, one fact per line.
#[must_use]
pub fn describe() -> String {
    use vmctx::{
        exception, func_import, func_ref, host_context, memory_definition, memory_slot,
        store_context, table_definition,
    };
    let mut text = String::from(CONVENTIONS);
    let mut fact = |name: &str, value: u64| {
        let _ = writeln!(text, "{name} = {value}");
    };
    fact("value size", vmctx::VALUE_SIZE.into());
    fact("vmctx magic", vmctx::VMCTX_MAGIC.into());
    fact("host context magic", vmctx::HOST_CONTEXT_MAGIC.into());
    fact("vmctx.magic", vmctx::MAGIC.into());
    fact("vmctx.store_context", vmctx::STORE_CONTEXT.into());
    fact("vmctx.builtins", vmctx::BUILTINS.into());
    fact("vmctx head size", vmctx::VMCTX_HEAD_SIZE.into());
    fact("store_context.stack_limit", store_context::STACK_LIMIT.into());
    fact("below the stack limit", store_context::BELOW_LIMIT.into());
    fact("store_context.epoch_deadline", store_context::EPOCH_DEADLINE.into());
    fact("store_context.epoch_counter", store_context::EPOCH_COUNTER.into());
    fact("store_context.fuel", store_context::FUEL.into());
    fact("store_context.entry_fp", store_context::ENTRY_FP.into());
    fact("store_context.entry_sp", store_context::ENTRY_SP.into());
    fact("store_context.entry_handler", store_context::ENTRY_HANDLER.into());
    fact("store_context.exit_fp", store_context::EXIT_FP.into());
    fact("store_context.exit_return", store_context::EXIT_RETURN.into());
    fact("store_context.objects_next", store_context::OBJECTS_NEXT.into());
    fact("store_context.objects_end", store_context::OBJECTS_END.into());
    fact("store_context.type_infos", store_context::TYPE_INFOS.into());
    fact("store_context size", store_context::SIZE.into());
    fact("host_context.call", host_context::CALL.into());
    fact("host_context size", host_context::SIZE.into());
    fact("exception.tag", exception::TAG.into());
    fact("exception.shared", exception::SHARED.into());
    fact("exception.values", exception::VALUES.into());
    fact("func_ref.code", func_ref::CODE.into());
    fact("func_ref.vmctx", func_ref::VMCTX.into());
    fact("func_ref.type_id", func_ref::TYPE_ID.into());
    fact("func_ref.entry", func_ref::ENTRY.into());
    fact("func_ref size", func_ref::SIZE.into());
    fact("func_import.code", func_import::CODE.into());
    fact("func_import.vmctx", func_import::VMCTX.into());
    fact("func_import.func_ref", func_import::FUNC_REF.into());
    fact("func_import size", func_import::SIZE.into());
    fact("memory_slot.base", memory_slot::BASE.into());
    fact("memory_slot.definition", memory_slot::DEFINITION.into());
    fact("memory_slot size", memory_slot::SIZE.into());
    fact("memory_definition.base", memory_definition::BASE.into());
    fact("memory_definition.byte_length", memory_definition::BYTE_LENGTH.into());
    fact("table_definition.elements", table_definition::ELEMENTS.into());
    fact("table_definition.length", table_definition::LENGTH.into());
    fact("guard size", vmctx::GUARD_SIZE);
    super::memory::describe(&mut text);
    super::object::describe(&mut text);
    let _ = writeln!(text, "wasm calling convention = {WASM_CALLING_CONVENTION}");
    for builtin in Builtin::ALL {
        let _ = writeln!(
            text,
            "builtin {} = {}{} {:?} -> {:?}",
            *builtin as u32,
            builtin.name(),
            if builtin.is_wasm_function() { " (wasm function)" } else { "" },
            builtin.params(),
            builtin.result()
        );
    }
    for trap in Trap::ALL {
        let _ = writeln!(text, "trap {} = {trap}", trap.code());
    }
    text
}

#[cfg(test)]
mod tests {
    /// In every build.
    #[test]
    fn the_fingerprint_is_that_of_this_abi() {
        assert_eq!(super::Hex(&super::compute().0).to_string(), super::WRITTEN);
    }

    #[test]
    fn every_trap_and_builtin_is_described() {
        let text = super::describe();
        assert!(text.contains("memory_grow"));
        assert!(text.contains("trap 14 = error in a host function"));
    }
}
