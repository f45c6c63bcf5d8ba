//! The host module `spectest`, as the specification's test suite describes it.

use cwasm_loader::{
    Caller, Error, Global, GlobalType, IndexType, Limits, Linker, Memory, MemoryType, Ref, Store,
    Table, TableType, Val, ValType,
};

/// Defines the module in a linker, with its items in a store.
pub(crate) fn define<'code>(
    linker: &mut Linker<'code, ()>,
    store: &mut Store<'code, ()>,
) -> Result<(), Error> {
    const MODULE: &str = "spectest";
    linker.func(MODULE, "print", |_: Caller<'_, '_, ()>| {})?;
    linker.func(MODULE, "print_i32", |_: Caller<'_, '_, ()>, _: i32| {})?;
    linker.func(MODULE, "print_i64", |_: Caller<'_, '_, ()>, _: i64| {})?;
    linker.func(MODULE, "print_f32", |_: Caller<'_, '_, ()>, _: f32| {})?;
    linker.func(MODULE, "print_f64", |_: Caller<'_, '_, ()>, _: f64| {})?;
    linker.func(MODULE, "print_i32_f32", |_: Caller<'_, '_, ()>, _: i32, _: f32| {})?;
    linker.func(MODULE, "print_f64_f64", |_: Caller<'_, '_, ()>, _: f64, _: f64| {})?;
    for (name, value) in [
        ("global_i32", Val::I32(666)),
        ("global_i64", Val::I64(666)),
        ("global_f32", Val::from(666.6_f32)),
        ("global_f64", Val::from(666.6_f64)),
    ] {
        let ty = GlobalType { value: value.ty(), mutable: false };
        let global = Global::new(store, ty, value)?;
        linker.define(store, MODULE, name, global)?;
    }
    let limits = Limits { min: 10, max: Some(20) };
    let table = TableType::new(ValType::FuncRef, limits);
    let table64 = TableType { index: IndexType::I64, ..table };
    for (name, ty) in [("table", table), ("table64", table64)] {
        let table = Table::new(store, ty, Ref::Func(None))?;
        linker.define(store, MODULE, name, table)?;
    }
    let limits = Limits { min: 1, max: Some(2) };
    let memory = MemoryType::new(limits);
    let shared = MemoryType { shared: true, ..memory };
    for (name, ty) in [("memory", memory), ("shared_memory", shared)] {
        let memory = Memory::new(store, ty)?;
        linker.define(store, MODULE, name, memory)?;
    }
    Ok(())
}
