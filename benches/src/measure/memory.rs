//! Growing memories.

use cwasm_loader::{Linker, Store};

use super::calls::per_call;
use crate::clock::{Clock, alternate};
use crate::engines::{Allocator, Both, Cpu, wasmtime};
use crate::report::{Report, Row};
use crate::{Options, Result};

const KERNEL: &str = include_str!("../../kernels/memory.wat");

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let engine = wasmtime(Cpu::Native, Allocator::OnDemand)?;
    let both = Both::new(KERNEL, &engine)?;
    for (what, name, count, bar) in [
        ("memory.grow by one page", "grow_one", 500, Some(0.7)),
        ("memory.grow by one page, which is written to at once", "grow_and_write", 500, None),
        (
            "memory.grow by one page, all of which is written to at once",
            "grow_and_write_all",
            500,
            None,
        ),
        ("memory.grow of 0", "grow_none", 20_000, Some(0.1)),
        ("memory.size", "size", 20_000, None),
    ] {
        let samples = alternate(
            options.rounds(31),
            || {
                let mut store = Store::new(&both.engine, ());
                let instance = Linker::new(&both.engine).instantiate(&mut store, &both.artifact)?;
                let func = instance.typed_func::<i32, ()>(&store, name)?;
                per_call(Clock::Thread, count, || Ok(func.call(&mut store, count as i32)?))
            },
            || {
                let mut store = wasmtime::Store::new(&engine, ());
                let instance = wasmtime::Instance::new(&mut store, &both.module, &[])?;
                let func = instance.get_typed_func::<i32, ()>(&mut store, name)?;
                per_call(Clock::Thread, count, || Ok(func.call(&mut store, count as i32)?))
            },
        )?;
        let row = Row::seconds(what, &samples);
        report.add(match bar {
            Some(bar) => row.bar(bar),
            None => row,
        });
    }
    Ok(())
}
