//! The cwasm compiler: WebAssembly modules to `.cwasm` artifacts, ahead of time.
//!
//! The crate does no input or output, maps nothing, runs nothing that it
//! compiles, and contains no `unsafe`. Its modules, in the order in which data flows:
//!
//! * [`settings`]: what the caller decides; [`error`]: why nothing came of it;
//! * [`input`]: text to binary; [`locate`]: from an error in the binary back to the text;
//! * [`module`]: the declarations of a module, validated;
//! * `translate` and `trampoline`: bodies and signatures to Cranelift's intermediate form;
//! * `inline`: small functions to the places where they are called;
//! * [`codegen`]: that to machine code, on several threads;
//! * [`link`]: the code of functions to a text section without open references;
//! * `instructions` and `unwind`: what that code needs of a CPU, and how to unwind it;
//! * `tables` and `object`: all of it to the sections of an artifact.
//!
//! The same wasm, settings and version of the crate give the same bytes, on
//! every machine and for every number of threads.
#![forbid(unsafe_code)]

pub mod codegen;
pub mod error;
mod inline;
pub mod input;
mod instructions;
pub mod link;
pub mod locate;
pub mod module;
mod object;
pub mod settings;
mod tables;
mod trampoline;
mod translate;
mod unwind;

pub use codegen::{Progress, Silent};
pub use cwasm_artifact::cpu::CpuLevel;
pub use error::CompileError;
pub use input::parse_text;
pub use locate::explain;
pub use settings::{MemoryBounds, OptLevel, Settings};

use cranelift_codegen::isa::TargetIsa;
use cwasm_artifact::cpu::{Arch, CpuFeatures};
use link::Text;
use module::{Images, Module};

/// A compiled module, before it is written down as an artifact.
#[derive(Debug)]
pub struct CompiledModule<'wasm> {
    /// What the module declares.
    pub module: Module<'wasm>,
    /// Its code.
    pub text: Text,
    /// The initial contents of its memories.
    pub images: Images,
}

/// Compiles a wasm binary to the bytes of a `.cwasm` artifact.
///
/// # Errors
/// If the module is not valid, uses what is not supported, or is too large, or
/// if the settings cannot be met.
pub fn compile(wasm: &[u8], settings: &Settings) -> Result<Vec<u8>, CompileError> {
    compile_with_progress(wasm, settings, &Silent)
}

/// Does what [`compile`] does, and says how far it is.
pub fn compile_with_progress(
    wasm: &[u8],
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<Vec<u8>, CompileError> {
    let isa = settings.isa()?;
    let compiled = compile_module(wasm, settings, &*isa, progress)?;
    let parts = object::Parts {
        wasm,
        settings,
        features: features(&compiled.text, settings)?,
        tables: tables::tables(&compiled, settings.page_size())?,
        eh_frame: unwind::eh_frame(&*isa, &compiled.text.unwind)?,
        compiled: &compiled,
    };
    object::write(isa, parts)
}

/// Compiles a module to linked code.
fn compile_module<'wasm>(
    wasm: &'wasm [u8],
    settings: &Settings,
    isa: &dyn TargetIsa,
    progress: &dyn Progress,
) -> Result<CompiledModule<'wasm>, CompileError> {
    let (module, bodies) = module::parse(wasm)?;
    let env = translate::Environment {
        module: &module,
        isa,
        memory_bounds: settings.memory_bounds,
        fuel: settings.fuel,
        epoch: settings.epoch,
    };
    let generated = codegen::generate(&env, wasm, bodies, settings.jobs, progress)?;
    let text = link::link(&module, &settings.target, generated)?;
    let images = Images::of(&module, settings.page_size());
    Ok(CompiledModule { module, text, images })
}

/// The CPU features that the code needs, out of those that it may use.
fn features(text: &Text, settings: &Settings) -> Result<CpuFeatures, CompileError> {
    let allowed = settings.features()?;
    if Arch::of_triple(&settings.target.to_string()) != Some(Arch::X86_64) {
        return Ok(allowed);
    }
    let functions = text.functions.iter().map(|range| {
        let start = range.offset as usize;
        text.bytes.get(start..start + range.len as usize).unwrap_or(&[])
    });
    Ok(instructions::needed(functions, allowed))
}
