//! How code reaches what the loader laid out: fields of the vmctx, the store
//! context, and the builtins.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::ir::Endianness;
use cranelift_codegen::ir::{
    self, AliasRegion, AliasRegionData, GlobalValueData, Inst, InstBuilder as _, MemFlagsData,
    SigRef, TrapCode, Value, types,
};
use cranelift_codegen::isa::CallConv;
use cwasm_artifact::abi::builtins::{Builtin, BuiltinType};
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::abi::vmctx;

use super::Translator;

/// The code generator's code for a trap. Those that it raises by itself have
/// codes of its own.
pub(crate) const fn trap_code(trap: Trap) -> TrapCode {
    match trap {
        Trap::MemoryOutOfBounds => TrapCode::HEAP_OUT_OF_BOUNDS,
        Trap::StackOverflow => TrapCode::STACK_OVERFLOW,
        Trap::IntegerOverflow => TrapCode::INTEGER_OVERFLOW,
        Trap::IntegerDivisionByZero => TrapCode::INTEGER_DIVISION_BY_ZERO,
        Trap::InvalidConversionToInteger => TrapCode::BAD_CONVERSION_TO_INTEGER,
        _ => TrapCode::unwrap_user(trap.code()),
    }
}

/// Offsets in the vmctx as the code generator takes them.
pub(super) fn offset32(offset: u32) -> i32 {
    // A vmctx has at most 1 GiB.
    i32::try_from(offset).expect("vmctx offsets fit in 31 bits")
}

/// Flags of loads from fields that never change while an instance lives.
pub(super) fn constant_field() -> MemFlagsData {
    field().with_readonly().with_can_move()
}

/// Flags of accesses to fields that may change.
pub(super) fn field() -> MemFlagsData {
    MemFlagsData::trusted().with_endianness(Endianness::Little)
}

/// The limit that Cranelift compares the stack pointer with in the prologue.
/// Works for host contexts too, which begin with the same fields.
pub(crate) fn stack_limit(func: &mut ir::Function) -> ir::GlobalValue {
    let constant = func.dfg.mem_flags.insert(constant_field()).expect("a new set has room");
    let changing = func.dfg.mem_flags.insert(field()).expect("a new set has room");
    let base = func.create_global_value(GlobalValueData::VMContext);
    let store = func.create_global_value(GlobalValueData::Load {
        base,
        offset: offset32(vmctx::STORE_CONTEXT).into(),
        global_type: types::I64,
        flags: constant,
    });
    func.create_global_value(GlobalValueData::Load {
        base: store,
        offset: offset32(vmctx::store_context::STACK_LIMIT).into(),
        global_type: types::I64,
        flags: changing,
    })
}

/// Kinds of memory that never overlap, for the optimiser.
#[derive(Clone, Copy)]
pub(super) struct Regions {
    /// Linear memories.
    pub(super) heap: AliasRegion,
    /// Elements of tables.
    pub(super) elements: AliasRegion,
    /// Sizes and addresses of memories and tables.
    pub(super) definitions: AliasRegion,
    /// Globals without a region of their own.
    pub(super) globals: AliasRegion,
    /// The store context.
    pub(super) store: AliasRegion,
    /// Objects that are collected.
    pub(super) objects: AliasRegion,
}

/// How many defined globals have an alias region each. The number of distinct flags in a function is limited; and the optimiser
/// keeps the last store to each region for each block, so that with 256 of them, a function of 300 kB took half a minute.
const GLOBAL_REGIONS: u32 = 32;

/// The number that the region of the first of them has.
const FIRST_GLOBAL: u32 = 0x100;

/// Whether a function accesses a global that has a region of its own.
pub(crate) fn accesses_globals(func: &ir::Function) -> bool {
    func.dfg.alias_regions.iter().any(|(_, region)| region.user_id >= FIRST_GLOBAL)
}

/// The vmctx that a function was called with.
pub(crate) fn vmctx_of(func: &ir::Function) -> Option<Value> {
    let position = func.signature.special_param_index(ir::ArgumentPurpose::VMContext)?;
    func.dfg.block_params(func.layout.entry_block()?).get(position).copied()
}

impl Regions {
    pub(super) fn declare(func: &mut ir::Function) -> Self {
        let mut next = 0;
        let mut region = |description: &'static str| {
            next += 1;
            let data = AliasRegionData { user_id: next, description: description.into() };
            func.dfg.alias_regions.insert(data)
        };
        Self {
            heap: region("linear memories"),
            elements: region("table elements"),
            definitions: region("memory and table definitions"),
            globals: region("globals"),
            store: region("store context"),
            objects: region("objects"),
        }
    }

    /// The region of a defined global. Imported globals may be one and the
    /// same, but never a global that this instance defines.
    pub(super) fn defined_global(self, func: &mut ir::Function, index: u32) -> AliasRegion {
        if index >= GLOBAL_REGIONS {
            return self.globals;
        }
        func.dfg.alias_regions.insert(AliasRegionData {
            user_id: FIRST_GLOBAL + index,
            description: "a defined global".into(),
        })
    }
}

impl Translator<'_, '_> {
    /// A field of the vmctx that never changes.
    ///
    /// It is loaded once, at the beginning of the function. The optimiser moves that to where the field is needed; of
    /// one load for each use it would make one as well, after looking at them all.
    pub(super) fn vmctx_field(&mut self, ty: ir::Type, offset: u32) -> Value {
        let (vmctx, builder) = (self.vmctx, &mut self.builder);
        *self.vmctx_fields.entry((ty, offset)).or_insert_with(|| {
            let (flags, offset) = (constant_field(), offset32(offset));
            let layout = &builder.func.layout;
            match layout.entry_block().and_then(|entry| layout.first_inst(entry)) {
                Some(first) => FuncCursor::new(builder.func)
                    .at_inst(first)
                    .ins()
                    .load(ty, flags, vmctx, offset),
                None => builder.ins().load(ty, flags, vmctx, offset),
            }
        })
    }

    /// The address of something inside the vmctx.
    pub(super) fn vmctx_address(&mut self, offset: u32) -> Value {
        self.builder.ins().iadd_imm_u(self.vmctx, i64::from(offset))
    }

    /// The address of the store context.
    pub(super) fn store_context(&mut self) -> Value {
        self.vmctx_field(types::I64, vmctx::STORE_CONTEXT)
    }

    /// Flags of accesses to the store context.
    pub(super) fn store_field(&self) -> MemFlagsData {
        field().with_alias_region(Some(self.regions.store))
    }

    /// Calls a builtin with the vmctx and these arguments.
    pub(super) fn builtin(&mut self, builtin: Builtin, arguments: &[Value]) -> Inst {
        let (signature, code) = self.builtin_code(builtin);
        let mut values = Vec::with_capacity(arguments.len() + 1);
        values.push(self.vmctx);
        values.extend_from_slice(arguments);
        self.save_fuel();
        let call = self.builder.ins().call_indirect(signature, code, &values);
        self.restore_fuel();
        call
    }

    /// The signature of a builtin, declared once in each function, and its address.
    pub(super) fn builtin_code(&mut self, builtin: Builtin) -> (SigRef, Value) {
        let signature = match self.builtins.get(&builtin) {
            Some(signature) => *signature,
            None => {
                let signature = self
                    .builder
                    .import_signature(builtin_signature(builtin, self.host_convention()));
                self.builtins.insert(builtin, signature);
                signature
            }
        };
        let array = self.vmctx_field(types::I64, vmctx::BUILTINS);
        let code = self.builder.ins().load(
            types::I64,
            constant_field(),
            array,
            offset32(builtin.offset()),
        );
        (signature, code)
    }

    /// Calls a builtin that returns something.
    pub(super) fn builtin_value(&mut self, builtin: Builtin, arguments: &[Value]) -> Value {
        let call = self.builtin(builtin, arguments);
        self.builder.inst_results(call)[0]
    }

    /// Calls a builtin that returns zero when the program must trap.
    pub(super) fn builtin_or_trap(&mut self, builtin: Builtin, arguments: &[Value], trap: Trap) {
        let done = self.builtin_value(builtin, arguments);
        self.builder.ins().trapz(done, trap_code(trap));
    }

    /// A number as a builtin takes it.
    pub(super) fn u32_constant(&mut self, value: u32) -> Value {
        self.builder.ins().iconst(types::I32, i64::from(value))
    }

    fn host_convention(&self) -> CallConv {
        self.env.isa.default_call_conv()
    }
}

/// The signature of a builtin, on a host with this calling convention.
pub(crate) fn builtin_signature(builtin: Builtin, host: CallConv) -> ir::Signature {
    let convention = if builtin.is_wasm_function() { CallConv::Tail } else { host };
    let clif = |ty: &BuiltinType| {
        ir::AbiParam::new(match ty {
            BuiltinType::I32 => types::I32,
            BuiltinType::I64 | BuiltinType::Pointer => types::I64,
        })
    };
    let mut signature = ir::Signature::new(convention);
    signature.params.extend(builtin.params().iter().map(clif));
    signature.returns.extend(builtin.result().iter().map(clif));
    signature
}
