//! One function body from wasm to Cranelift's intermediate form.
//!
//! Each operator is read, validated and translated before the next is read. The
//! operators are dispatched by family, a file per family:
//!
//! * [`control`]: blocks, branches, `return`, `unreachable`;
//! * [`local`]: locals, constants, `drop` and `select`;
//! * [`numeric`] and [`rounding`]: arithmetic, comparisons and conversions;
//! * [`memory`] and [`bulk`]: loads and stores, and bulk operations, whose addresses are
//!   computed in [`bounds`] alone; [`fill`] makes bulk operations of loops;
//! * [`atomic`]: atomic accesses, fences and waiting;
//! * [`global`], [`table`], [`reference`], [`call`], of which [`dispatch`] is a part;
//! * [`exception`]: throwing, catching, and which handlers a call has;
//! * [`structure`] and [`array`], whose objects are made and accessed in [`object`], and [`cast`];
//! * [`simd`]: 128-bit vectors; [`wide`]: 128-bit integers.
//!
//! [`stack`] holds the operands and the open blocks, [`runtime`] knows how code
//! reaches the vmctx and the loader's builtins, [`interrupt`] adds fuel and epochs,
//! and [`nans`] makes NaNs canonical.

mod array;
mod atomic;
mod bounds;
mod bulk;
mod call;
mod cast;
mod control;
mod dispatch;
mod exception;
mod fill;
mod global;
mod interrupt;
mod local;
mod loops;
mod memory;
mod nans;
mod numeric;
mod object;
mod reference;
mod rounding;
mod runtime;
mod simd;
mod stack;
mod structure;
mod table;
mod wide;

use cranelift_codegen::FxHashMap;
use cranelift_codegen::ir::{
    self, FuncRef, GlobalValue, InstBuilder as _, SigRef, SourceLoc, Value, types,
};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cwasm_artifact::abi::builtins::Builtin;
use cwasm_artifact::types::{FuncType, ValType};
use serde::{Deserialize, Serialize};
use wasmparser::{FuncValidator, FunctionBody, Operator, ValidatorResources};

use crate::module::{
    DefinedFuncIndex, Dispatch, FuncIndex, Module, TYPES, TableIndex, TypeIndex, val_type,
};
use crate::product;
use crate::settings::{MemoryBounds, RelaxedSimd, Settings};
pub(crate) use bounds::MAX_ACCESS;
use bounds::Places;
use local::Locals;
use numeric::Flag;
use runtime::Regions;
pub(crate) use runtime::{accesses_globals, builtin_signature, stack_limit, trap_code, vmctx_of};
use stack::Stack;

/// What all functions of a module are translated against.
pub(crate) struct Environment<'a> {
    /// The module that owns the functions.
    pub(crate) module: &'a Module<'a>,
    /// Its tables whose elements never change.
    pub(crate) dispatch: &'a Dispatch,
    /// The target.
    pub(crate) isa: &'a dyn TargetIsa,
    /// What the target comes from.
    pub(crate) settings: &'a Settings,
    /// How linear memories are bounded.
    pub(crate) memory_bounds: MemoryBounds,
    /// The memories without a last page, as [`crate::addresses::short_memories`] has them.
    pub(crate) short_memories: Vec<i32>,
    /// Whether computed NaNs are made canonical.
    pub(crate) canonicalize_nans: bool,
    /// What relaxed vector operators compute.
    pub(crate) relaxed_simd: RelaxedSimd,
    /// Whether fuel is counted.
    pub(crate) fuel: bool,
    /// Whether the epoch is watched.
    pub(crate) epoch: bool,
    /// Code of earlier compilations.
    pub(crate) reuse: Option<&'a crate::reuse::Reuse<'a>>,
}

/// Why a body was not translated.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// It is not valid.
    Wasm(wasmparser::Error),
    /// It uses a feature that is not compiled, at this offset.
    Unsupported(&'static str, u64),
}

impl From<wasmparser::Error> for BodyError {
    fn from(error: wasmparser::Error) -> Self {
        Self::Wasm(error)
    }
}

/// The representation of a wasm value in code.
pub(crate) fn clif_type(ty: ValType) -> ir::Type {
    match ty {
        ValType::I32 => types::I32,
        ValType::F32 => types::F32,
        ValType::F64 => types::F64,
        ValType::V128 => types::I8X16,
        // References are addresses.
        _ => types::I64,
    }
}

/// The signature of wasm functions of a type.
pub(crate) fn wasm_signature(ty: &FuncType) -> ir::Signature {
    let mut signature = ir::Signature::new(CallConv::Tail);
    signature.params.push(ir::AbiParam::special(types::I64, ir::ArgumentPurpose::VMContext));
    signature.params.extend(ty.params.iter().map(|ty| ir::AbiParam::new(clif_type(*ty))));
    signature.returns.extend(ty.results.iter().map(|ty| ir::AbiParam::new(clif_type(*ty))));
    signature
}

/// What a function does with references to functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct FuncRefUse {
    /// It calls some that code made elsewhere may have put somewhere: they may be those of the host.
    pub(crate) called: bool,
    /// It makes or copies some, or reads them from a table.
    pub(crate) taken: bool,
}

/// Validates a body and translates it into `func`, which must be empty. Returns what it does with references.
pub(crate) fn translate(
    env: &Environment<'_>,
    index: DefinedFuncIndex,
    body: &FunctionBody<'_>,
    validator: &mut FuncValidator<ValidatorResources>,
    func: &mut ir::Function,
    context: &mut FunctionBuilderContext,
) -> Result<FuncRefUse, BodyError> {
    let mut reader = body.get_binary_reader();
    validator.read_locals(&mut reader)?;

    func.name = ir::UserFuncName::user(0, env.module.func_index(index).as_u32());
    func.signature = wasm_signature(env.module.func_type(env.module.func_index(index)));
    func.stack_limit = Some(stack_limit(func));
    let start = body.range().start;
    let mut translator = Translator::new(env, index, body, func, context);
    translator.locate(start);
    for local in body.get_locals_reader()? {
        let (count, ty) = local?;
        let ty = val_type(ty, &env.module.types).ok_or(BodyError::Unsupported(TYPES, start))?;
        translator.declare_locals(count, ty);
    }
    translator.enter_function();

    // Code that counts fuel counts that of each operator.
    let product = if env.fuel { None } else { product::recognise(body) };
    let mut operators = wasmparser::OperatorsReader::new(reader);
    while !operators.eof() {
        let (operator, offset) = operators.read_with_offset()?;
        if cast::tests_operand(&operator) {
            translator.operand = cast::Known::of(validator.get_operand_type(0));
        }
        validator.op(offset, &operator)?;
        if product.is_none() {
            translator.operator(&operator, offset)?;
        }
    }
    operators.finish()?;
    if let Some(product) = product {
        translator.store_product(&product)?;
    }
    let func_refs = translator.func_refs;
    translator.builder.finalize(env.isa.frontend_config());
    if env.canonicalize_nans {
        nans::canonicalize(func);
    }
    Ok(func_refs)
}

/// A function while it is translated.
struct Translator<'a, 'f> {
    env: &'a Environment<'a>,
    builder: FunctionBuilder<'f>,
    stack: Stack,
    /// Whether control can reach the current operator. If not, nothing is emitted for it.
    reachable: bool,
    /// Whether the current code is known to run seldom.
    cold: bool,
    /// Offsets of branches in the body, and whether they are usually taken.
    hints: &'a [(u32, bool)],
    /// The offset of the current operator in the body.
    offset: u32,
    /// Where in the wasm the body begins.
    start: u64,
    locals: Locals<'a>,
    results: &'a [ValType],
    /// The flag that the operator before has pushed, if it has.
    flag: Option<Flag>,
    /// The same of the current operator.
    pushed_flag: Option<Flag>,
    vmctx: Value,
    regions: Regions,
    fuel: interrupt::Fuel,
    callees: FxHashMap<FuncIndex, FuncRef>,
    constant_tables: FxHashMap<TableIndex, GlobalValue>,
    /// The fields of the vmctx that never change and are used, by type and offset.
    vmctx_fields: FxHashMap<(ir::Type, u32), Value>,
    /// The integers that are used, by type and value.
    constants: FxHashMap<(ir::Type, i64), Value>,
    places: Places,
    signatures: FxHashMap<TypeIndex, SigRef>,
    builtins: FxHashMap<Builtin, SigRef>,
    /// How many edges lead from calls to handlers of exceptions.
    handler_edges: usize,
    /// Whether a value may be a reference to an exception or an object from here on.
    holds_traced: bool,
    func_refs: FuncRefUse,
    /// What the current operator tests, if it tests a reference.
    operand: cast::Known,
}

impl<'a, 'f> Translator<'a, 'f> {
    fn new(
        env: &'a Environment<'a>,
        index: DefinedFuncIndex,
        body: &'a FunctionBody<'a>,
        func: &'f mut ir::Function,
        context: &'f mut FunctionBuilderContext,
    ) -> Self {
        let ty = env.module.func_type(env.module.func_index(index));
        let mut builder = FunctionBuilder::new(func, context);
        let entry = builder.create_block();
        builder.append_block_params_for_function_params(entry);
        builder.switch_to_block(entry);
        builder.seal_block(entry);
        let vmctx = builder.block_params(entry)[0];
        let regions = Regions::declare(builder.func);
        let mut this = Self {
            env,
            builder,
            stack: Stack::default(),
            reachable: true,
            cold: false,
            hints: env.module.hints.of(env.module.func_index(index)),
            offset: 0,
            start: body.range().start,
            locals: Locals::new(body),
            results: &ty.results,
            flag: None,
            pushed_flag: None,
            vmctx,
            regions,
            fuel: interrupt::Fuel::default(),
            callees: FxHashMap::default(),
            constant_tables: FxHashMap::default(),
            vmctx_fields: FxHashMap::default(),
            constants: FxHashMap::default(),
            places: Places::default(),
            signatures: FxHashMap::default(),
            builtins: FxHashMap::default(),
            handler_edges: 0,
            holds_traced: ty.values().any(reference::is_traced),
            func_refs: FuncRefUse::default(),
            operand: cast::Known::of(None),
        };
        for (position, ty) in ty.params.iter().enumerate() {
            let value = this.builder.block_params(entry)[position + 1];
            this.declare_local(clif_type(*ty), value);
        }
        this
    }

    /// Declares a local, which has this value at first.
    fn declare_local(&mut self, ty: ir::Type, value: Value) {
        let variable = self.builder.declare_var(ty);
        self.locals.push(variable);
        self.assign(self.locals.len() - 1, value);
    }

    /// Makes the following instructions come from this offset in the wasm.
    fn locate(&mut self, offset: u64) {
        // Larger modules are refused when they are parsed.
        let narrow = |offset: u64| u32::try_from(offset).unwrap_or(u32::MAX);
        self.builder.set_srcloc(SourceLoc::new(narrow(offset)));
        self.offset = narrow(offset.saturating_sub(self.start));
    }

    /// Declares locals of a type, which are zero at first. Those that cannot be null are too, and
    /// validation makes sure that nobody reads them then.
    fn declare_locals(&mut self, count: u32, ty: ValType) {
        let zero = match ty {
            ValType::F32 => self.builder.ins().f32const(0.0),
            ValType::F64 => self.builder.ins().f64const(0.0),
            ValType::V128 => self.vector_constant(clif_type(ty), [0; 16]),
            _ => self.constant(clif_type(ty), 0),
        };
        self.holds_traced |= reference::is_traced(ty);
        for _ in 0..count {
            self.declare_local(clif_type(ty), zero);
        }
    }

    /// Translates one operator, which is valid.
    fn operator(&mut self, operator: &Operator<'_>, offset: u64) -> Result<(), BodyError> {
        if !self.reachable {
            self.unreachable_operator(operator);
            return Ok(());
        }
        self.flag = self.pushed_flag.take();
        self.locate(offset);
        self.count_operator(operator);
        let done = self.local(operator)
            || self.numeric(operator)
            || self.memory(operator)
            || self.control(operator)
            || self.call(operator)
            || self.exception(operator)
            || self.global(operator)
            || self.rounding(operator)
            || self.table(operator)
            || self.atomic(operator)
            || self.reference(operator)
            || self.structure(operator)
            || self.array(operator)
            || self.cast(operator)
            || self.vector(operator)
            || self.wide(operator);
        if done {
            self.check_handler_edges(offset)
        } else {
            Err(BodyError::Unsupported(TYPES, offset))
        }
    }
}
