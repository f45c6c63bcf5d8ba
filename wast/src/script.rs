//! Running a script, directive by directive.

use std::collections::HashMap;
use std::thread::{self, Scope, ScopedJoinHandle};

use cwasm_compiler::{CompileError, Settings};
use cwasm_loader::{
    Artifact, Config, Digest, Engine, Error, ExternRef, Instance, LinkError, Linker, SharedMemory,
    Store, Trust, Val, ValType,
};
use elsa::FrozenVec;
use wast::core::{AbstractHeapType, HeapType, WastArgCore};
use wast::lexer::Lexer;
use wast::parser::{ParseBuffer, parse};
use wast::token::{Id, Span};
use wast::{QuoteWat, Wast, WastArg, WastDirective, WastExecute, WastInvoke, WastThread, Wat};

use crate::{expect, spectest};

/// A directive that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Name of the script.
    pub script: String,
    /// Line, from 1.
    pub line: usize,
    /// What was wrong.
    pub message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.script, self.line, self.message)
    }
}

/// The outcome of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many assertions held.
    pub passed: usize,
    /// What did not hold: assertions, and other directives.
    pub failures: Vec<Failure>,
}

/// Why a directive failed.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error(transparent)]
    Text(#[from] wast::Error),
    #[error("it does not compile: {0}")]
    Compile(#[from] CompileError),
    #[error("it does not load: {0}")]
    Load(#[from] cwasm_loader::LoadError),
    #[error(transparent)]
    Run(#[from] Error),
    #[error("{0}")]
    Expectation(String),
}

fn wrong(message: impl Into<String>) -> Wrong {
    Wrong::Expectation(message.into())
}

/// Runs a script with default settings. `name` is for messages.
///
/// Every directive is executed, also after one that failed.
#[must_use]
pub fn run_script(name: &str, source: &str) -> Summary {
    run_script_with(name, source, &Settings::default())
}

/// Runs a script whose modules are compiled with these settings, which must be for
/// this machine.
#[must_use]
pub fn run_script_with(name: &str, source: &str, settings: &Settings) -> Summary {
    run(Origin { name, source, settings, collect_always: false })
}

/// The same with a collection before each object that is made, which finds out whether all that is needed is
/// kept.
#[must_use]
pub fn run_script_collecting(name: &str, source: &str, settings: &Settings) -> Summary {
    run(Origin { name, source, settings, collect_always: true })
}

fn run(origin: Origin<'_>) -> Summary {
    let source = origin.source;
    let mut lexer = Lexer::new(source);
    lexer.allow_confusing_unicode(true);
    let buffer = match ParseBuffer::new_with_lexer(lexer) {
        Ok(buffer) => buffer,
        Err(error) => return origin.failure(error.span(), error.message()),
    };
    let script = match parse::<Wast<'_>>(&buffer) {
        Ok(script) => script,
        Err(error) => return origin.failure(error.span(), error.message()),
    };
    // Threads that the script does not wait for end before this does.
    thread::scope(|scope| run_directives(origin, script.directives, HashMap::new(), scope))
}

/// A script, for messages, and how its modules are compiled.
#[derive(Clone, Copy)]
struct Origin<'a> {
    name: &'a str,
    source: &'a str,
    settings: &'a Settings,
    collect_always: bool,
}

impl Origin<'_> {
    fn failure(&self, span: Span, message: String) -> Summary {
        let line = span.linecol_in(self.source).0 + 1;
        let failure = Failure { script: self.name.to_owned(), line, message };
        Summary { passed: 0, failures: vec![failure] }
    }
}

/// Shared memories that a thread is given, as the exports of a module.
type Given = HashMap<String, Vec<(String, SharedMemory)>>;

/// Runs the directives of a script or of one of its threads, in a store of their own.
fn run_directives<'scope, 'a: 'scope>(
    origin: Origin<'a>,
    directives: Vec<WastDirective<'a>>,
    given: Given,
    scope: &'scope Scope<'scope, '_>,
) -> Summary {
    let artifacts = FrozenVec::new();
    let mut runner = match Runner::new(&artifacts, origin, given) {
        Ok(runner) => runner,
        Err(error) => return origin.failure(Span::from_offset(0), error.to_string()),
    };
    let mut summary = Summary::default();
    let mut threads = HashMap::new();
    for directive in directives {
        let span = directive.span();
        let result = match directive {
            WastDirective::Thread(thread) => runner.given_to(&thread).map(|given| {
                let run = move || run_directives(origin, thread.directives, given, scope);
                threads.insert(thread.name.name(), scope.spawn(run));
                Summary::default()
            }),
            WastDirective::Wait { thread, .. } => {
                join(threads.remove(thread.name()).ok_or_else(|| wrong("there is no such thread")))
            }
            directive => {
                let result = runner.directive(directive);
                // No directive needs what another returned.
                runner.store.release_references();
                result.map(|is_assertion| Summary {
                    passed: is_assertion.into(),
                    failures: Vec::new(),
                })
            }
        };
        summary.add(result.unwrap_or_else(|error| origin.failure(span, error.to_string())));
    }
    for thread in threads.into_values() {
        let result = join(Ok(thread));
        summary.add(
            result.unwrap_or_else(|error| origin.failure(Span::from_offset(0), error.to_string())),
        );
    }
    summary
}

/// Waits for the end of a thread.
fn join(thread: Result<ScopedJoinHandle<'_, Summary>, Wrong>) -> Result<Summary, Wrong> {
    thread?.join().map_err(|_| wrong("the thread panicked"))
}

impl Summary {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
    }
}

struct Runner<'code> {
    artifacts: &'code FrozenVec<Box<Artifact>>,
    linker: Linker<'code, ()>,
    store: Store<'code, ()>,
    settings: Settings,
    definitions: HashMap<String, &'code Artifact>,
    last_definition: Option<&'code Artifact>,
    instances: HashMap<String, Instance<'code>>,
    current: Option<Instance<'code>>,
    host_values: HashMap<u32, ExternRef>,
    /// What the thread was given.
    given: Given,
}

impl<'code> Runner<'code> {
    fn new(
        artifacts: &'code FrozenVec<Box<Artifact>>,
        origin: Origin<'_>,
        given: Given,
    ) -> Result<Self, Error> {
        // Scripts exhaust the stack on purpose; a small one is soon exhausted.
        let mut config = Config::default();
        config.max_wasm_stack = 512 << 10;
        let engine = Engine::new(config);
        let mut store = Store::new(&engine, ());
        if origin.collect_always {
            store.collect_after(0);
        }
        let mut linker = Linker::new(&engine);
        linker.allow_shadowing(true);
        spectest::define(&mut linker, &mut store)?;
        Ok(Self {
            artifacts,
            linker,
            store,
            settings: Settings { jobs: 1, ..origin.settings.clone() },
            definitions: HashMap::new(),
            last_definition: None,
            instances: HashMap::new(),
            current: None,
            host_values: HashMap::new(),
            given,
        })
    }

    /// Executes a directive; returns whether it is an assertion.
    fn directive(&mut self, directive: WastDirective<'_>) -> Result<bool, Wrong> {
        match directive {
            WastDirective::Module(mut module) => {
                self.current = None;
                let artifact = self.define(&mut module)?;
                self.instantiate(artifact, module.name())?;
                Ok(false)
            }
            WastDirective::ModuleDefinition(mut module) => {
                self.define(&mut module)?;
                Ok(false)
            }
            WastDirective::ModuleInstance { instance, module, .. } => {
                let artifact = match module {
                    Some(id) => self.definitions.get(id.name()).copied(),
                    None => self.last_definition,
                };
                let artifact = artifact.ok_or_else(|| wrong("there is no such definition"))?;
                self.instantiate(artifact, instance)?;
                Ok(false)
            }
            WastDirective::Register { name, module, .. } => {
                let given = module.and_then(|id| self.given.get(id.name()));
                if let Some(memories) = given {
                    for (export, memory) in memories {
                        self.linker
                            .shared_memory(name, export, memory)
                            .map_err(|error| wrong(error.to_string()))?;
                    }
                    return Ok(false);
                }
                let instance = self.instance(module)?;
                self.linker.instance(&self.store, name, instance)?;
                Ok(false)
            }
            WastDirective::Invoke(invoke) => {
                self.invoke(&invoke)?;
                Ok(false)
            }
            WastDirective::AssertReturn { exec, results, .. } => {
                let found = self.execute(exec)?;
                let holds = found.len() == results.len()
                    && found
                        .iter()
                        .zip(&results)
                        .all(|(found, wanted)| expect::matches(&self.store, found, wanted));
                if holds {
                    Ok(true)
                } else {
                    Err(wrong(format!("it returned {found:?}, and {results:?} was asserted")))
                }
            }
            WastDirective::AssertTrap { exec, message, .. } => {
                let result = self.execute(exec);
                trapped(result, message)
            }
            WastDirective::AssertExhaustion { call, message, .. } => {
                let result = self.invoke(&call);
                trapped(result, message)
            }
            WastDirective::AssertInvalid { module, message, .. }
            | WastDirective::AssertMalformed { module, message, .. } => {
                self.rejected(module, message)
            }
            WastDirective::AssertUnlinkable { module, message, .. } => {
                self.unlinkable(module, message)
            }
            WastDirective::AssertMalformedCustom { module, .. }
            | WastDirective::AssertInvalidCustom { module, .. } => {
                // Custom sections do not make a module malformed (specification, 5.5.3), and
                // assertions about them are optional.
                self.compile(QuoteWat::encode(&mut { module })?)?;
                Ok(true)
            }
            WastDirective::AssertException { exec, .. } => match self.execute(exec) {
                Err(Wrong::Run(Error::Exception(_))) => Ok(true),
                Err(error) => Err(wrong(format!("it failed with `{error}`, not an exception"))),
                Ok(values) => {
                    Err(wrong(format!("it returned {values:?}, and an exception was asserted")))
                }
            },
            WastDirective::AssertSuspension { .. } => {
                Err(wrong("assert_suspension: stack switching is not supported by this version"))
            }
            WastDirective::Thread(_) | WastDirective::Wait { .. } => {
                Err(wrong("threads are started and awaited elsewhere"))
            }
        }
    }

    /// What a thread gets of this one: the shared memories that a module exports.
    fn given_to(&self, thread: &WastThread<'_>) -> Result<Given, Wrong> {
        let mut given = Given::new();
        if let Some(id) = thread.shared_module {
            if let Some(memories) = self.given.get(id.name()) {
                given.insert(id.name().to_owned(), memories.clone());
                return Ok(given);
            }
            let mut memories = Vec::new();
            for (name, item) in self.instance(Some(id))?.exports(&self.store)? {
                if let Some(memory) = item.into_memory()
                    && let Some(memory) = memory.shared(&self.store)?
                {
                    memories.push((name.to_owned(), memory));
                }
            }
            given.insert(id.name().to_owned(), memories);
        }
        Ok(given)
    }

    fn compile(&self, wasm: Vec<u8>) -> Result<&'code Artifact, Wrong> {
        let bytes = cwasm_compiler::compile(&wasm, &self.settings)?;
        // It was compiled a moment ago, by us.
        let digest = Digest::stated_in(&bytes).ok_or_else(|| wrong("it is no artifact"))?;
        let artifact = Artifact::from_bytes(&bytes, &Trust::digest(digest))?;
        Ok(self.artifacts.push_get(Box::new(artifact)))
    }

    fn define(&mut self, module: &mut QuoteWat<'_>) -> Result<&'code Artifact, Wrong> {
        let artifact = self.compile(module.encode()?)?;
        self.last_definition = Some(artifact);
        if let Some(id) = module.name() {
            self.definitions.insert(id.name().to_owned(), artifact);
        }
        Ok(artifact)
    }

    fn instantiate(
        &mut self,
        artifact: &'code Artifact,
        name: Option<Id<'_>>,
    ) -> Result<(), Wrong> {
        let instance = self.linker.instantiate(&mut self.store, artifact)?;
        self.current = Some(instance);
        if let Some(id) = name {
            self.instances.insert(id.name().to_owned(), instance);
        }
        Ok(())
    }

    fn instance(&self, module: Option<Id<'_>>) -> Result<Instance<'code>, Wrong> {
        match module {
            Some(id) => self.instances.get(id.name()).copied(),
            None => self.current,
        }
        .ok_or_else(|| wrong("there is no such instance"))
    }

    fn execute(&mut self, exec: WastExecute<'_>) -> Result<Vec<Val<'code>>, Wrong> {
        match exec {
            WastExecute::Invoke(invoke) => self.invoke(&invoke),
            WastExecute::Wat(mut module) => {
                let artifact = self.compile(module.encode()?)?;
                self.linker.instantiate(&mut self.store, artifact)?;
                Ok(Vec::new())
            }
            WastExecute::Get { module, global, .. } => {
                let global = self.instance(module)?.global(&self.store, global)?;
                Ok(vec![global.get(&self.store)?])
            }
        }
    }

    fn invoke(&mut self, invoke: &WastInvoke<'_>) -> Result<Vec<Val<'code>>, Wrong> {
        let func = self.instance(invoke.module)?.func(&self.store, invoke.name)?;
        let params = func.ty(&self.store)?.params;
        let params = params.into_iter().map(Some).chain(std::iter::repeat(None));
        let args = invoke.args.iter().zip(params).map(|(arg, ty)| self.argument(arg, ty));
        let args = args.collect::<Result<Vec<_>, _>>()?;
        Ok(func.call(&mut self.store, &args)?)
    }

    /// An argument, for a parameter of the type `ty` if there is one.
    fn argument(&mut self, arg: &WastArg<'_>, ty: Option<ValType>) -> Result<Val<'code>, Wrong> {
        let WastArg::Core(arg) = arg else {
            return Err(wrong("an argument is not one of core wasm"));
        };
        Ok(match arg {
            WastArgCore::I32(value) => Val::I32(*value),
            WastArgCore::I64(value) => Val::I64(*value),
            WastArgCore::F32(value) => Val::F32(value.bits),
            WastArgCore::F64(value) => Val::F64(value.bits),
            WastArgCore::V128(value) => Val::V128(u128::from_le_bytes(value.to_le_bytes())),
            WastArgCore::RefNull(HeapType::Abstract { ty, .. }) => match ty {
                AbstractHeapType::Func | AbstractHeapType::NoFunc => Val::FuncRef(None),
                AbstractHeapType::Extern | AbstractHeapType::NoExtern => Val::ExternRef(None),
                AbstractHeapType::Exn | AbstractHeapType::NoExn => Val::ExnRef(None),
                AbstractHeapType::Any
                | AbstractHeapType::Eq
                | AbstractHeapType::I31
                | AbstractHeapType::Struct
                | AbstractHeapType::Array
                | AbstractHeapType::None => Val::AnyRef(None),
                other => return Err(wrong(format!("null of type {other:?} is not supported"))),
            },
            // The module knows what is declared under the index: what the parameter is.
            WastArgCore::RefNull(_) => ty.map_or(Val::FuncRef(None), Val::default_of),
            WastArgCore::RefExtern(number) => Val::ExternRef(Some(self.host_value(*number))),
            WastArgCore::RefHost(number) => Val::AnyRef(Some(self.host_value(*number).to_any())),
            #[allow(unreachable_patterns, reason = "there may be others in later versions")]
            other => return Err(wrong(format!("arguments like {other:?} are not supported"))),
        })
    }

    /// The value of the host that scripts call by this number.
    fn host_value(&mut self, number: u32) -> ExternRef {
        let store = &mut self.store;
        *self.host_values.entry(number).or_insert_with(|| ExternRef::new(store, number))
    }

    fn unlinkable(&mut self, mut module: Wat<'_>, message: &str) -> Result<bool, Wrong> {
        let artifact = self.compile(module.encode()?)?;
        match self.linker.instantiate(&mut self.store, artifact) {
            Err(Error::Link(error)) if link_error_matches(&error, message) => Ok(true),
            Err(error) => Err(wrong(format!("it failed with `{error}`, not `{message}`"))),
            Ok(_) => Err(wrong(format!("it was instantiated, and `{message}` was asserted"))),
        }
    }

    /// Whether a module is rejected because of what it is, and not because of a
    /// limit or a defect of the compiler.
    fn rejected(&self, mut module: QuoteWat<'_>, message: &str) -> Result<bool, Wrong> {
        let Ok(wasm) = module.encode() else { return Ok(true) };
        match cwasm_compiler::compile(&wasm, &self.settings) {
            Err(error @ (CompileError::Limit { .. } | CompileError::Codegen { .. })) => {
                Err(wrong(format!("it failed with `{error}`, and `{message}` was asserted")))
            }
            Err(_) => Ok(true),
            Ok(_) => Err(wrong(format!("it compiled, and `{message}` was asserted"))),
        }
    }
}

fn link_error_matches(error: &LinkError, message: &str) -> bool {
    error.to_string().starts_with(message)
}

/// Whether an execution ended in the asserted trap.
fn trapped(result: Result<Vec<Val<'_>>, Wrong>, message: &str) -> Result<bool, Wrong> {
    match result {
        Err(Wrong::Run(Error::Trap(trap))) if expect::trap_matches(trap.kind(), message) => {
            Ok(true)
        }
        Err(error) => Err(wrong(format!("it failed with `{error}`, not `{message}`"))),
        Ok(values) => {
            Err(wrong(format!("it returned {values:?}, and the trap `{message}` was asserted")))
        }
    }
}
