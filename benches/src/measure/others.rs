//! Other engines, whichever are installed, as processes: `make bench-more`.
//!
//! Each runs the same programs from wasm, compilation included unless it keeps what it
//! compiled. The programs' own times are not comparable here; whole processes are.

use std::path::Path;
use std::process::Command;

use super::process::{BENCH, HELLO, Usage, find, usage};
use crate::clock::Samples;
use crate::report::{Report, Row};
use crate::{Options, Result};

/// An engine and how it is told to run a WASI program.
struct Other {
    name: &'static str,
    command: &'static str,
    args: &'static [&'static str],
}

const OTHERS: [Other; 6] = [
    Other { name: "wasmer", command: "wasmer", args: &["run"] },
    Other { name: "wasmi", command: "wasmi_cli", args: &[] },
    Other { name: "wazero", command: "wazero", args: &["run"] },
    Other { name: "WAMR", command: "iwasm", args: &[] },
    Other { name: "wasm3", command: "wasm3", args: &[] },
    Other {
        name: "Node",
        command: "node",
        args: &["--no-warnings", "--input-type=module", "-e", NODE],
    },
];

/// Runs the file that is the last argument.
const NODE: &str = r"
import { readFile } from 'node:fs/promises';
import { WASI } from 'node:wasi';
const wasi = new WASI({ version: 'preview1' });
const module = await WebAssembly.compile(await readFile(process.argv.at(-1)));
wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));
";

/// Computes for a while without help from outside.
const BUSY: &str = include_str!("../../kernels/busy.wat");

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let Some(cwasm) = find("CWASM", "cwasm", &["../target/release/cwasm"]) else {
        report.note("other engines: skipped, there is no cwasm; run `make build`, or set CWASM");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    for (name, text) in [("hello", HELLO), ("busy", BUSY), ("bench", BENCH)] {
        std::fs::write(folder.path().join(format!("{name}.wasm")), wat::parse_str(text)?)?;
    }
    for other in &OTHERS {
        let Some(path) = find("", other.command, &[]) else {
            report.note(format!("{}: skipped, it is not installed", other.name));
            continue;
        };
        for program in ["hello", "busy"] {
            let wasm = folder.path().join(format!("{program}.wasm"));
            let artifact = folder.path().join(format!("{program}.cwasm"));
            usage(Command::new(&cwasm).arg("compile").arg(&wasm).arg("-o").arg(&artifact))?;
            match pair(options, &cwasm, &artifact, &path, other, &wasm) {
                Ok(samples) => report.add(
                    Row::seconds(format!("process: run {program}.cwasm, wall"), &samples)
                        .against(format!("{} from wasm", other.name)),
                ),
                Err(error) => report.note(format!("{}: skipped, {error}", other.name)),
            }
        }
    }
    Ok(())
}

fn pair(
    options: &Options,
    cwasm: &Path,
    artifact: &Path,
    path: &Path,
    other: &Other,
    wasm: &Path,
) -> Result<(Samples, Samples)> {
    let ours = || usage(Command::new(cwasm).args(["run", "--trust-file"]).arg(artifact));
    let theirs = || usage(Command::new(path).args(other.args).arg(wasm));
    let wall = |usage: Usage| usage.wall;
    crate::clock::alternate(options.rounds(11), || ours().map(wall), || theirs().map(wall))
}
