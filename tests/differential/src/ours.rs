//! Running a case in cwasm.

use cwasm_compiler::Settings;
use cwasm_loader::{Config, Engine, Error, Extern, Linker, Store, TrapKind, Val, ValType};
use cwasm_tests::load;

use crate::generate::{Case, FUEL_GLOBAL, ROUNDS};
use crate::outcome::{Outcome, Trap, Type, Value};

/// How much stack wasm may use, in bytes: calls may nest as deep as the generator's fuel allows.
const STACK: usize = 128 << 20;

/// How much memory there may be for objects, in bytes: arrays are small, or longer than any store can have.
const OBJECTS: usize = 64 << 20;

/// Runs a case compiled with these settings.
///
/// # Errors
/// If it does not compile, or fails other than by a trap.
pub fn run(case: &Case, settings: &Settings) -> Result<Outcome, String> {
    run_in(case, settings, false)
}

/// The same with a collection before each object.
///
/// # Errors
/// As for [`run`].
pub fn run_collecting(case: &Case, settings: &Settings) -> Result<Outcome, String> {
    run_in(case, settings, true)
}

fn run_in(case: &Case, settings: &Settings, collects: bool) -> Result<Outcome, String> {
    let file = cwasm_compiler::compile(&case.wasm, settings)
        .map_err(|error| format!("it does not compile: {error}"))?;
    let artifact = load(&file);
    let mut config = Config::default();
    config.max_wasm_stack = STACK;
    let engine = Engine::new(config);
    let mut store = Store::new(&engine, ());
    if settings.fuel {
        store.set_fuel(u64::MAX / 2);
    }
    store.limits_mut().objects = OBJECTS;
    if collects {
        store.collect_after(0);
    }
    let mut outcome = Outcome::default();
    let instance = match Linker::new(&engine).instantiate(&mut store, &artifact) {
        Ok(instance) => instance,
        Err(error) => {
            outcome.instantiated = Some(trap(error)?);
            return Ok(outcome);
        }
    };
    let exports = instance.exports(&store).map_err(|error| error.to_string())?;
    let mut exports: Vec<(String, Extern<'_>)> =
        exports.map(|(name, item)| (name.to_owned(), item)).collect();
    exports.sort_by(|(a, _), (b, _)| a.cmp(b));
    let fuel = exports.iter().find_map(|(name, item)| match item {
        Extern::Global(global) if name == FUEL_GLOBAL => Some(*global),
        _ => None,
    });
    for round in 0..ROUNDS {
        for (name, item) in &exports {
            let Extern::Func(func) = item else { continue };
            let ty = func.ty(&store).map_err(|error| error.to_string())?;
            let types: Vec<Type> = ty.params.iter().map(|ty| type_of(*ty)).collect();
            if !ty.params.iter().all(|ty| ty.has_default()) {
                continue;
            }
            let arguments = case.arguments(name, round, &types).into_iter().zip(&ty.params);
            let arguments: Vec<Val<'_>> = arguments
                .map(|(value, ty)| if ty.is_ref() { Val::default_of(*ty) } else { to_value(value) })
                .collect();
            if let Some(fuel) = &fuel {
                fuel.set(&mut store, Val::I32(case.fuel())).map_err(|error| error.to_string())?;
            }
            let result = match func.call(&mut store, &arguments) {
                Ok(results) => Ok(results.iter().map(from_value).collect()),
                Err(error) => Err(trap(error)?),
            };
            outcome.calls.push((name.clone(), result));
        }
    }
    for (name, item) in exports {
        let failed = |error: Error| format!("{name}: {error}");
        match item {
            Extern::Global(global) => {
                let value = from_value(&global.get(&store).map_err(failed)?);
                outcome.globals.push((name, value));
            }
            Extern::Memory(memory) => {
                let bytes = memory.data(&store).map_err(failed)?.to_vec();
                outcome.memories.push((name, bytes));
            }
            Extern::Table(table) => {
                let size = table.size(&store).map_err(failed)?;
                outcome.tables.push((name, size));
            }
            _ => {}
        }
    }
    Ok(outcome)
}

fn trap(error: Error) -> Result<Trap, String> {
    match error {
        // The other engine has one name for both.
        Error::Trap(trap) if trap.kind() == TrapKind::UndefinedElement => {
            Ok(TrapKind::TableOutOfBounds.message())
        }
        Error::Trap(trap) => Ok(trap.kind().message()),
        Error::StoreLimit { .. } => Ok(TrapKind::OutOfObjectMemory.message()),
        other => Err(format!("it failed: {other}")),
    }
}

fn type_of(ty: ValType) -> Type {
    match ty {
        ValType::I64 => Type::I64,
        ValType::F32 => Type::F32,
        ValType::F64 => Type::F64,
        ValType::V128 => Type::V128,
        ValType::FuncRef => Type::FuncRef,
        ValType::ExternRef => Type::ExternRef,
        _ => Type::I32,
    }
}

fn to_value(value: Value) -> Val<'static> {
    match value {
        Value::I32(bits) => Val::I32(bits.cast_signed()),
        Value::I64(bits) => Val::I64(bits.cast_signed()),
        Value::F32(bits) => Val::F32(bits),
        Value::F64(bits) => Val::F64(bits),
        Value::V128(bits) => Val::V128(bits),
        Value::FuncRef(_) => Val::FuncRef(None),
        Value::ExternRef(_) => Val::ExternRef(None),
    }
}

fn from_value(value: &Val<'_>) -> Value {
    match value {
        Val::I32(value) => Value::I32(value.cast_unsigned()),
        Val::I64(value) => Value::I64(value.cast_unsigned()),
        Val::F32(bits) => Value::F32(*bits),
        Val::F64(bits) => Value::F64(*bits),
        Val::V128(bits) => Value::V128(*bits),
        Val::FuncRef(func) => Value::FuncRef(func.is_some()),
        Val::ExternRef(value) => Value::ExternRef(value.is_some()),
        Val::AnyRef(value) => Value::ExternRef(value.is_some()),
        _ => Value::ExternRef(true),
    }
}
