//! Measurements that need a process of their own: this program runs itself again.

use std::fs;
use std::process::Command;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::clock::Clock;
use crate::engines::{Allocator, Cpu, settings, wasmtime};
use crate::measure::{calls, instantiate, load, programs};

/// What a child says, as JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Figures {
    /// Seconds.
    pub wall: f64,
    /// Seconds.
    pub cpu: f64,
    /// Bytes.
    pub memory: f64,
}

/// Runs this program again with `child ARGS`.
pub fn run(args: &[&str]) -> Result<Figures> {
    ask(args)
}

/// The same for a child that says something else.
pub fn ask<T: DeserializeOwned>(args: &[&str]) -> Result<T> {
    let output = Command::new(std::env::current_exe()?).arg("child").args(args).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("its process said: {}", said.trim()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The child's side.
pub fn main(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // For objdump: the code of both.
    if let ["emit", file, ours, theirs] = args[..] {
        let wasm = fs::read(file)?;
        fs::write(ours, cwasm_compiler::compile(&wasm, &settings(Cpu::Native))?)?;
        let engine = wasmtime(Cpu::Native, Allocator::OnDemand)?;
        return Ok(fs::write(theirs, engine.precompile_module(&wasm)?)?);
    }
    if let ["calls", rounds] = args[..] {
        println!("{}", serde_json::to_string(&calls::medians(rounds.parse()?)?)?);
        return Ok(());
    }
    if let ["program", asked] = args[..] {
        let medians = programs::medians(&serde_json::from_str(asked)?)?;
        println!("{}", serde_json::to_string(&medians)?);
        return Ok(());
    }
    let figures = match args[..] {
        ["compile-ours", file] => {
            let wasm = fs::read(file)?;
            let before = resident()?;
            compile(before, || {
                cwasm_compiler::compile(&wasm, &settings(Cpu::Native))?;
                Ok(())
            })?
        }
        ["compile-theirs", file] => {
            let wasm = fs::read(file)?;
            // cwasm has no engine for compiling: what that would be, it makes for each module. Its time does not count, but its memory does.
            let before = resident()?;
            let engine = wasmtime(Cpu::Native, Allocator::OnDemand)?;
            compile(before, || {
                engine.precompile_module(&wasm)?;
                Ok(())
            })?
        }
        ["many-ours"] => instantiate::many_child(None)?,
        ["churn-load", functions] => load::churn(functions.parse()?)?,
        ["churn-lazily", functions, data, folder] => {
            load::churn_lazily(functions.parse()?, data.parse()?, folder.as_ref())?
        }
        ["churn-ours"] => instantiate::churn(None)?,
        ["churn-pooling"] => instantiate::churn(Some(Allocator::Pooling))?,
        ["many-on-demand"] => instantiate::many_child(Some(Allocator::OnDemand))?,
        ["many-pooling"] => instantiate::many_child(Some(Allocator::Pooling))?,
        _ => return Err(format!("no such child: {args:?}").into()),
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// Times one compilation, and how much the process grew at most since it had `before` bytes.
fn compile(before: f64, work: impl FnOnce() -> Result<()>) -> Result<Figures> {
    let cpu = Clock::Process.now();
    let (wall, result) = Clock::Wall.time(work);
    result?;
    let cpu = Clock::Process.now() - cpu;
    Ok(Figures { wall, cpu, memory: status("VmHWM")? - before })
}

/// Bytes of memory that this process holds now.
pub fn resident() -> Result<f64> {
    status("VmRSS")
}

fn status(field: &str) -> Result<f64> {
    status_of("self", field)
}

/// Bytes of memory, as the kernel says of a process.
pub fn status_of(process: &str, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with(field)).ok_or("no such field")?;
    let kilobytes = line.split_whitespace().nth(1).ok_or("no number")?;
    Ok(kilobytes.parse::<f64>()? * 1024.0)
}
