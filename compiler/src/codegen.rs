//! From function bodies to machine code, on several threads.
//!
//! A thread takes a body, validates and translates it, and generates its code
//! before it takes the next: only the functions in flight exist in intermediate
//! form. Results go back to the order of the module, so that the output does
//! not depend on the number of threads, and neither does the error, which is
//! that of the first function that fails.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::ExternalName;
use cranelift_codegen::{
    CodegenError, Context, ExceptionContextLoc, FinalizedMachExceptionHandler, FinalizedRelocTarget,
};
use cranelift_frontend::FunctionBuilderContext;
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::cpu::CpuFeatures;
use target_lexicon::Architecture;
use wasmparser::FuncValidatorAllocations;

use crate::effort::Effort;
use crate::error::CompileError;
use crate::inline::{Inlinable, Locations};
use crate::instructions;
use crate::layout::{self, Blocks, Phases};
use crate::module::{self, Body, DefinedFuncIndex, FuncIndex, Module, TagIndex, TypeIndex};
use crate::optimise;
use crate::queue;
use crate::reference::Reference;
use crate::reuse::{Kept, Reuse};
use crate::settings::OptLevel;
use crate::shorten::{self, Aim};
use crate::trampoline::{self, Direction};
use crate::translate::{self, BodyError, Environment, FuncRefUse, trap_code};
use crate::unwind::{self, Unwind};

/// Told how far a compilation is. Called from several threads.
pub trait Progress: Sync {
    /// Compilation begins, with this many bytes of function bodies.
    fn start(&self, total: u64);
    /// This many more bytes of them are compiled.
    fn advance(&self, bytes: u64);
}

/// Progress that nobody wants to know.
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _total: u64) {}
    fn advance(&self, _bytes: u64) {}
}

/// A reference whose displacement depends on where functions are placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relocation {
    /// Where in the function that refers to it.
    pub(crate) offset: u32,
    pub(crate) kind: Reloc,
    pub(crate) target: Reference,
    pub(crate) addend: i64,
}

/// A place in the code that the loader must recognise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The offset in the code.
    pub text: u32,
    /// The offset in the wasm of the operator that it belongs to.
    pub wasm: u32,
    /// Why the instruction there traps; `None` for the return address of a call.
    pub trap: Option<Trap>,
    /// If the operator belongs to a function that was copied to here: which, and for which call.
    pub inlined: Option<Inlined>,
}

/// Which call a copied instruction stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inlined {
    /// The function that was copied.
    pub function: FuncIndex,
    /// The offset in the wasm of the call.
    pub call: u32,
}

/// Where an exception goes on that leaves a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handler {
    /// The return address of the call, as an offset in the code.
    pub call: u32,
    /// Where the handler begins, as an offset in the code.
    pub handler: u32,
    /// The tag that it handles; `None` for all.
    pub tag: Option<TagIndex>,
    /// How many bytes the stack pointer is below the frame pointer during the call.
    pub frame: u32,
    /// Where the vmctx is saved, in bytes above the stack pointer.
    pub vmctx: u32,
}

/// Machine code of a function or trampoline, not placed yet.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    pub(crate) bytes: Vec<u8>,
    pub(crate) alignment: u32,
    /// Where in a cache line it should begin.
    pub(crate) phases: Phases,
    pub(crate) relocations: Vec<Relocation>,
    /// Ordered by offset.
    pub(crate) sites: Vec<Site>,
    /// The CPU features that its instructions need.
    pub(crate) features: CpuFeatures,
    /// Ordered by call; those of a call in the order in which they are tried.
    pub(crate) handlers: Vec<Handler>,
    pub(crate) unwind: Option<Unwind>,
    pub(crate) func_refs: FuncRefUse,
}

impl Code {
    /// Puts bytes behind it, to which [`Reference::Own`] referred until now.
    fn append(&mut self, bytes: &[u8]) {
        /// As the widest numbers are.
        const ALIGNMENT: usize = 8;
        if bytes.is_empty() {
            return;
        }
        let start = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(start, 0);
        self.bytes.extend_from_slice(bytes);
        for relocation in &mut self.relocations {
            if relocation.target == Reference::Own {
                relocation.addend += start as i64;
            }
        }
    }
}

/// Everything that was generated for a module.
#[derive(Debug)]
pub(crate) struct Generated {
    /// The code of the defined functions, in order.
    pub(crate) functions: Vec<Code>,
    /// Trampolines, ordered by type and direction.
    pub(crate) trampolines: Vec<(TypeIndex, Direction, Code)>,
    /// Whether any function takes references. Otherwise, nobody sees those in constant tables, and they are not to be there: the
    /// trampolines are missing that those with other types need.
    pub(crate) takes_references: bool,
}

/// Compiles all bodies of a module, and the trampolines that it needs, on several threads.
pub(crate) fn generate(
    env: &Environment<'_>,
    wasm: &[u8],
    bodies: Vec<Body<'_>>,
    progress: &dyn Progress,
) -> Result<Generated, CompileError> {
    let workers = Workers::default();
    progress.start(bodies.iter().map(size).sum());
    let inlinable = inlinable(env, &bodies, &workers)?;
    // Functions behind the first one known to fail need not be compiled.
    let first_failure = AtomicUsize::new(usize::MAX);
    let compile = |piece: &Piece<'_, '_>| match *piece {
        Piece::Function(number, body) => {
            if number > first_failure.load(Ordering::Relaxed) {
                return None;
            }
            let result = workers.function(env, &inlinable, number, body);
            if result.is_err() {
                first_failure.fetch_min(number, Ordering::Relaxed);
            }
            progress.advance(size(body));
            Some(result)
        }
        Piece::Trampoline(ty, direction) => {
            Some(workers.trampoline(env, ty, direction).map_err(Failure::Compile))
        }
    };

    // Large functions first, so that no thread is left with one at the end. All trampolines are small.
    let mut pieces: Vec<Piece<'_, '_>> =
        bodies.iter().enumerate().map(|(number, body)| Piece::Function(number, body)).collect();
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.size()));
    let trampolines = Trampolines::of(env);
    pieces.extend(
        trampolines.needed.iter().map(|(ty, direction)| Piece::Trampoline(*ty, *direction)),
    );
    // Threads that are done give back their memory, while others are not.
    let mut results = in_turn(env, &pieces, compile, || workers.discard())?;
    let codes = || results.iter().flatten().flatten();
    let takes_references = codes().any(|code| code.func_refs.taken);
    let mut more: Vec<Piece<'_, '_>> = Vec::new();
    if codes().any(|code| code.func_refs.called) {
        let types = trampolines.by_reference.into_iter();
        more.extend(types.map(|ty| Piece::Trampoline(ty, Direction::Exit)));
    }
    if takes_references {
        let types = trampolines.of_elements.into_iter();
        more.extend(types.map(|ty| Piece::Trampoline(ty, Direction::Entry)));
    }
    if !more.is_empty() {
        results.extend(in_turn(env, &more, compile, || ())?);
        pieces.extend(more);
    }

    let mut functions = Vec::with_capacity(bodies.len());
    let mut trampolines = Vec::with_capacity(pieces.len() - bodies.len());
    let mut failures = Vec::new();
    for (piece, result) in pieces.into_iter().zip(results) {
        match (piece, result) {
            (_, None) => {}
            (Piece::Function(number, _), Some(Ok(code))) => functions.push((number, code)),
            (Piece::Trampoline(ty, direction), Some(Ok(code))) => {
                trampolines.push((ty, direction, code));
            }
            (Piece::Function(number, _), Some(Err(failure))) => failures.push((number, failure)),
            (Piece::Trampoline(..), Some(Err(failure))) => failures.push((usize::MAX, failure)),
        }
    }
    if let Some((number, failure)) = failures.into_iter().min_by_key(|(number, _)| *number) {
        return Err(failure.explain(env.module, wasm, number));
    }
    functions.sort_unstable_by_key(|(number, _)| *number);
    let functions = functions.into_iter().map(|(_, code)| code).collect();
    Ok(Generated { functions, trampolines, takes_references })
}

/// What is compiled at a time.
#[derive(Clone, Copy)]
enum Piece<'a, 'wasm> {
    /// A function, by its number among the defined ones.
    Function(usize, &'a Body<'wasm>),
    Trampoline(TypeIndex, Direction),
}

impl Piece<'_, '_> {
    /// In bytes of wasm.
    fn size(&self) -> u64 {
        match self {
            Self::Function(_, body) => size(body),
            Self::Trampoline(..) => 0,
        }
    }
}

/// The size of a body in bytes.
fn size(body: &Body<'_>) -> u64 {
    let range = body.body.range();
    range.end - range.start
}

/// Why a piece has no code.
enum Failure {
    Body(BodyError),
    Compile(CompileError),
}

impl Failure {
    /// What to report, if the piece is the function with this number among the defined ones.
    fn explain(self, module: &Module<'_>, wasm: &[u8], number: usize) -> CompileError {
        match self {
            Self::Body(BodyError::Wasm(error)) => {
                module::explain_in_body(wasm, func_index(module, number).as_u32(), &error)
            }
            Self::Body(BodyError::Unsupported(feature, offset)) => {
                let function = Some(func_index(module, number).as_u32());
                CompileError::Unsupported { feature, offset, function }
            }
            Self::Compile(error) => error,
        }
    }
}

/// Does the work for each piece, on the threads that the settings ask for, which call `leave` at their ends. The results are in the order of the pieces.
fn in_turn<P: Sync, R: Send>(
    env: &Environment<'_>,
    pieces: &[P],
    work: impl Fn(&P) -> R + Sync,
    leave: impl Fn() + Sync,
) -> Result<Vec<R>, CompileError> {
    queue::in_turn(env.settings.jobs, pieces, work, leave).map_err(|error| CompileError::Settings {
        message: format!("cannot start the threads that compile: {error}; use fewer (`-j`)"),
    })
}

/// Of fewer functions, the small ones are translated by the thread that asks. To start others would take longer.
const MANY: usize = 128;

/// The functions whose calls are replaced by their bodies.
///
/// None where code counts fuel or watches the epoch: there, calls do more than to call.
fn inlinable<'wasm>(
    env: &Environment<'_>,
    bodies: &[Body<'wasm>],
    workers: &Workers,
) -> Result<Inlinable<'wasm>, CompileError> {
    let mut inlinable = Inlinable::default();
    if env.fuel || env.epoch {
        return Ok(inlinable);
    }
    let translated = |(number, body): &(usize, &Body<'wasm>)| {
        if !Inlinable::candidate(func_index(env.module, *number), body) {
            return None;
        }
        let mut worker = workers.take();
        // What is not valid is found, and reported, when it is compiled.
        let function = worker.translate(env, *number, body).ok()?;
        let translated = worker.context.func.clone();
        workers.give_back(worker);
        Some((function, translated))
    };
    let numbered: Vec<_> = bodies.iter().enumerate().collect();
    let functions = match numbered.len() {
        ..MANY => numbered.iter().map(translated).collect(),
        MANY.. => in_turn(env, &numbered, translated, || ())?,
    };
    for (body, translated) in bodies.iter().zip(functions) {
        if let Some((index, function)) = translated {
            inlinable.add(index, body, function);
        }
    }
    Ok(inlinable)
}

/// The trampolines of a module.
struct Trampolines {
    /// Into functions that escape, and to host functions that are imported.
    needed: Vec<(TypeIndex, Direction)>,
    /// The other types of which host functions may be called by a reference. Who calls nothing by a reference calls no others
    /// than imports, whatever is in tables and globals: another module that calls them from there has a trampoline itself.
    by_reference: Vec<TypeIndex>,
    /// The other types of functions that escape only if some function takes references: they are in constant tables, and nowhere else.
    of_elements: Vec<TypeIndex>,
}

impl Trampolines {
    fn of(env: &Environment<'_>) -> Self {
        let module = env.module;
        let distinct = |functions: &mut dyn Iterator<Item = FuncIndex>| {
            let types = functions.map(|it| module.canonical_types[module.functions[it].ty]);
            types.collect::<BTreeSet<_>>()
        };
        let all = distinct(&mut module.func_refs.values().copied());
        let certain = module.referred_to_without_elements(env.dispatch);
        let defined = |index: &FuncIndex| module.defined_func(*index).is_some();
        let escaping = distinct(&mut certain.iter().filter(defined));
        let of_elements = all.difference(&escaping).copied().collect();
        let imported = distinct(&mut (0..module.imported_functions).map(FuncIndex::from_u32));
        let by_reference =
            module.distinct_signatures().filter(|ty| !imported.contains(ty)).collect();
        let entries = escaping.into_iter().map(|ty| (ty, Direction::Entry));
        let exits = imported.into_iter().map(|ty| (ty, Direction::Exit));
        Self { needed: entries.chain(exits).collect(), by_reference, of_elements }
    }
}

/// The index in the module of the function with this number among the defined ones.
fn func_index(module: &Module<'_>, number: usize) -> FuncIndex {
    // The parser bounds the number of functions.
    module.func_index(DefinedFuncIndex::from_u32(u32::try_from(number).unwrap_or(u32::MAX)))
}

/// After a function with more instructions, its memory is not used again.
const MAX_KEPT: usize = 2000;

/// Memory that a thread uses again for each function.
struct Worker {
    context: Context,
    builder: FunctionBuilderContext,
    validator: FuncValidatorAllocations,
    /// Whether the function is a trampoline.
    is_trampoline: bool,
    func_refs: FuncRefUse,
    /// Where the copied instructions of the function come from.
    locations: Locations,
    unwind: unwind::Known,
    /// What the allocator of registers uses again.
    registers: regalloc2::Ctx,
}

impl Worker {
    fn new() -> Self {
        Self {
            context: Context::new(),
            builder: FunctionBuilderContext::new(),
            validator: FuncValidatorAllocations::default(),
            is_trampoline: false,
            func_refs: FuncRefUse::default(),
            locations: Locations::default(),
            unwind: unwind::Known::default(),
            registers: regalloc2::Ctx::default(),
        }
    }

    /// Forgets the function in the context.
    fn clear(&mut self) {
        self.context.clear();
        // Clearing forgets these (in Cranelift 0.135). Left behind, they would be a part of the next
        // function's name, and of no use to it.
        self.context.func.dfg.exception_tables.clear();
        self.is_trampoline = false;
        self.func_refs = FuncRefUse::default();
    }

    /// Validates a body, and translates it into the context.
    fn translate(
        &mut self,
        env: &Environment<'_>,
        number: usize,
        body: &Body<'_>,
    ) -> Result<FuncIndex, BodyError> {
        let function = func_index(env.module, number);
        let defined = DefinedFuncIndex::from_u32(function.as_u32() - env.module.imported_functions);
        let allocations = std::mem::take(&mut self.validator);
        let mut validator = body.validator(allocations);
        self.clear();
        self.func_refs = translate::translate(
            env,
            defined,
            &body.body,
            &mut validator,
            &mut self.context.func,
            &mut self.builder,
        )?;
        self.validator = validator.into_allocations();
        Ok(function)
    }
}

/// Workers that no thread is using. Each is 10 kB, without what it points to, and so is never moved.
#[derive(Default)]
struct Workers(Mutex<Vec<Box<Worker>>>);

impl Workers {
    fn take(&self) -> Box<Worker> {
        let idle = self.0.lock().ok().and_then(|mut idle| idle.pop());
        idle.unwrap_or_else(|| Box::new(Worker::new()))
    }

    /// Keeps a worker for the next function, with what is left of the last. After a failure, it is dropped instead; so it is after a function of many
    /// instructions, since it would keep as much memory as that took, and the next ones are smaller.
    fn give_back(&self, worker: Box<Worker>) {
        if worker.context.func.dfg.num_insts() > MAX_KEPT {
            return;
        }
        if let Ok(mut idle) = self.0.lock() {
            idle.push(worker);
        }
    }

    /// Frees one.
    fn discard(&self) {
        drop(self.0.lock().ok().and_then(|mut idle| idle.pop()));
    }

    fn function(
        &self,
        env: &Environment<'_>,
        inlinable: &Inlinable<'_>,
        number: usize,
        body: &Body<'_>,
    ) -> Result<Code, Failure> {
        let mut worker = self.take();
        let function = func_index(env.module, number);
        // Sites without an operator, such as the stack check, are at the start.
        let start = u32::try_from(body.body.range().start).unwrap_or(u32::MAX);
        let quick = env.reuse.map(|reuse| {
            let copied = inlinable.called_by(env, body);
            let bytes = body.body.as_bytes();
            (reuse, reuse.quick_name(env.module, function, bytes, &copied, inlinable))
        });
        if let Some((reuse, name)) = &quick
            && let Some(code) = reuse.find_quick(name, start, inlinable)
        {
            let mut validator = body.validator(std::mem::take(&mut worker.validator));
            validator.validate(&body.body).map_err(|error| Failure::Body(error.into()))?;
            reuse.count(true);
            worker.validator = validator.into_allocations();
            self.give_back(worker);
            return Ok(code);
        }
        worker.translate(env, number, body).map_err(Failure::Body)?;
        let end = u32::try_from(body.body.range().end).unwrap_or(u32::MAX);
        worker.locations = Locations::new(end);
        if inlinable.expand(&mut worker.context, &mut worker.locations).is_err() {
            // Copies need what the function has too much of. It does without.
            worker.locations = Locations::new(end);
            worker.translate(env, number, body).map_err(Failure::Body)?;
        }
        let exact = quick.map(|(reuse, quick)| {
            let kept = worker.kept(start, inlinable);
            let exact = reuse.exact_name(&kept);
            reuse.alias(&quick, &exact, &kept);
            (reuse, exact)
        });
        let code = worker
            .provide(env, start, inlinable, exact)
            .map_err(|error| Failure::Compile(explain(env.module, function, &error)))?;
        self.give_back(worker);
        Ok(code)
    }

    fn trampoline(
        &self,
        env: &Environment<'_>,
        ty: TypeIndex,
        direction: Direction,
    ) -> Result<Code, CompileError> {
        let mut worker = self.take();
        worker.clear();
        let func_type = env.module.signature(ty);
        let Worker { context, builder, .. } = &mut *worker;
        trampoline::build(direction, func_type, env.isa, &mut context.func, builder);
        worker.locations = Locations::default();
        worker.is_trampoline = true;
        let none = Inlinable::default();
        let exact = env.reuse.map(|reuse| (reuse, reuse.exact_name(&worker.kept(0, &none))));
        let code = worker.provide(env, 0, &none, exact).map_err(|error| CompileError::Codegen {
            place: format!("the {direction:?} trampoline of type {}", ty.as_u32()),
            message: error.to_string(),
        })?;
        self.give_back(worker);
        Ok(code)
    }
}

/// Why the code generator failed.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{}", code_generator_message(.0))]
    Codegen(#[from] CodegenError),
    #[error("{0}")]
    Settings(#[from] Box<CompileError>),
    #[error("the code calls {0}, which no loader provides")]
    Symbol(String),
    #[error("the code contains a trap with the unknown code {0}")]
    Trap(u8),
    #[error("a handler of exceptions cannot find its vmctx")]
    Handler,
    #[error("the code cannot be shortened: {0}")]
    Shortened(String),
}

fn explain(module: &Module<'_>, function: FuncIndex, problem: &Problem) -> CompileError {
    let index = function.as_u32();
    match problem {
        Problem::Codegen(CodegenError::ImplLimitExceeded | CodegenError::CodeTooLarge) => {
            CompileError::FunctionTooLarge {
                function: index,
                name: module.names.function(function).map(str::to_owned),
            }
        }
        problem => CompileError::Codegen {
            place: format!("function {index}"),
            message: problem.to_string(),
        },
    }
}

/// The code generator's words, with the details that it keeps to itself.
fn code_generator_message(error: &CodegenError) -> String {
    match error {
        CodegenError::Verifier(errors) => format!("{error}: {errors}"),
        error => error.to_string(),
    }
}

impl Worker {
    /// What a name of the function in the context covers.
    fn kept<'a>(&'a self, start: u32, inlinable: &'a Inlinable<'a>) -> Kept<'a> {
        Kept {
            function: &self.context.func,
            start,
            locations: &self.locations,
            inlinable,
            func_refs: self.func_refs,
        }
    }

    /// Finds code for the function in the context, or generates it.
    fn provide(
        &mut self,
        env: &Environment<'_>,
        start: u32,
        inlinable: &Inlinable<'_>,
        exact: Option<(&Reuse<'_>, [u8; 32])>,
    ) -> Result<Code, Problem> {
        let Some((reuse, name)) = exact else { return self.compile(env, start) };
        let found = reuse.find_exact(&name, &self.kept(start, inlinable));
        reuse.count(found.is_some());
        match found {
            Some(code) => Ok(code),
            None => {
                let code = self.compile(env, start)?;
                reuse.keep(&name, &code, &self.kept(start, inlinable));
                Ok(code)
            }
        }
    }

    /// Generates code for the function in the context.
    fn compile(&mut self, env: &Environment<'_>, start: u32) -> Result<Code, Problem> {
        let effort = Effort::of(&mut self.context);
        // Few functions are of another kind. Nobody keeps a code generator for them.
        let other = match effort {
            Effort::FULL => None,
            effort => Some(env.settings.isa(effort).map_err(Box::new)?),
        };
        let isa = other.as_deref().unwrap_or(env.isa);
        let mut control = ControlPlane::default();
        let behind = if self.is_trampoline {
            // The optimiser would find nothing, in a sixth of the time.
            self.context.compute_cfg();
            self.context.compute_domtree();
            Vec::new()
        } else {
            optimise::optimise(&mut self.context, isa, &mut control, &env.short_memories)?
        };
        let Context { func, domtree, .. } = &self.context;
        let code = isa
            .compile_function(func, domtree, &mut self.registers, false, &mut control)?
            .apply_params(&func.params);
        let unwind = self.unwind.of(env.isa, &code).map_err(Box::new)?;
        let buffer = &code.buffer;
        let mut relocations = Vec::with_capacity(buffer.relocs().len());
        for relocation in buffer.relocs() {
            let target = match &relocation.target {
                FinalizedRelocTarget::ExternalName(ExternalName::User(name)) => {
                    let name = &self.context.func.params.user_named_funcs()[*name];
                    Reference::of(name).ok_or_else(|| Problem::Symbol(name.to_string()))?
                }
                other => return Err(Problem::Symbol(other.display(None))),
            };
            relocations.push(Relocation {
                offset: relocation.offset,
                kind: relocation.kind,
                target,
                addend: relocation.addend,
            });
        }
        let mut finished = Code {
            bytes: buffer.data().to_vec(),
            alignment: buffer.alignment,
            phases: Phases::HALVES,
            relocations,
            sites: sites(buffer, start, &self.locations)?,
            features: CpuFeatures::NONE,
            handlers: handlers(buffer)?,
            unwind,
            func_refs: self.func_refs,
        };
        let (mut starts, mut edges) = (code.bb_starts, code.bb_edges);
        // No feature of other architectures has a name yet.
        if env.isa.triple().architecture == Architecture::X86_64 {
            let aim = match env.settings.opt_level {
                OptLevel::SpeedAndSize => Aim::Size,
                OptLevel::Speed => {
                    let end = u32::try_from(finished.bytes.len()).unwrap_or(u32::MAX);
                    Aim::for_speed(starts.len(), &edges, end)
                }
                OptLevel::None | OptLevel::Less => Aim::Speed,
            };
            finished.features = shortened(&mut finished, &mut starts, &mut edges, aim)?;
        }
        let own = Reference::of_own(&self.context.func.name);
        let recursion: Vec<u32> = finished
            .relocations
            .iter()
            .filter(|relocation| own == Some(relocation.target))
            .map(|relocation| relocation.offset + 4)
            .collect();
        finished.phases = layout::phases(Blocks {
            starts: &starts,
            edges: &edges,
            recursion: &recursion,
            length: u32::try_from(finished.bytes.len()).unwrap_or(u32::MAX),
        });
        finished.append(&behind);
        Ok(finished)
    }
}

/// Shortens x86-64 code, whose blocks and edges between them these are, and returns the CPU features that it needs.
fn shortened(
    code: &mut Code,
    blocks: &mut Vec<u32>,
    edges: &mut Vec<(u32, u32)>,
    aim: Aim,
) -> Result<CpuFeatures, Problem> {
    // A second opinion takes longer than the first, but then nearly everything that tests compile has one.
    let before = cfg!(debug_assertions).then(|| (code.clone(), blocks.to_vec()));
    let Some(features) = shorten::shorten(code, blocks, edges, aim) else {
        // It does no harm, but means that the code generator does something new.
        if before.is_some() {
            return Err(Problem::Shortened("it is not understood".to_owned()));
        }
        return Ok(instructions::needed(&code.bytes, blocks));
    };
    if let Some((before, mut old)) = before {
        // Without a last one that has no code.
        old.truncate(blocks.len());
        shorten::check::same(
            shorten::check::Function { code: &before, blocks: &old },
            shorten::check::Function { code, blocks },
        )
        .map_err(Problem::Shortened)?;
    }
    Ok(features)
}

/// The handlers of a function, with offsets from its start. Calls without a vmctx for their handlers
/// are those of entry trampolines, which no exception reaches.
fn handlers(buffer: &Buffer) -> Result<Vec<Handler>, Problem> {
    let mut found = Vec::new();
    for call in buffer.call_sites() {
        let mut context = None;
        for item in call.exception_handlers {
            let (tag, handler) = match *item {
                FinalizedMachExceptionHandler::Context(location) => {
                    context = Some(location);
                    continue;
                }
                FinalizedMachExceptionHandler::Tag(tag, handler) => {
                    (Some(TagIndex::from_u32(tag.as_u32())), handler)
                }
                FinalizedMachExceptionHandler::Default(handler) => (None, handler),
            };
            let vmctx = match context {
                None => continue,
                Some(ExceptionContextLoc::SPOffset(offset)) => offset,
                // The calls of handlers leave nothing in registers.
                Some(ExceptionContextLoc::GPR(_)) => return Err(Problem::Handler),
            };
            let frame = call.frame_offset.ok_or(Problem::Handler)?;
            found.push(Handler { call: call.ret_addr, handler, tag, frame, vmctx });
        }
    }
    found.sort_by_key(|handler| handler.call);
    Ok(found)
}

type Buffer = cranelift_codegen::MachBufferFinalized<cranelift_codegen::Final>;

/// The sites of a function, with offsets from its start.
fn sites(buffer: &Buffer, start: u32, locations: &Locations) -> Result<Vec<Site>, Problem> {
    let mut sites = Vec::with_capacity(buffer.traps().len());
    for trap in buffer.traps() {
        let code = trap.code.as_raw().get();
        let reason = Trap::ALL
            .into_iter()
            .find(|reason| trap_code(*reason).as_raw().get() == code)
            .ok_or(Problem::Trap(code))?;
        sites.push(Site { text: trap.offset, wasm: 0, trap: Some(reason), inlined: None });
    }
    for call in buffer.call_sites() {
        sites.push(Site { text: call.ret_addr, wasm: 0, trap: None, inlined: None });
    }
    // A return address may also be the address of an instruction that traps.
    sites.sort_by_key(|site| (site.text, site.trap));

    // The operator is that of the range which contains the instruction. For a
    // call, the return address is the end of that range.
    let mut ranges = buffer.get_srclocs_sorted().iter().peekable();
    let mut found = Vec::with_capacity(sites.len());
    for site in sites {
        let inside = match site.trap {
            Some(_) => site.text,
            None => site.text - 1,
        };
        while ranges.peek().is_some_and(|range| range.end <= inside) {
            ranges.next();
        }
        let (wasm, inlined) = ranges
            .peek()
            .filter(|range| range.start <= inside && !range.loc.is_default())
            .map_or((start, None), |range| locations.resolve(range.loc));
        found.push(Site { wasm, inlined, ..site });
    }
    Ok(found)
}
