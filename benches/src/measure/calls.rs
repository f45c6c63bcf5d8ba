//! Calls over the border, calls through tables, and traps.

use cwasm_loader::{Caller, Linker, Store};
use serde::{Deserialize, Serialize};
use wasmtime::{Caller as TheirCaller, Linker as TheirLinker, Store as TheirStore};

use crate::child;
use crate::clock::{Clock, Samples, alternate};
use crate::engines::{Allocator, Both, Cpu, wasmtime};
use crate::report::{Report, Row, Unit};
use crate::{Options, Result};

const KERNEL: &str = include_str!("../../kernels/calls.wat");

/// Seconds per call, from `count` of them in one sample.
pub fn per_call(clock: Clock, count: u32, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let (time, result) = clock.time(work);
    result?;
    Ok(time / f64::from(count))
}

/// How many processes measure. How long a call takes depends by a third on where the system puts stacks and code, on both sides.
const PROCESSES: usize = 15;

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let rounds = options.rounds(41).to_string();
    let mut all: Vec<Vec<Medians>> = Vec::new();
    for _ in 0..PROCESSES {
        all.push(child::ask(&["calls", &rounds])?);
    }
    let find = |name: &str| -> (Samples, Samples) {
        let of = |get: fn(&Medians) -> f64| {
            let each = all.iter().map(|medians| medians.iter().find(|it| it.what == name));
            Samples(each.map(|found| get(found.expect("measured"))).collect())
        };
        (of(|it| it.ours), of(|it| it.theirs))
    };
    for (what, name, bar) in [
        ("call host to wasm, () -> ()", "nothing", 0.5),
        ("call host to wasm, (i32, i32) -> i32", "add", 0.5),
        ("call wasm to host, () -> ()", "wasm_to_nothing", 0.7),
        ("call wasm to host, (i32, i32) -> i32", "wasm_to_add", 0.7),
    ] {
        report.add(Row::seconds(what, &find(name)).bar(bar));
    }
    report.add(Row::seconds("call wasm to host, changes store data", &find("wasm_to_count")));
    let direct = find("direct");
    report.add(Row::seconds("call direct", &direct));
    let one = find("indirect_one");
    report.add(Row::seconds("call_indirect, one target", &one));
    report.add(
        Row::new("call_indirect, one target", Unit::Seconds, &one.0, &direct.0)
            .against("direct")
            .bar(1.02),
    );
    report.add(Row::seconds("call_indirect, four targets", &find("indirect_four")).bar(0.95));
    for (what, name) in [("trap: unreachable", "unreachable"), ("trap: out of bounds", "outside")] {
        report.add(Row::seconds(what, &find(name)));
    }
    Ok(())
}

/// What a process says of one kind of call: the medians of both sides, in seconds.
#[derive(Debug, Deserialize, Serialize)]
pub struct Medians {
    what: String,
    ours: f64,
    theirs: f64,
}

/// Measures each kind in this process.
pub fn medians(rounds: usize) -> Result<Vec<Medians>> {
    let count = 20_000;
    let mut found = Vec::new();
    let mut add = |what: &str, (ours, theirs): (Samples, Samples)| {
        found.push(Medians { what: what.to_owned(), ours: ours.median(), theirs: theirs.median() });
    };
    let theirs_engine = wasmtime(Cpu::Native, Allocator::OnDemand)?;
    let both = Both::new(KERNEL, &theirs_engine)?;

    let mut store = Store::new(&both.engine, 0_u64);
    let mut linker = Linker::new(&both.engine);
    linker.func("host", "nothing", |_: Caller<'_, '_, u64>| {})?;
    linker.func("host", "add", |_: Caller<'_, '_, u64>, a: i32, b: i32| a.wrapping_add(b))?;
    linker.func("host", "count", |mut caller: Caller<'_, '_, u64>| *caller.data_mut() += 1)?;
    let ours = linker.instantiate(&mut store, &both.artifact)?;

    let mut their_store = TheirStore::new(&theirs_engine, 0_u64);
    let mut their_linker = TheirLinker::new(&theirs_engine);
    their_linker.func_wrap("host", "nothing", || {})?;
    their_linker.func_wrap("host", "add", |a: i32, b: i32| a.wrapping_add(b))?;
    their_linker.func_wrap("host", "count", |mut caller: TheirCaller<'_, u64>| {
        *caller.data_mut() += 1;
    })?;
    let theirs = their_linker.instantiate(&mut their_store, &both.module)?;

    // Host to wasm.
    let a = ours.typed_func::<(), ()>(&store, "nothing")?;
    let b = theirs.get_typed_func::<(), ()>(&mut their_store, "nothing")?;
    let samples = alternate(
        rounds,
        || {
            per_call(Clock::Thread, count, || {
                for _ in 0..count {
                    a.call(&mut store, ())?;
                }
                Ok(())
            })
        },
        || {
            per_call(Clock::Thread, count, || {
                for _ in 0..count {
                    b.call(&mut their_store, ())?;
                }
                Ok(())
            })
        },
    )?;
    add("nothing", samples);

    let a = ours.typed_func::<(i32, i32), i32>(&store, "add")?;
    let b = theirs.get_typed_func::<(i32, i32), i32>(&mut their_store, "add")?;
    let samples = alternate(
        rounds,
        || {
            per_call(Clock::Thread, count, || {
                let mut sum = 0;
                for _ in 0..count {
                    sum = a.call(&mut store, (sum, 1))?;
                }
                std::hint::black_box(sum);
                Ok(())
            })
        },
        || {
            per_call(Clock::Thread, count, || {
                let mut sum = 0;
                for _ in 0..count {
                    sum = b.call(&mut their_store, (sum, 1))?;
                }
                std::hint::black_box(sum);
                Ok(())
            })
        },
    )?;
    add("add", samples);

    // Loops in wasm.
    for name in [
        "wasm_to_nothing",
        "wasm_to_add",
        "wasm_to_count",
        "direct",
        "indirect_one",
        "indirect_four",
    ] {
        let a = ours.typed_func::<i32, ()>(&store, name)?;
        let b = theirs.get_typed_func::<i32, ()>(&mut their_store, name)?;
        let times = count as i32;
        let samples = alternate(
            rounds,
            || per_call(Clock::Thread, count, || Ok(a.call(&mut store, times)?)),
            || per_call(Clock::Thread, count, || Ok(b.call(&mut their_store, times)?)),
        )?;
        add(name, samples);
    }

    // Traps.
    for name in ["unreachable", "outside"] {
        let a = ours.typed_func::<(), ()>(&store, name)?;
        let b = theirs.get_typed_func::<(), ()>(&mut their_store, name)?;
        let samples = alternate(
            rounds,
            || {
                per_call(Clock::Thread, 100, || {
                    (0..100).for_each(|_| assert!(a.call(&mut store, ()).is_err()));
                    Ok(())
                })
            },
            || {
                per_call(Clock::Thread, 100, || {
                    (0..100).for_each(|_| assert!(b.call(&mut their_store, ()).is_err()));
                    Ok(())
                })
            },
        )?;
        add(name, samples);
    }
    Ok(found)
}
