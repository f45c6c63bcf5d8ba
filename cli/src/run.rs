//! `cwasm run`: a module or an artifact as a program.
//!
//! Modules go through the user's cache, or are compiled in memory. Artifacts need a reason to
//! be trusted.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use cwasm_compiler::{CpuLevel, Settings};
use cwasm_loader::{
    Artifact, Bundle, Digest, Engine, Error, ExternType, Instance, Linker, LoadError, Picked,
    PublicKey, Source, Store, Trap, TrapKind, Trust,
};
use cwasm_wasi::{ProcExit, Signaled, Threads, WasiCtx};

use crate::input::Kind;
use crate::outcome::{Outcome, usage};
use crate::{cached, input, keys, values, watchdog};
use grants::Grants;
use limits::Limit;

mod grants;
mod limits;

/// Run a module, compiled or from the cache, or an artifact, which something has to vouch for
#[derive(Debug, Args)]
#[command(
    override_usage = "cwasm run [OPTIONS] FILE.{wasm,wat,cwasm} [--] [ARG]...",
    help_template = "{about}\n{usage-heading} {usage}\n{options}{after-help}",
    after_help = "\
Examples:
  cwasm run app.wasm --dir data::/data:ro --env LANG=C -- --verbose /data/in.txt
  cwasm run gcd.wat --invoke gcd 54 24
  cwasm run app.cwasm --key release.pub

Exit codes: the program's own; 1 an error in what was given, 2 usage, 134 a trap or an exception"
)]
pub(crate) struct Run {
    /// The module, binary or text, or the artifact
    #[arg(value_name = "FILE.{wasm,wat,cwasm}", hide = true)]
    file: PathBuf,
    #[command(flatten)]
    grants: Grants,
    /// Call this function, not `_start`, with the ARGs; print its results
    #[arg(long, value_name = "NAME")]
    invoke: Option<String>,
    /// Instantiate another module first, to be imported as NAME
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_preload)]
    preload: Vec<(String, PathBuf)>,
    /// Run this one of the modules in a bundle
    #[arg(long, value_name = "NAME")]
    module: Option<String>,
    /// Limit memory|objects|stack=SIZE (like 64M), or table|instances=N
    #[arg(long, value_name = "WHAT=N", value_delimiter = ',')]
    limit: Vec<Limit>,
    /// Trap after about N operators
    #[arg(long, value_name = "N")]
    fuel: Option<u64>,
    /// Trap after a time: 500ms, 10s, 2m
    #[arg(long, value_name = "D", value_parser = watchdog::parse_duration)]
    timeout: Option<Duration>,
    /// Run the artifact with this digest; repeat it for what is preloaded
    #[arg(long, value_name = "HEX", conflicts_with = "trust_file")]
    digest: Vec<Digest>,
    /// Run artifacts that this public key signed; repeat it for several
    #[arg(long, value_name = "PUB", conflicts_with = "trust_file")]
    key: Vec<PathBuf>,
    /// Run artifacts without any such reason
    #[arg(long)]
    trust_file: bool,
    /// Compile modules in memory, without looking into the cache
    #[arg(long)]
    no_cache: bool,
    /// Arguments of the program, or of the function
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_negative_numbers = true, hide = true)]
    args: Vec<String>,
}

/// What the host keeps for the program.
struct Guest {
    wasi: WasiCtx,
}

impl Run {
    pub(crate) fn execute(&self) -> anyhow::Result<Outcome> {
        limits::check(&self.limit)?;
        for (index, (name, _)) in self.preload.iter().enumerate() {
            if self.preload[..index].iter().any(|(other, _)| other == name) {
                return Err(usage(format!("`--preload` gives two modules the name {name:?}")));
            }
        }
        // Before anything is compiled, since it is wrong or right by itself.
        let wasi = self.grants.context(&self.file, &self.args)?;
        let keys = keys::public(&self.key)?;
        let program = self.load(&self.file, &keys)?;
        let preloads = self
            .preload
            .iter()
            .map(|(name, path)| Ok((name.as_str(), path.as_path(), self.load(path, &keys)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut loaded = preloads.iter().map(|(.., artifact)| artifact).chain([&program]);
        if let Some(digest) =
            self.digest.iter().find(|digest| loaded.all(|artifact| artifact.digest() != **digest))
        {
            bail!(
                "no artifact that was given has the digest {digest}; modules are compiled here \
                 and need none"
            );
        }
        if !keys.is_empty() && !self.any_artifact()? {
            bail!("no artifact was given for `--key` to check; modules are compiled here");
        }
        let run = || self.run(wasi, &program, &preloads);
        let outcome = match limits::stack(&self.limit) {
            Some(stack) => on_a_stack(stack, run)?,
            None => run(),
        };
        self.ended(outcome)
    }

    /// Instantiates everything and calls into the program.
    fn run<'code>(
        &self,
        wasi: WasiCtx,
        program: &'code Artifact,
        preloads: &'code [(&str, &Path, Artifact)],
    ) -> anyhow::Result<()> {
        let engine = Engine::new(limits::config(&self.limit));
        let mut store = self.store(&engine, &wasi);
        let mut linker = Linker::new(&engine);
        let artifacts = preloads.iter().map(|(_, _, artifact)| artifact).chain([program]);
        cwasm_wasi::add_imports_to_linker(
            &mut linker,
            |guest: &mut Guest| &mut guest.wasi,
            artifacts,
        )?;
        if let Some(limit) = self.timeout {
            watchdog::start(&engine, limit).context("cannot start a thread for `--timeout`")?;
        }
        if Threads::are_used_by(program) {
            return self.run_threads(&engine, linker, program, &wasi);
        }
        for (name, path, artifact) in preloads {
            let instance = instantiate(&linker, &mut store, artifact)
                .and_then(|instance| initialize(&mut store, instance).map(|()| instance))
                .with_context(|| format!("cannot preload {}", path.display()))?;
            linker.instance(&store, name, instance)?;
        }
        let instance = instantiate(&linker, &mut store, program)?;
        self.call(&mut store, instance, program)
    }

    /// Runs a program that uses threads. It ends the process, since a thread may
    /// be waiting in the host.
    fn run_threads<'code>(
        &self,
        engine: &Engine,
        mut linker: Linker<'code, Guest>,
        program: &'code Artifact,
        wasi: &WasiCtx,
    ) -> anyhow::Result<()> {
        if !self.preload.is_empty() {
            bail!(
                "it uses threads, each of which has an instance of its own, so that nothing can be preloaded"
            );
        }
        let threads = Threads::add_to_linker(&mut linker, program)?;
        let mut store = self.store(engine, wasi);
        let instance = instantiate(&linker, &mut store, program)?;
        let main = || self.call(&mut store, instance, program);
        let exit = |result| std::process::exit(crate::conclude(self.ended(result)).into());
        threads.run(engine, &linker, program, || self.store(engine, wasi), main, exit);
        Ok(())
    }

    /// A store under the limits that were given.
    fn store<'code>(&self, engine: &Engine, wasi: &WasiCtx) -> Store<'code, Guest> {
        let mut store = Store::new(engine, Guest { wasi: wasi.clone() });
        limits::apply(&self.limit, store.limits_mut());
        // Code that counts fuel stops without any.
        store.set_fuel(self.fuel.unwrap_or(u64::MAX));
        if self.timeout.is_some() {
            store.set_epoch_deadline(1);
        }
        store
    }

    /// Calls what is to be called.
    fn call<'code>(
        &self,
        store: &mut Store<'code, Guest>,
        instance: Instance<'code>,
        program: &Artifact,
    ) -> anyhow::Result<()> {
        match &self.invoke {
            Some(name) => {
                initialize(store, instance)?;
                self.invoke(store, instance, name)
            }
            None if instance.export(store, "_start").is_some() => {
                Ok(instance.typed_func::<(), ()>(store, "_start")?.call(store, ())?)
            }
            None => bail!(
                "it has no function `_start`; call one of its functions with `--invoke`: {}",
                functions(program)
            ),
        }
    }

    /// Calls a function with arguments of the types that it takes.
    fn invoke<'code>(
        &self,
        store: &mut Store<'code, Guest>,
        instance: Instance<'code>,
        name: &str,
    ) -> anyhow::Result<()> {
        let func = instance.func(store, name)?;
        let ty = func.ty(store)?;
        if ty.params.len() != self.args.len() {
            bail!("`{name}` has the type {ty}, and {} arguments were given", self.args.len());
        }
        let args = self
            .args
            .iter()
            .zip(&ty.params)
            .map(|(text, ty)| values::parse(text, *ty))
            .collect::<anyhow::Result<Vec<_>>>()
            .with_context(|| format!("`{name}` has the type {ty}"))?;
        let results = func.call(store, &args)?;
        let mut stdout = std::io::stdout().lock();
        for result in &results {
            writeln!(stdout, "{}", values::show(result))?;
        }
        stdout.flush()?;
        Ok(())
    }

    /// Whether any of the files that were given is an artifact.
    fn any_artifact(&self) -> anyhow::Result<bool> {
        let preloads = self.preload.iter().map(|(_, path)| path);
        for path in preloads.chain([&self.file]) {
            if Kind::of(path, &input::front(path)?) != Kind::Module {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Loads a file that the command line names, compiling it if need be.
    fn load(&self, path: &Path, keys: &[PublicKey]) -> anyhow::Result<Artifact> {
        let front = input::front(path)?;
        let artifact = match Kind::of(path, &front) {
            Kind::Module => {
                cached::load(path, &input::read(path)?, &self.settings(), !self.no_cache)?
            }
            Kind::Artifact => self.load_artifact(path, path, &front, keys)?,
            Kind::Bundle => {
                let picked = self.pick(path)?;
                self.load_artifact(path, picked.bytes(), picked.bytes(), keys)?
            }
        };
        let artifact = artifact.map_err(|error| cannot_load(path, error))?;
        if self.fuel.is_some() && !artifact.uses_fuel() {
            bail!(
                "{} does not count fuel, so `--fuel` cannot limit it: compile it with `cwasm compile --fuel`",
                path.display()
            );
        }
        if self.timeout.is_some() && !artifact.uses_epoch() {
            bail!(
                "{} does not check the epoch, so `--timeout` cannot stop it: compile it with `cwasm compile --epoch`",
                path.display()
            );
        }
        Ok(artifact)
    }

    /// Reads the artifact of a bundle that is meant and the best for this machine.
    fn pick(&self, path: &Path) -> anyhow::Result<Picked> {
        let bundle = Bundle::open(path)?;
        let names = bundle.names();
        let name = match (&self.module, names.as_slice()) {
            (Some(name), _) if *path == self.file => name,
            (_, [only]) => *only,
            _ => bail!(
                "{} holds several modules: choose one with `--module`: {}",
                path.display(),
                names.join(", ")
            ),
        };
        Ok(bundle.pick(name)?)
    }

    /// Loads an artifact, from its file or from memory, if the user gave a reason to trust it.
    fn load_artifact<'a>(
        &self,
        path: &Path,
        source: impl Into<Source<'a>>,
        front: &[u8],
        keys: &[PublicKey],
    ) -> anyhow::Result<Result<Artifact, LoadError>> {
        if self.trust_file {
            // SAFETY: `--trust-file` is the user's word that the file is an
            // unmodified output of `cwasm compile`; its help says what it stands for.
            return Ok(unsafe { Artifact::load_trusting_file(source) });
        }
        // What the file says about itself only chooses among the digests that
        // the user gave; the loader compares that one with the contents.
        let stated = Digest::stated_in(front);
        let pinned = self.digest.iter().find(|digest| stated == Some(**digest));
        if pinned.is_none() && !keys.is_empty() {
            return Ok(Artifact::load(source, &Trust::keys(keys.iter().copied())));
        }
        if let Some(digest) = pinned.or(self.digest.first()) {
            return Ok(Artifact::load(source, &Trust::digest(*digest)));
        }
        // Something that is no artifact is not made one by trusting it.
        cwasm_artifact::check::claimed_length(front)
            .map_err(|problem| cannot_load(path, LoadError::Refused(problem.into())))?;
        Err(anyhow!(
            "{} is native code, and nothing vouches for it: name the digest that `cwasm compile` \
             printed with `--digest`, the public key of who signed it with `--key`, or pass \
             `--trust-file` if nobody else can write to it",
            path.display()
        ))
    }

    /// For code that runs here and now.
    fn settings(&self) -> Settings {
        Settings {
            cpu: CpuLevel::Native,
            fuel: self.fuel.is_some(),
            epoch: self.timeout.is_some(),
            ..Settings::default()
        }
    }

    /// What became of a program.
    fn ended(&self, result: anyhow::Result<()>) -> anyhow::Result<Outcome> {
        let error = match result.with_context(|| format!("cannot run {}", self.file.display())) {
            Ok(()) => return Ok(Outcome::Done),
            Err(error) => error,
        };
        let Some(cause) = error.downcast_ref::<Error>() else { return Err(error) };
        if let Some(ProcExit(status)) = cause.downcast_host() {
            return Ok(Outcome::Exited(*status));
        }
        if let Some(Signaled(signal)) = cause.downcast_host() {
            return Ok(Outcome::Signaled(signal.linux_number()));
        }
        if let Some(exception) = cause.exception() {
            // When standard error is closed, there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "cwasm: {exception}");
            return Ok(Outcome::Trapped);
        }
        match cause.trap() {
            Some(trap) => {
                self.report(trap);
                Ok(Outcome::Trapped)
            }
            None => Err(error),
        }
    }

    fn report(&self, trap: &Trap) {
        let mut stderr = std::io::stderr().lock();
        // If stderr is closed, the exit code has to suffice.
        let _ = writeln!(stderr, "cwasm: {trap}");
        let _ = match (trap.kind(), self.fuel, self.timeout) {
            (TrapKind::OutOfFuel, Some(fuel), _) => {
                writeln!(stderr, "cwasm: the program used more than `--fuel {fuel}` allows")
            }
            (TrapKind::Interrupted, _, Some(limit)) => {
                writeln!(
                    stderr,
                    "cwasm: the program ran longer than `--timeout` allows ({limit:?})"
                )
            }
            _ => Ok(()),
        };
    }
}

/// Instantiates an artifact, or says everything that it lacks.
fn instantiate<'code>(
    linker: &Linker<'code, Guest>,
    store: &mut Store<'code, Guest>,
    artifact: &'code Artifact,
) -> anyhow::Result<Instance<'code>> {
    let missing: Vec<String> = linker
        .missing(artifact)
        .map(|(module, name, ty)| {
            format!("\n  `{}` `{}` {ty}", module.escape_debug(), name.escape_debug())
        })
        .collect();
    if !missing.is_empty() {
        bail!("it imports what nothing provides (`--preload NAME=FILE` can):{}", missing.concat());
    }
    Ok(linker.instantiate(store, artifact)?)
}

/// Calls `_initialize`, which a library has instead of `_start`.
fn initialize<'code>(
    store: &mut Store<'code, Guest>,
    instance: Instance<'code>,
) -> anyhow::Result<()> {
    if instance.export(store, "_initialize").is_some() {
        instance.typed_func::<(), ()>(store, "_initialize")?.call(store, ())?;
    }
    Ok(())
}

/// The functions that an artifact exports, for a message.
fn functions(artifact: &Artifact) -> String {
    let functions: Vec<String> = artifact
        .exports()
        .filter(|export| matches!(export.ty, ExternType::Func(_)))
        .map(|export| format!("`{}` {}", export.name.escape_debug(), export.ty))
        .collect();
    if functions.is_empty() { "it exports none".to_owned() } else { functions.join(", ") }
}

/// The refusal of an artifact, with its path. Other errors name it themselves.
fn cannot_load(path: &Path, error: LoadError) -> anyhow::Error {
    let refused = matches!(error, LoadError::Refused(_));
    let error = anyhow::Error::new(error);
    if refused { error.context(format!("cannot load {}", path.display())) } else { error }
}

/// Runs on a thread that has a stack of this size, besides what the host needs.
fn on_a_stack<R: Send>(stack: usize, run: impl FnOnce() -> R + Send) -> anyhow::Result<R> {
    /// For everything that is not wasm.
    const HOST: usize = 1 << 20;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .stack_size(stack.saturating_add(HOST))
            .spawn_scoped(scope, run)
            .context("cannot make a thread with the stack that `--limit` asks for")?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn parse_preload(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("a module to preload is given as NAME=FILE".to_owned()),
    }
}
