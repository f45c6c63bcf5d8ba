//! The workload: the sightglass programs, and modules that are made here.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

/// A real program.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: String,
    pub path: PathBuf,
    pub wasm: Vec<u8>,
}

impl Program {
    /// `NAME.STREAM.expected`, else `default.STREAM.expected`. White space at the end
    /// does not count.
    pub fn expected(&self, stream: &str) -> Option<Vec<u8>> {
        let own = self.path.with_extension(format!("{stream}.expected"));
        let default = self.path.with_file_name(format!("default.{stream}.expected"));
        Some(fs::read(own).or_else(|_| fs::read(default)).ok()?.trim_ascii_end().to_vec())
    }

    /// The folder that holds its inputs.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }
}

/// Where the corpora are: beside the repository, or where `CWASM_CORPORA` says.
fn root() -> PathBuf {
    let corpora = std::env::var_os("CWASM_CORPORA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora"),
        PathBuf::from,
    );
    corpora.join("sightglass")
}

/// Every program, sorted by name; none if the corpus is not there.
pub fn programs() -> Vec<Program> {
    let folders = fs::read_dir(root()).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<Program> = folders
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .filter_map(|path| {
            let wasm = fs::read(&path).ok()?;
            let folder = path.parent()?.file_name()?.to_string_lossy().into_owned();
            let stem = path.file_stem()?.to_string_lossy().into_owned();
            let name = match stem.as_str() {
                "benchmark" => folder,
                stem if stem.starts_with(&folder) => stem.to_owned(),
                stem => format!("{folder}/{stem}"),
            };
            Some(Program { name, path, wasm })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The program with this name.
pub fn program(name: &str) -> Option<Program> {
    programs().into_iter().find(|program| program.name == name)
}

/// A module with `functions` functions of some dozen operators each, and `data`
/// bytes of initial memory. `first` is empty; `all` calls every function.
pub fn synthetic(functions: usize, data: usize) -> Result<Vec<u8>> {
    let mut text = String::new();
    let pages = data.div_ceil(65536) + 1;
    let _ = writeln!(text, "(module (memory (export \"memory\") {pages})");
    for number in 0..functions {
        let next = (number + 1) % functions.max(1);
        let _ = writeln!(
            text,
            "(func $f{number} (param $x i32) (result i32) (local $i i32)
               (if (i32.eqz (local.get $x)) (then (return (i32.const {number}))))
               (loop $more
                 (i32.store offset={offset} (i32.and (local.get $i) (i32.const 1020))
                   (i32.add (i32.mul (local.get $x) (i32.const {factor}))
                     (i32.load (i32.and (local.get $x) (i32.const 1020)))))
                 (local.set $i (i32.add (local.get $i) (i32.const 4)))
                 (br_if $more (i32.lt_u (local.get $i) (local.get $x))))
               (i32.xor (call $f{next} (i32.shr_u (local.get $x) (i32.const 1)))
                 (i32.load16_u (i32.and (local.get $i) (i32.const 1020)))))",
            offset = number % 1024 * 4,
            factor = number * 2 + 1,
        );
    }
    text.push_str("(func (export \"first\"))\n(func (export \"all\")\n");
    for number in 0..functions {
        let _ = writeln!(text, "(drop (call $f{number} (i32.const 0)))");
    }
    text.push_str("))\n");
    let wasm = wat::parse_str(&text)?;
    if data == 0 { Ok(wasm) } else { Ok(with_data(&wasm, data)) }
}

/// Appends a data section of pseudo-random bytes, which text would take long to say.
fn with_data(wasm: &[u8], length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    // One active segment for memory 0 at address 0.
    let mut section = vec![1, 0, 0x41, 0, 0x0b];
    leb(&mut section, length);
    section.extend_from_slice(&bytes);
    let mut whole = wasm.to_vec();
    whole.push(11);
    leb(&mut whole, section.len());
    whole.extend_from_slice(&section);
    whole
}

/// LEB128.
fn leb(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        out.push(low | if value == 0 { 0 } else { 0x80 });
        if value == 0 {
            return;
        }
    }
}
