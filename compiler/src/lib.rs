//! The cwasm compiler: WebAssembly modules to `.cwasm` artifacts, ahead of time.
//!
//! The crate does no input or output, maps nothing, runs nothing that it
//! compiles, and contains no `unsafe`. Its modules, in the order in which data flows:
//!
//! * [`settings`]: what the caller decides; `error`: why nothing came of it;
//! * [`input`]: text to binary; [`locate`]: from an error in the binary back to the text;
//! * [`module`]: the declarations of a module, validated;
//! * `product`: functions that are one instruction, more or less;
//! * `reference`: what code refers to until it is linked;
//! * `translate` and `trampoline`: bodies and signatures to Cranelift's intermediate form;
//! * `inline`: small functions to the places where they are called;
//! * [`codegen`]: that to machine code, on several threads;
//! * `lookup`, `counted`, `fields`, `conditions`, `branches` and `constants`: what the code generator's optimiser leaves to do before it, and after;
//! * `shorten`: to shorter forms of its instructions;
//! * `reuse`: the code of functions that did not change, from an earlier compilation;
//! * [`link`]: the code of functions to a text section without open references;
//! * `layout`: where functions should begin, for their loops;
//! * `instructions` and `unwind`: what code needs of a CPU, and how to unwind it;
//! * `tables` and `object`: all of it to the sections of an artifact;
//! * `embed`: an artifact as data in an object file, for the ordinary linker.
//!
//! The same wasm, settings and version of the crate give the same bytes, on
//! every machine and for every number of threads.
#![forbid(unsafe_code)]

mod addresses;
mod branches;
mod carried;
pub mod codegen;
mod conditions;
mod constants;
mod counted;
mod edges;
mod effects;
pub mod effort;
mod embed;
mod error;
mod fields;
mod filling;
mod hoisted;
mod inline;
pub mod input;
mod instructions;
mod layout;
pub mod link;
pub mod locate;
mod lookup;
pub mod module;
mod narrow;
mod object;
mod optimise;
mod order;
mod product;
mod queue;
mod ranges;
mod reference;
mod reuse;
mod saturation;
mod scaled;
pub mod settings;
mod shorten;
mod stored;
mod sums;
mod tables;
mod trampoline;
mod translate;
mod unwind;
mod uses;
mod widened;

pub use codegen::{Progress, Silent};
pub use cwasm_artifact::cpu::CpuLevel;
pub use embed::{symbol_name, wrap_in_object};
pub use error::CompileError;
pub use input::parse_text;
pub use locate::explain;
pub use reuse::{FunctionCache, Name};
pub use settings::{MemoryBounds, OptLevel, RelaxedSimd, Settings, TARGETS};
pub use target_lexicon::Triple;

use cranelift_codegen::isa::TargetIsa;
use link::Text;
use module::{Dispatch, Images, Module};
use target_lexicon::Architecture;

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
    compile_inner(wasm, settings, progress, None)
}

/// Does what [`compile_with_progress`] does, and takes the code of functions that did not
/// change from `functions`. The bytes are the same.
///
/// # Errors
/// As for [`compile`].
pub fn compile_incrementally(
    wasm: &[u8],
    settings: &Settings,
    progress: &dyn Progress,
    functions: &dyn FunctionCache,
) -> Result<Vec<u8>, CompileError> {
    compile_inner(wasm, settings, progress, Some(functions))
}

fn compile_inner(
    wasm: &[u8],
    settings: &Settings,
    progress: &dyn Progress,
    functions: Option<&dyn FunctionCache>,
) -> Result<Vec<u8>, CompileError> {
    let isa = settings.isa(effort::Effort::FULL)?;
    let compiled = compile_module(wasm, settings, &*isa, progress, functions)?;
    let parts = object::Parts {
        wasm,
        settings,
        features: compiled.text.features,
        tables: tables::tables(&compiled, settings.page_size())?,
        eh_frame: unwind::eh_frame(&*isa, &compiled.text.unwind)?,
        compiled: &compiled,
    };
    object::write(parts)
}

/// Compiles a module to linked code.
fn compile_module<'wasm>(
    wasm: &'wasm [u8],
    settings: &Settings,
    isa: &dyn TargetIsa,
    progress: &dyn Progress,
    functions: Option<&dyn FunctionCache>,
) -> Result<CompiledModule<'wasm>, CompileError> {
    let (mut module, bodies) = module::parse(wasm)?;
    if matches!(settings.target.architecture, Architecture::Riscv64(_)) {
        // Those of its extension V are for machines that are still rare.
        module::refuse_vectors(wasm)?;
    }
    let dispatch = match link::reaches_tables(&settings.target) {
        true => Dispatch::of(&module, &bodies),
        false => Dispatch::default(),
    };
    let mut env = translate::Environment {
        module: &module,
        dispatch: &dispatch,
        isa,
        settings,
        memory_bounds: settings.memory_bounds,
        short_memories: addresses::short_memories(&module, settings.memory_bounds),
        canonicalize_nans: settings.canonicalize_nans,
        relaxed_simd: settings.relaxed_simd,
        fuel: settings.fuel,
        epoch: settings.epoch,
        reuse: None,
    };
    let reuse = functions.map(|functions| reuse::Reuse::new(functions, &env, settings));
    env.reuse = reuse.as_ref();
    let generated = codegen::generate(&env, wasm, bodies, progress)?;
    let takes_references = generated.takes_references;
    let text = link::link(&module, &dispatch, &settings.target, generated)?;
    if !takes_references {
        module.leave_out_elements(&dispatch);
    }
    let images = Images::of(&module, settings.page_size());
    Ok(CompiledModule { module, text, images })
}
