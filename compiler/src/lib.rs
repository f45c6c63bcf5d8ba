//! The cwasm compiler: WebAssembly modules to `.cwasm` artifacts, ahead of time.
//!
//! The crate does no input or output, maps nothing, runs nothing that it
//! compiles, and contains no `unsafe`. Its modules, in the order in which data flows:
//!
//! * [`settings`]: what the caller decides; [`error`]: why nothing came of it;
//! * [`input`]: text to binary;
//! * [`module`]: the declarations of a module, validated;
//! * `translate` and `trampoline`: bodies and signatures to Cranelift's intermediate form;
//! * [`codegen`]: that to machine code, on several threads;
//! * [`link`]: the code of functions to a text section without open references.
//!
//! The same wasm, settings and version of the crate give the same bytes, on
//! every machine and for every number of threads.
#![forbid(unsafe_code)]

pub mod codegen;
pub mod error;
pub mod input;
pub mod link;
pub mod module;
pub mod settings;
mod trampoline;
mod translate;

use sha2::{Digest as _, Sha256};

pub use codegen::{Progress, Silent};
pub use error::CompileError;
pub use input::parse_text;
pub use settings::{Cpu, MemoryBounds, OptLevel, Settings};

use link::Text;
use module::{Images, Module};

/// A compiled module, as an artifact will hold it.
#[derive(Debug)]
pub struct CompiledModule<'wasm> {
    /// What the module declares.
    pub module: Module<'wasm>,
    /// Its code.
    pub text: Text,
    /// The initial contents of its memories.
    pub images: Images,
    /// SHA-256 of the wasm.
    pub source_sha256: [u8; 32],
    /// Length of the wasm in bytes.
    pub source_len: u64,
}

/// Compiles a module, up to the point where an artifact is written.
pub fn compile_module<'wasm>(
    wasm: &'wasm [u8],
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<CompiledModule<'wasm>, CompileError> {
    let isa = settings.isa()?;
    let (module, bodies) = module::parse(wasm)?;
    let env = translate::Environment {
        module: &module,
        isa: &*isa,
        memory_bounds: settings.memory_bounds,
        fuel: settings.fuel,
        epoch: settings.epoch,
    };
    let generated = codegen::generate(&env, wasm, bodies, settings.jobs, progress)?;
    let text = link::link(&module, &settings.target, generated)?;
    let images = Images::of(&module, settings.page_size());
    Ok(CompiledModule {
        module,
        text,
        images,
        source_sha256: Sha256::digest(wasm).into(),
        source_len: wasm.len() as u64,
    })
}
