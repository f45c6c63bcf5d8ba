//! Trampolines between the host's calling convention and wasm's, one of each
//! kind for each function type. `cwasm_artifact::abi` has their contract.
//!
//! An entry trampoline calls wasm such that a trap can resume it at its unwind
//! handler: the loader sets the recorded stack pointer and frame pointer, and
//! jumps. Since such a call counts as changing every register, the trampoline
//! has saved on its stack what its own caller expects to be preserved.

use cranelift_codegen::ir::{
    self, AbiParam, BlockArg, ExceptionTableData, ExceptionTableItem, InstBuilder as _,
    MemFlagsData, StackSlotData, StackSlotKind, Value, condcodes::IntCC, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cwasm_artifact::abi::builtins::Builtin;
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::abi::vmctx::{
    BUILTINS, STORE_CONTEXT, VALUE_SIZE, host_context, store_context,
};
use cwasm_artifact::types::{FuncType, ValType};

use crate::translate::{builtin_signature, clif_type, stack_limit, trap_code, wasm_signature};

/// Which way a trampoline goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the host into wasm.
    Entry,
    /// From wasm to a host function.
    Exit,
}

/// Builds a trampoline for functions of a type into `func`, which must be empty.
pub(crate) fn build(
    direction: Direction,
    ty: &FuncType,
    isa: &dyn TargetIsa,
    func: &mut ir::Function,
    context: &mut FunctionBuilderContext,
) {
    match direction {
        Direction::Entry => entry(ty, isa, func, context),
        Direction::Exit => exit(ty, isa, func, context),
    }
}

/// The offset of a field or slot, as an instruction takes it.
fn offset32(offset: u32) -> i32 {
    // A signature has at most 1000 parameters and results.
    i32::try_from(offset).expect("offsets in small structures fit in 31 bits")
}

fn trusted() -> MemFlagsData {
    MemFlagsData::trusted().with_endianness(ir::Endianness::Little)
}

fn load_values(builder: &mut FunctionBuilder<'_>, types: &[ValType], slots: Value) -> Vec<Value> {
    (0u32..)
        .zip(types)
        .map(|(number, ty)| {
            let offset = offset32(number * VALUE_SIZE);
            builder.ins().load(clif_type(*ty), trusted(), slots, offset)
        })
        .collect()
}

fn store_values(builder: &mut FunctionBuilder<'_>, values: &[Value], slots: Value) {
    for (number, value) in (0u32..).zip(values) {
        builder.ins().store(trusted(), *value, slots, offset32(number * VALUE_SIZE));
    }
}

/// `(callee vmctx, callee code, values, store context) -> u8`
fn entry(
    ty: &FuncType,
    isa: &dyn TargetIsa,
    func: &mut ir::Function,
    context: &mut FunctionBuilderContext,
) {
    func.signature = ir::Signature::new(isa.default_call_conv());
    func.signature.params = vec![AbiParam::new(types::I64); 4];
    func.signature.returns = vec![AbiParam::new(types::I8)];
    let mut builder = FunctionBuilder::new(func, context);
    let block = builder.create_block();
    builder.append_block_params_for_function_params(block);
    builder.switch_to_block(block);
    builder.seal_block(block);
    let [vmctx, code, values, store] = *builder.block_params(block) else {
        unreachable!("the signature has four parameters");
    };

    // A block that a handler is named by must not be the first.
    let calling = builder.create_block();
    builder.ins().jump(calling, &[]);
    builder.switch_to_block(calling);
    builder.seal_block(calling);

    let returned = builder.create_block();
    let unwound = builder.create_block();
    for ty in &ty.results {
        builder.append_block_param(returned, clif_type(*ty));
    }

    let mut arguments = vec![vmctx];
    arguments.extend(load_values(&mut builder, &ty.params, values));

    let fp = builder.ins().get_frame_pointer(types::I64);
    let sp = builder.ins().get_stack_pointer(types::I64);
    let handler = builder.ins().get_exception_handler_address(types::I64, calling, 0);
    for (value, offset) in [
        (fp, store_context::ENTRY_FP),
        (sp, store_context::ENTRY_SP),
        (handler, store_context::ENTRY_HANDLER),
    ] {
        builder.ins().store(trusted(), value, store, offset32(offset));
    }

    let signature = builder.import_signature(wasm_signature(ty));
    let results: Vec<BlockArg> =
        (0u32..).zip(&ty.results).map(|(number, _)| BlockArg::TryCallRet(number)).collect();
    let returned_call = builder.func.dfg.block_call(returned, &results);
    let unwound_call = builder.func.dfg.block_call(unwound, &[]);
    let table = builder.func.dfg.exception_tables.push(ExceptionTableData::new(
        signature,
        returned_call,
        [ExceptionTableItem::Default(unwound_call)],
    ));
    builder.ins().try_call_indirect(code, &arguments, table);
    builder.seal_block(returned);
    builder.seal_block(unwound);

    builder.switch_to_block(returned);
    let results = builder.block_params(returned).to_vec();
    store_values(&mut builder, &results, values);
    let one = builder.ins().iconst(types::I8, 1);
    builder.ins().return_(&[one]);

    builder.switch_to_block(unwound);
    let zero = builder.ins().iconst(types::I8, 0);
    builder.ins().return_(&[zero]);
    builder.finalize(isa.frontend_config());
}

/// With more slots than this, an exit trampoline compares its frame with the stack limit.
/// A smaller one is a part of what the host function may use below the limit, which
/// nothing compares either: at least 8 KiB on the smallest stack.
const MAX_UNCHECKED_SLOTS: usize = 16;

/// A wasm function whose vmctx is a host context.
fn exit(
    ty: &FuncType,
    isa: &dyn TargetIsa,
    func: &mut ir::Function,
    context: &mut FunctionBuilderContext,
) {
    func.signature = wasm_signature(ty);
    if ty.params.len().max(ty.results.len()) > MAX_UNCHECKED_SLOTS {
        func.stack_limit = Some(stack_limit(func));
    }
    let mut host = ir::Signature::new(isa.default_call_conv());
    host.params = vec![AbiParam::new(types::I64); 2];
    host.returns = vec![AbiParam::new(types::I8)];

    let mut builder = FunctionBuilder::new(func, context);
    let block = builder.create_block();
    builder.append_block_params_for_function_params(block);
    builder.switch_to_block(block);
    builder.seal_block(block);
    let parameters = builder.block_params(block).to_vec();
    let vmctx = parameters[0];

    // At most 1000 slots of 16 bytes.
    let count = u32::try_from(ty.params.len().max(ty.results.len())).unwrap_or(u32::MAX);
    let slot = builder.create_sized_stack_slot(StackSlotData::new(
        StackSlotKind::ExplicitSlot,
        count.saturating_mul(VALUE_SIZE),
        4,
    ));
    let values = builder.ins().stack_addr(types::I64, slot, 0);
    store_values(&mut builder, &parameters[1..], values);
    // What comes after the call wants this only if the call failed. Kept in a register, the register's
    // own value would have to be saved, and its caller would wait for it.
    let kept =
        builder.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, 8, 3));
    builder.ins().stack_store(types::I64, vmctx, kept, 0);

    let store = builder.ins().load(types::I64, trusted(), vmctx, offset32(STORE_CONTEXT));
    // At the frame pointer is the caller's, and above that the return address.
    let fp = builder.ins().get_frame_pointer(types::I64);
    let caller_fp = builder.ins().load(types::I64, trusted(), fp, 0);
    let return_address = builder.ins().iadd_imm_s(fp, 8);
    builder.ins().store(trusted(), caller_fp, store, offset32(store_context::EXIT_FP));
    builder.ins().store(trusted(), return_address, store, offset32(store_context::EXIT_RETURN));

    let code = builder.ins().load(types::I64, trusted(), vmctx, offset32(host_context::CALL));
    let host = builder.import_signature(host);
    let call = builder.ins().call_indirect(host, code, &[vmctx, values]);
    let done = builder.inst_results(call)[0];
    let (failing, throwing) = (builder.create_block(), builder.create_block());
    let returning = builder.create_block();
    builder.set_cold_block(failing);
    builder.set_cold_block(throwing);
    let returned = builder.ins().icmp_imm_u(IntCC::Equal, done, i64::from(host_context::RETURNED));
    builder.ins().brif(returned, returning, &[], failing, &[]);
    builder.seal_block(returning);
    builder.seal_block(failing);

    builder.switch_to_block(failing);
    let threw = builder.ins().icmp_imm_u(IntCC::Equal, done, i64::from(host_context::THREW));
    builder.ins().trapz(threw, trap_code(Trap::HostError));
    builder.ins().jump(throwing, &[]);
    builder.seal_block(throwing);

    builder.switch_to_block(throwing);
    let vmctx = builder.ins().stack_load(types::I64, types::I64, kept, 0);
    let builtins = builder.ins().load(types::I64, trusted(), vmctx, offset32(BUILTINS));
    let code =
        builder.ins().load(types::I64, trusted(), builtins, offset32(Builtin::Throw.offset()));
    let signature = builtin_signature(Builtin::Throw, isa.default_call_conv());
    let signature = builder.import_signature(signature);
    // The one that the store holds.
    let null = builder.ins().iconst(types::I64, 0);
    builder.ins().call_indirect(signature, code, &[vmctx, null]);
    builder.ins().trap(trap_code(Trap::UncaughtException));

    builder.switch_to_block(returning);
    let results = load_values(&mut builder, &ty.results, values);
    builder.ins().return_(&results);
    builder.finalize(isa.frontend_config());
}
