//! Running a case in wasmi, an interpreter that shares no code with cwasm but the
//! validator.

use wasmi::{
    Config, Engine, Error, Extern, Linker, Module, Nullable, Store, TrapCode, V128, Val, ValType,
};
use wasmparser::{FunctionBody, Operator, Parser, Payload};

use crate::generate::{Case, FUEL, FUEL_GLOBAL, ROUNDS};
use crate::outcome::{EXHAUSTED, Outcome, Trap, Type, Value};

/// Runs a case.
///
/// # Errors
/// If the engine refuses the module, or fails other than by a trap.
pub fn run(case: &Case) -> Result<Outcome, String> {
    let mut config = Config::default();
    config
        .wasm_multi_memory(true)
        .wasm_memory64(true)
        .wasm_custom_page_sizes(true)
        .wasm_extended_const(true)
        .wasm_wide_arithmetic(true)
        .wasm_simd(true)
        .wasm_relaxed_simd(true)
        .set_max_recursion_depth(100_000)
        .set_max_stack_height(128 << 20);
    let engine = Engine::new(&config);
    let module = Module::new(&engine, avoid_fused_select(&case.wasm))
        .map_err(|error| format!("wasmi refuses the module: {error}"))?;
    let mut store = Store::new(&engine, ());
    let mut outcome = Outcome::default();
    let instance = match Linker::new(&engine).instantiate_and_start(&mut store, &module) {
        Ok(instance) => instance,
        Err(error) => {
            outcome.instantiated = Some(trap(&error)?);
            return Ok(outcome);
        }
    };
    let mut exports: Vec<(String, Extern)> = instance
        .exports(&store)
        .map(|export| (export.name().to_owned(), export.into_extern()))
        .collect();
    exports.sort_by(|(a, _), (b, _)| a.cmp(b));
    let fuel = instance.get_global(&store, FUEL_GLOBAL);
    for round in 0..ROUNDS {
        for (name, item) in &exports {
            let Extern::Func(func) = item else { continue };
            let ty = func.ty(&store);
            let types: Vec<Type> = ty.params().iter().map(|ty| type_of(*ty)).collect();
            let arguments: Vec<Val> =
                case.arguments(name, round, &types).into_iter().map(to_value).collect();
            if let Some(fuel) = fuel {
                fuel.set(&mut store, Val::I32(FUEL)).map_err(|error| error.to_string())?;
            }
            let mut results: Vec<Val> =
                ty.results().iter().map(|ty| Val::default_for_ty(*ty)).collect();
            let result = match func.call(&mut store, &arguments, &mut results) {
                Ok(()) => Ok(results.iter().map(from_value).collect()),
                Err(error) => Err(trap(&error)?),
            };
            outcome.calls.push((name.clone(), result));
        }
    }
    for (name, item) in exports {
        match item {
            Extern::Global(global) => {
                outcome.globals.push((name, from_value(&global.get(&store))));
            }
            Extern::Memory(memory) => outcome.memories.push((name, memory.data(&store).to_vec())),
            Extern::Table(table) => outcome.tables.push((name, table.size(&store))),
            Extern::Func(_) => {}
        }
    }
    Ok(outcome)
}

/// The module with an instruction more in front of some `select`s.
///
/// wasmi 2.0.0 folds `i32.eqz`, or a comparison with zero, into a `select` that follows. If
/// what is compared is a local, it drops the comparison and then takes the condition from a
/// register that nobody has set. `i32.popcnt` of 0 or 1 is that number, and keeps the two apart.
#[must_use]
pub fn avoid_fused_select(wasm: &[u8]) -> Vec<u8> {
    let mut module = wasm_encoder::Module::new();
    let mut code = wasm_encoder::CodeSection::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.expect("the generator writes modules");
        if let Payload::CodeSectionEntry(body) = &payload {
            code.raw(&keep_comparisons(body));
        } else if let Payload::End(_) = payload {
            break;
        } else if let Some((id, range)) = payload.as_section()
            && id != wasm_encoder::SectionId::Code as u8
        {
            // Code comes last but for the data.
            if id == wasm_encoder::SectionId::Data as u8 && !code.is_empty() {
                module.section(&std::mem::take(&mut code));
            }
            let data = &wasm[place(range.start)..place(range.end)];
            module.section(&wasm_encoder::RawSection { id, data });
        }
    }
    if !code.is_empty() {
        module.section(&code);
    }
    module.finish()
}

/// The bytes of a body with `i32.popcnt` between a comparison and a `select`.
fn keep_comparisons(body: &FunctionBody<'_>) -> Vec<u8> {
    const I32_POPCNT: u8 = 0x69;
    let original = body.as_bytes();
    let mut bytes = Vec::with_capacity(original.len());
    let mut copied = 0;
    let mut compared = false;
    let reader = body.get_operators_reader().expect("the generator writes bodies");
    for operator in reader.into_iter_with_offsets() {
        let (operator, offset) = operator.expect("the generator writes operators");
        if compared && matches!(operator, Operator::Select | Operator::TypedSelect { .. }) {
            let offset = place(offset - body.range().start);
            bytes.extend_from_slice(&original[copied..offset]);
            bytes.push(I32_POPCNT);
            copied = offset;
        }
        compared = matches!(operator, Operator::I32Eqz | Operator::I32Eq | Operator::I32Ne);
    }
    bytes.extend_from_slice(&original[copied..]);
    bytes
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("the module is in memory")
}

fn trap(error: &Error) -> Result<Trap, String> {
    let Some(code) = error.as_trap_code() else {
        // Element segments that do not fit are an error of their own there.
        let message = error.to_string();
        return ["out of bounds table access", "out of bounds memory access"]
            .into_iter()
            .find(|trap| message.starts_with(trap))
            .ok_or(format!("wasmi failed: {message}"));
    };
    Ok(match code {
        TrapCode::UnreachableCodeReached => "unreachable",
        TrapCode::MemoryOutOfBounds => "out of bounds memory access",
        TrapCode::TableOutOfBounds => "out of bounds table access",
        TrapCode::IndirectCallToNull => "uninitialized element",
        TrapCode::IntegerDivisionByZero => "integer divide by zero",
        TrapCode::IntegerOverflow => "integer overflow",
        TrapCode::BadConversionToInteger => "invalid conversion to integer",
        TrapCode::StackOverflow => EXHAUSTED,
        TrapCode::BadSignature => "indirect call type mismatch",
        other => return Err(format!("wasmi ran out of something: {other}")),
    })
}

fn type_of(ty: ValType) -> Type {
    match ty {
        ValType::I32 => Type::I32,
        ValType::I64 => Type::I64,
        ValType::F32 => Type::F32,
        ValType::F64 => Type::F64,
        ValType::V128 => Type::V128,
        ValType::FuncRef => Type::FuncRef,
        ValType::ExternRef => Type::ExternRef,
    }
}

fn to_value(value: Value) -> Val {
    match value {
        Value::I32(bits) => Val::I32(bits.cast_signed()),
        Value::I64(bits) => Val::I64(bits.cast_signed()),
        Value::F32(bits) => Val::F32(f32::from_bits(bits).into()),
        Value::F64(bits) => Val::F64(f64::from_bits(bits).into()),
        Value::V128(bits) => Val::V128(V128::from(bits)),
        Value::FuncRef(_) => Val::FuncRef(Nullable::Null),
        Value::ExternRef(_) => Val::ExternRef(Nullable::Null),
    }
}

fn from_value(value: &Val) -> Value {
    match value {
        Val::I32(value) => Value::I32(value.cast_unsigned()),
        Val::I64(value) => Value::I64(value.cast_unsigned()),
        Val::F32(value) => Value::F32(value.to_bits()),
        Val::F64(value) => Value::F64(value.to_bits()),
        Val::V128(value) => Value::V128(value.as_u128()),
        Val::FuncRef(func) => Value::FuncRef(!func.is_null()),
        Val::ExternRef(value) => Value::ExternRef(!value.is_null()),
    }
}
