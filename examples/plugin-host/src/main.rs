//! Filters standard input with a plugin: `plugin-host PLUGIN.cwasm DIGEST`.
//!
//! The application contains no compiler. It runs the plugin with this
//! digest and no other, whoever can write the file. The plugin can reach what the
//! application gives it, and nothing else: a buffer in its own memory, and
//! the function `host` `found`.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, Write, stdin, stdout};
use std::process::ExitCode;

use cwasm_loader::{Artifact, Caller, Digest, Engine, Linker, Memory, Store, Trust, TypedFunc};

/// What the application keeps for its plugin.
#[derive(Debug, Default)]
struct Findings {
    /// How often the plugin found each kind of thing.
    counts: BTreeMap<i32, usize>,
}

/// A plugin, ready to be called. It borrows the artifact that holds its code.
struct Plugin<'code> {
    store: Store<'code, Findings>,
    memory: Memory<'code>,
    filter: TypedFunc<'code, u32, u32>,
    buffer: u32,
    capacity: u32,
}

impl<'code> Plugin<'code> {
    fn new(artifact: &'code Artifact) -> Result<Self, Box<dyn Error>> {
        let engine = Engine::default();
        let mut linker = Linker::new(&engine);
        let found = |mut caller: Caller<'_, '_, Findings>, kind: i32, _offset: i32| {
            *caller.data_mut().counts.entry(kind).or_default() += 1;
        };
        linker.func("host", "found", found)?;
        let mut store = Store::new(&engine, Findings::default());
        let instance = linker.instantiate(&mut store, artifact)?;
        let memory = instance.memory(&store, "memory")?;
        let filter = instance.typed_func(&store, "filter")?;
        let buffer = instance.typed_func::<(), u32>(&store, "buffer")?.call(&mut store, ())?;
        let capacity = instance.typed_func::<(), u32>(&store, "capacity")?.call(&mut store, ())?;
        Ok(Self { store, memory, filter, buffer, capacity })
    }

    /// Filters a line in place.
    fn filter(&mut self, line: &mut Vec<u8>) -> Result<(), Box<dyn Error>> {
        let length = u32::try_from(line.len())
            .ok()
            .filter(|length| *length <= self.capacity)
            .ok_or("the line is too long for the plugin")?;
        self.memory.write(&mut self.store, self.buffer.into(), line)?;
        let length = self.filter.call(&mut self.store, length)?;
        // The plugin's word is checked: `read` refuses what is outside its memory.
        line.resize(usize::try_from(length.min(self.capacity))?, 0);
        self.memory.read(&self.store, self.buffer.into(), line)?;
        Ok(())
    }
}

fn run(path: &str, digest: &str) -> Result<(), Box<dyn Error>> {
    let artifact = Artifact::load(path, &Trust::digest(digest.parse::<Digest>()?))?;
    let mut plugin = Plugin::new(&artifact)?;
    let mut input = stdin().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        plugin.filter(&mut line)?;
        stdout().write_all(&line)?;
    }
    for (kind, count) in &plugin.store.data().counts {
        let name = if *kind == 1 { "e-mail addresses" } else { "numbers" };
        eprintln!("{count} {name} removed");
    }
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, digest] = &args[..] else {
        eprintln!("usage: plugin-host PLUGIN.cwasm DIGEST <LOG");
        return ExitCode::from(2);
    };
    match run(path, digest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plugin-host: {error}");
            ExitCode::FAILURE
        }
    }
}
