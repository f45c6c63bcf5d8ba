//! `cwasm run`: a module or an artifact as a program.
//!
//! Modules are compiled in memory and loaded by the digest of what was just
//! compiled. Artifacts need a reason to be trusted.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use cwasm_compiler::{CpuLevel, Settings};
use cwasm_loader::{
    Artifact, Digest, Engine, Error, ExternType, Instance, Linker, LoadError, PublicKey, Store,
    Trap, TrapKind, Trust,
};
use cwasm_wasi::{ProcExit, WasiCtx};

use crate::compile::compile_file;
use crate::input::Kind;
use crate::outcome::Outcome;
use crate::{input, keys, values, watchdog};

/// Run a WebAssembly module or an artifact
#[derive(Debug, Args)]
#[command(after_help = "\
A module is compiled first. An artifact is native code: say why to trust it, with `--digest`,
`--key` or `--trust-file`. Without `--invoke`, the program's `_start` is called.

Examples:
  cwasm run app.wasm --dir data::/data --env LANG=C -- --verbose /data/in.txt
  cwasm run gcd.wat --invoke gcd 54 24
  cwasm run app.cwasm --digest 3f2c... --timeout 10s
  cwasm run app.cwasm --key release.pub

Exit codes: the program's own; 1 an error in what was given, 2 usage, 134 a trap")]
pub(crate) struct Run {
    /// The module, binary or text, or the artifact
    #[arg(value_name = "FILE.{wasm,wat,cwasm}")]
    file: PathBuf,
    /// Let the program use a directory, under its own name or another
    #[arg(long = "dir", value_name = "HOST[::GUEST]")]
    directories: Vec<String>,
    /// Set an environment variable of the program, which has none otherwise
    #[arg(long, value_name = "K=V", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// Call this function with the ARGs, and print its results
    #[arg(long, value_name = "NAME")]
    invoke: Option<String>,
    /// Instantiate another module first, for the program to import from
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_preload)]
    preload: Vec<(String, PathBuf)>,
    /// Trap after about N operators
    #[arg(long, value_name = "N")]
    fuel: Option<u64>,
    /// Trap after a time: 500ms, 10s, 2m
    #[arg(long, value_name = "D", value_parser = watchdog::parse_duration)]
    timeout: Option<Duration>,
    /// Run the artifact with this digest; may be repeated, for what is preloaded
    #[arg(long, value_name = "HEX", conflicts_with = "trust_file")]
    digest: Vec<Digest>,
    /// Run artifacts that this public key signed; may be repeated
    #[arg(long, value_name = "PUB", conflicts_with = "trust_file")]
    key: Vec<PathBuf>,
    /// Run artifacts for no other reason than that they are there
    #[arg(long)]
    trust_file: bool,
    /// Arguments of the program, or of the function
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_negative_numbers = true)]
    args: Vec<String>,
}

/// What the host keeps for the program.
struct Guest {
    wasi: WasiCtx,
}

impl Run {
    pub(crate) fn execute(&self) -> anyhow::Result<Outcome> {
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
        let outcome = self
            .run(&program, &preloads)
            .with_context(|| format!("cannot run {}", self.file.display()));
        match outcome {
            Ok(()) => Ok(Outcome::Done),
            Err(error) => self.ended(error),
        }
    }

    /// Instantiates everything and calls into the program.
    fn run<'code>(
        &self,
        program: &'code Artifact,
        preloads: &'code [(&str, &Path, Artifact)],
    ) -> anyhow::Result<()> {
        let engine = Engine::default();
        let mut store = Store::new(&engine, Guest { wasi: self.wasi()? });
        let mut linker = Linker::new(&engine);
        cwasm_wasi::add_to_linker(&mut linker, |guest: &mut Guest| &mut guest.wasi)?;
        // Code that counts fuel stops without any.
        store.set_fuel(self.fuel.unwrap_or(u64::MAX));
        if let Some(limit) = self.timeout {
            store.set_epoch_deadline(1);
            watchdog::start(&engine, limit).context("cannot start a thread for `--timeout`")?;
        }
        for (name, path, artifact) in preloads {
            let instance = instantiate(&linker, &mut store, artifact)
                .and_then(|instance| initialize(&mut store, instance).map(|()| instance))
                .with_context(|| format!("cannot preload {}", path.display()))?;
            linker.instance(&store, name, instance)?;
        }
        let instance = instantiate(&linker, &mut store, program)?;
        match &self.invoke {
            Some(name) => {
                initialize(&mut store, instance)?;
                self.invoke(&mut store, instance, name)
            }
            None if instance.export(&store, "_start").is_some() => {
                Ok(instance.typed_func::<(), ()>(&store, "_start")?.call(&mut store, ())?)
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

    /// What the program may use.
    fn wasi(&self) -> anyhow::Result<WasiCtx> {
        let mut wasi = WasiCtx::builder();
        let name = self.file.file_name().unwrap_or(self.file.as_os_str());
        wasi.arg(name.as_encoded_bytes()).args(&self.args).inherit_stdio();
        for (name, value) in &self.env {
            wasi.env(name, value);
        }
        for directory in &self.directories {
            let (host, guest) =
                directory.split_once("::").unwrap_or((directory.as_str(), directory.as_str()));
            wasi.preopened_dir(host, guest);
        }
        Ok(wasi.build()?)
    }

    /// Whether any of the files that were given is an artifact.
    fn any_artifact(&self) -> anyhow::Result<bool> {
        let preloads = self.preload.iter().map(|(_, path)| path);
        for path in preloads.chain([&self.file]) {
            if Kind::of(path, &input::front(path)?) == Kind::Artifact {
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
                let bytes = compile_file(path, &input::read(path)?, &self.settings())?;
                let digest = Digest::stated_in(&bytes)
                    .context("the compiler wrote no digest, which is a bug in cwasm")?;
                Artifact::from_bytes(&bytes, &Trust::digest(digest))
            }
            Kind::Artifact => self.load_artifact(path, &front, keys)?,
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

    fn load_artifact(
        &self,
        path: &Path,
        front: &[u8],
        keys: &[PublicKey],
    ) -> anyhow::Result<Result<Artifact, LoadError>> {
        if self.trust_file {
            // SAFETY: `--trust-file` is the user's word that the file is an
            // unmodified output of `cwasm compile`; its help says what it stands for.
            return Ok(unsafe { Artifact::load_trusting_file(path) });
        }
        // What the file says about itself only chooses among the digests that
        // the user gave; the loader compares that one with the contents.
        let stated = Digest::stated_in(front);
        let pinned = self.digest.iter().find(|digest| stated == Some(**digest));
        if pinned.is_none() && !keys.is_empty() {
            return Ok(Artifact::load(path, &Trust::keys(keys.iter().copied())));
        }
        if let Some(digest) = pinned.or(self.digest.first()) {
            return Ok(Artifact::load(path, &Trust::digest(*digest)));
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

    /// What became of a program that did not simply return.
    fn ended(&self, error: anyhow::Error) -> anyhow::Result<Outcome> {
        let Some(cause) = error.downcast_ref::<Error>() else { return Err(error) };
        if let Some(ProcExit(status)) = cause.downcast_host() {
            return Ok(Outcome::Exited(*status));
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

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("an environment variable is given as NAME=VALUE".to_owned()),
    }
}

fn parse_preload(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("a module to preload is given as NAME=FILE".to_owned()),
    }
}
