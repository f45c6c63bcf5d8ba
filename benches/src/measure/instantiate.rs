//! Instances: one, one with a large image, a thousand at once, and what each holds.

use cwasm_loader::{Artifact, Caller, Linker, Store};

use crate::child;
use crate::clock::{Clock, Samples, alternate};
use crate::corpus;
use crate::engines::{Allocator, Both, Cpu, load, settings, wasmtime};
use crate::report::{Report, Row};
use crate::{Options, Result};

const KERNEL: &str = include_str!("../../kernels/small.wat");
const IMAGE: usize = 16 << 20;

fn ours(engine: &cwasm_loader::Engine) -> Result<Linker<'static, ()>> {
    let mut linker = Linker::new(engine);
    linker.func("host", "log", |_: Caller<'_, '_, ()>, _: i32, _: i32| {})?;
    Ok(linker)
}

fn theirs(
    engine: &wasmtime::Engine,
    module: &wasmtime::Module,
) -> Result<wasmtime::InstancePre<()>> {
    let mut linker = wasmtime::Linker::new(engine);
    linker.func_wrap("host", "log", |_: i32, _: i32| {})?;
    Ok(linker.instantiate_pre(module)?)
}

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    small(options, report)?;
    image(options, report)?;
    for (what, allocator) in [("on demand", Allocator::OnDemand), ("pooling", Allocator::Pooling)] {
        many(options, report, what, allocator)?;
    }
    Ok(())
}

/// A store, an instance, and their end: the life of a request that is not served.
fn small(options: &Options, report: &mut Report) -> Result<()> {
    let linker = ours(&cwasm_loader::Engine::default())?;
    for (what, allocator, bar) in
        [("on demand", Allocator::OnDemand, None), ("pooling", Allocator::Pooling, Some(0.7))]
    {
        let engine = wasmtime(Cpu::Native, allocator)?;
        let both = Both::new(KERNEL, &engine)?;
        let pre = theirs(&engine, &both.module)?;
        let count = 50;
        let samples = alternate(
            options.rounds(31),
            || {
                let (time, result) = Clock::Thread.time(|| -> Result<()> {
                    for _ in 0..count {
                        let mut store = Store::new(&both.engine, ());
                        linker.instantiate(&mut store, &both.artifact)?;
                    }
                    Ok(())
                });
                result.map(|()| time / f64::from(count))
            },
            || {
                let (time, result) = Clock::Thread.time(|| -> Result<()> {
                    for _ in 0..count {
                        let mut store = wasmtime::Store::new(&engine, ());
                        pre.instantiate(&mut store)?;
                    }
                    Ok(())
                });
                result.map(|()| time / f64::from(count))
            },
        )?;
        let row = Row::seconds(format!("instantiate small, against {what}"), &samples);
        report.add(match bar {
            Some(bar) => row.bar(bar),
            None => row,
        });

        // Served: the memory is touched.
        let samples = alternate(
            options.rounds(31),
            || {
                let (time, result) = Clock::Thread.time(|| -> Result<()> {
                    for _ in 0..count {
                        let mut store = Store::new(&both.engine, ());
                        let instance = linker.instantiate(&mut store, &both.artifact)?;
                        instance.typed_func::<i32, i32>(&store, "handle")?.call(&mut store, 1)?;
                    }
                    Ok(())
                });
                result.map(|()| time / f64::from(count))
            },
            || {
                let (time, result) = Clock::Thread.time(|| -> Result<()> {
                    for _ in 0..count {
                        let mut store = wasmtime::Store::new(&engine, ());
                        let instance = pre.instantiate(&mut store)?;
                        let func = instance.get_typed_func::<i32, i32>(&mut store, "handle")?;
                        func.call(&mut store, 1)?;
                    }
                    Ok(())
                });
                result.map(|()| time / f64::from(count))
            },
        )?;
        report.add(Row::seconds(format!("the same and a call, against {what}"), &samples));
    }

    // The first instance of a module that was just loaded, and its first call.
    let engine = wasmtime(Cpu::Native, Allocator::OnDemand)?;
    let wasm = wat::parse_str(KERNEL)?;
    let artifact = cwasm_compiler::compile(&wasm, &settings(Cpu::Native))?;
    let module = engine.precompile_module(&wasm)?;
    let our_engine = cwasm_loader::Engine::default();
    let mut calls = (Samples::default(), Samples::default());
    let samples = alternate(
        options.rounds(41),
        || {
            let artifact: Artifact = load(&artifact)?;
            let mut store = Store::new(&our_engine, ());
            let (time, instance) = Clock::Thread.time(|| linker.instantiate(&mut store, &artifact));
            let instance = instance?;
            let (call, result) = Clock::Thread
                .time(|| instance.typed_func::<i32, i32>(&store, "handle")?.call(&mut store, 1));
            result?;
            calls.0.0.push(call);
            Ok(time)
        },
        || {
            // SAFETY: wasmtime made the bytes just now.
            let module = unsafe { wasmtime::Module::deserialize(&engine, &module) }?;
            let pre = theirs(&engine, &module)?;
            let mut store = wasmtime::Store::new(&engine, ());
            let (time, instance) = Clock::Thread.time(|| pre.instantiate(&mut store));
            let instance = instance?;
            let (call, result) = Clock::Thread.time(|| {
                instance.get_typed_func::<i32, i32>(&mut store, "handle")?.call(&mut store, 1)
            });
            result?;
            calls.1.0.push(call);
            Ok(time)
        },
    )?;
    report.add(Row::seconds("instantiate, cold", &samples));
    report.add(Row::seconds("first call", &calls));
    Ok(())
}

/// An image of 16 MiB, of which one page is touched.
fn image(options: &Options, report: &mut Report) -> Result<()> {
    let wasm = corpus::synthetic(1, IMAGE)?;
    let artifact = load(&cwasm_compiler::compile(&wasm, &settings(Cpu::Native))?)?;
    let engine = cwasm_loader::Engine::default();
    let linker = Linker::new(&engine);
    for (what, allocator) in [("on demand", Allocator::OnDemand), ("pooling", Allocator::Pooling)] {
        let their_engine = wasmtime(Cpu::Native, allocator)?;
        let module = wasmtime::Module::new(&their_engine, &wasm)?;
        let samples = alternate(
            options.rounds(31),
            || {
                let (time, result) = Clock::Thread.time(|| -> Result<()> {
                    let mut store = Store::new(&engine, ());
                    let instance = linker.instantiate(&mut store, &artifact)?;
                    Ok(instance.typed_func::<(), ()>(&store, "all")?.call(&mut store, ())?)
                });
                result.map(|()| time)
            },
            || {
                let (time, result) = Clock::Thread.time(|| -> Result<()> {
                    let mut store = wasmtime::Store::new(&their_engine, ());
                    let instance = wasmtime::Instance::new(&mut store, &module, &[])?;
                    let func = instance.get_typed_func::<(), ()>(&mut store, "all")?;
                    Ok(func.call(&mut store, ())?)
                });
                result.map(|()| time)
            },
        )?;
        report.add(Row::seconds(format!("instantiate 16 MiB image, {what}"), &samples));
    }
    Ok(())
}

const MANY: usize = 1000;

/// A thousand instances that live at the same time, each called once; in a process
/// of their own, so that the memory they hold can be told.
fn many(options: &Options, report: &mut Report, what: &str, allocator: Allocator) -> Result<()> {
    let name = match allocator {
        Allocator::OnDemand => "many-on-demand",
        Allocator::Pooling => "many-pooling",
    };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds(5) {
        a.push(child::run(&["many-ours"])?);
        b.push(child::run(&[name])?);
    }
    let pick = |all: &[child::Figures], get: fn(&child::Figures) -> f64| {
        Samples(all.iter().map(get).collect())
    };
    let times = (pick(&a, |f| f.cpu), pick(&b, |f| f.cpu));
    report.add(Row::seconds(format!("{MANY} instances at once, each, {what}"), &times));
    let memory = (pick(&a, |f| f.memory), pick(&b, |f| f.memory));
    let row = Row::bytes(
        format!("resident memory per instance, {what}"),
        memory.0.median(),
        memory.1.median(),
    );
    report.add(row);
    Ok(())
}

/// The child's part: time and memory per instance.
pub fn many_child(allocator: Option<Allocator>) -> Result<child::Figures> {
    let engine = wasmtime(Cpu::Native, allocator.unwrap_or(Allocator::OnDemand))?;
    let both = Both::new(KERNEL, &engine)?;
    let before;
    let time;
    let after;
    if allocator.is_some() {
        let pre = theirs(&engine, &both.module)?;
        let mut stores = Vec::with_capacity(MANY);
        before = child::resident()?;
        let start = Clock::Thread.now();
        for _ in 0..MANY {
            let mut store = wasmtime::Store::new(&engine, ());
            let instance = pre.instantiate(&mut store)?;
            let func = instance.get_typed_func::<i32, i32>(&mut store, "handle")?;
            func.call(&mut store, 1)?;
            stores.push(store);
        }
        time = Clock::Thread.now() - start;
        after = child::resident()?;
    } else {
        let linker = ours(&both.engine)?;
        let mut stores = Vec::with_capacity(MANY);
        before = child::resident()?;
        let start = Clock::Thread.now();
        for _ in 0..MANY {
            let mut store = Store::new(&both.engine, ());
            let instance = linker.instantiate(&mut store, &both.artifact)?;
            instance.typed_func::<i32, i32>(&store, "handle")?.call(&mut store, 1)?;
            stores.push(store);
        }
        time = Clock::Thread.now() - start;
        after = child::resident()?;
    }
    let each = 1.0 / MANY as f64;
    Ok(child::Figures { wall: 0.0, cpu: time * each, memory: (after - before) * each })
}

/// Makes and drops instances, for a profiler to watch:
/// `perf record target/release/cwasm-benches child churn-ours`.
pub fn churn(allocator: Option<Allocator>) -> Result<child::Figures> {
    const TIMES: usize = 200_000;
    let engine = wasmtime(Cpu::Native, allocator.unwrap_or(Allocator::OnDemand))?;
    let both = Both::new(KERNEL, &engine)?;
    let linker = ours(&both.engine)?;
    let pre = theirs(&engine, &both.module)?;
    let start = Clock::Thread.now();
    for _ in 0..TIMES {
        if allocator.is_some() {
            pre.instantiate(&mut wasmtime::Store::new(&engine, ()))?;
        } else {
            linker.instantiate(&mut Store::new(&both.engine, ()), &both.artifact)?;
        }
    }
    let cpu = (Clock::Thread.now() - start) / TIMES as f64;
    Ok(child::Figures { wall: 0.0, cpu, memory: 0.0 })
}
