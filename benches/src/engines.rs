//! The two sides, set up alike: Cranelift optimises for speed, for the same CPU.

use crate::Result;
use cwasm_compiler::{CpuLevel, Settings};
use cwasm_loader::{Artifact, Digest, Trust};
use serde::{Deserialize, Serialize};

/// Which instructions both sides may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Cpu {
    /// Whatever this machine has.
    Native,
    /// What every x86-64 has.
    Baseline,
}

/// How wasmtime finds room for instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocator {
    OnDemand,
    Pooling,
}

pub fn settings(cpu: Cpu) -> Settings {
    let cpu = match cpu {
        Cpu::Native => CpuLevel::Native,
        Cpu::Baseline => CpuLevel::default(),
    };
    Settings { cpu, ..Settings::default() }
}

pub fn wasmtime(cpu: Cpu, allocator: Allocator) -> Result<wasmtime::Engine> {
    let mut config = wasmtime::Config::new();
    config.cranelift_opt_level(wasmtime::OptLevel::Speed);
    config.parallel_compilation(true);
    if cpu == Cpu::Baseline {
        // A target that is named gets none of the host's features.
        config.target(&cwasm_artifact::cpu::host_triple())?;
    }
    if allocator == Allocator::Pooling {
        let mut pool = wasmtime::PoolingAllocationConfig::new();
        pool.total_core_instances(1100);
        pool.total_memories(1100);
        pool.total_tables(1100);
        config.allocation_strategy(wasmtime::InstanceAllocationStrategy::Pooling(pool));
    }
    Ok(wasmtime::Engine::new(&config)?)
}

/// Loads what was just compiled.
pub fn load(bytes: &[u8]) -> Result<Artifact> {
    let digest = Digest::stated_in(bytes).ok_or("the compiler wrote no artifact")?;
    Ok(Artifact::from_bytes(bytes, &Trust::digest(digest))?)
}

/// A module on both sides, compiled for this machine.
pub struct Both {
    pub artifact: Artifact,
    pub engine: cwasm_loader::Engine,
    pub module: wasmtime::Module,
}

impl Both {
    pub fn new(text: &str, theirs: &wasmtime::Engine) -> Result<Self> {
        let wasm = wat::parse_str(text)?;
        Ok(Self {
            artifact: load(&cwasm_compiler::compile(&wasm, &settings(Cpu::Native))?)?,
            engine: cwasm_loader::Engine::default(),
            module: wasmtime::Module::new(theirs, &wasm)?,
        })
    }
}
