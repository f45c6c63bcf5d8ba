//! Reading what the command line names: modules, and the fronts of artifacts.
//!
//! Only regular files are opened, so that a directory, a device or a pipe
//! without a writer is refused rather than waited for. `-` is standard input.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use cwasm_artifact::bundle;
use cwasm_artifact::header::{HEADER_OFFSET, MAGIC, TREE_OFFSET};
use cwasm_artifact::report::Resemblance;
use cwasm_compiler::{CompileError, explain, parse_text};

/// What a file that is to be run holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// WebAssembly, binary or text, or something that the compiler will refuse.
    Module,
    /// An artifact, or something that the loader will refuse.
    Artifact,
    /// Several artifacts.
    Bundle,
}

impl Kind {
    /// What a file holds, by its first bytes, then by its suffix.
    pub(crate) fn of(path: &Path, front: &[u8]) -> Self {
        match Resemblance::of(front) {
            _ if front.starts_with(&bundle::MAGIC) => Self::Bundle,
            Resemblance::Elf | Resemblance::Wasmtime => Self::Artifact,
            _ if path.extension().is_some_and(|suffix| suffix == "cwasm") => Self::Artifact,
            _ => Self::Module,
        }
    }
}

/// Opens a regular file.
fn open(path: &Path) -> anyhow::Result<File> {
    let cannot_read = || format!("cannot read {}", path.display());
    // Opening a named pipe would wait for a writer: look first.
    let kind = std::fs::metadata(path).with_context(cannot_read)?.file_type();
    let found = match () {
        () if kind.is_file() => return File::open(path).with_context(cannot_read),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    bail!("{} is {found}, not a file", path.display())
}

/// The first bytes of a file: as many as the front of an artifact has.
pub(crate) fn front(path: &Path) -> anyhow::Result<Vec<u8>> {
    // With room for all of it, this is one read.
    let mut bytes = Vec::with_capacity(TREE_OFFSET);
    open(path)?
        .take(TREE_OFFSET as u64)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes)
}

/// A whole file, or standard input for `-`.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let result = if path.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes)
    } else {
        open(path)?.read_to_end(&mut bytes)
    };
    result.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes)
}

/// The first `limit` bytes of a file, or of standard input for `-`.
pub(crate) fn read_at_most(path: &Path, limit: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(limit);
    let result = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(limit as u64).read_to_end(&mut bytes)
    } else {
        open(path)?.take(limit as u64).read_to_end(&mut bytes)
    };
    result.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes)
}

/// A whole file that is said to be an artifact. Of what is no object file, only
/// the front is read.
pub(crate) fn artifact(path: &Path) -> anyhow::Result<Vec<u8>> {
    let front = front(path)?;
    match Resemblance::of(&front) {
        Resemblance::Elf | Resemblance::Wasmtime => read(path),
        _ => Ok(front),
    }
}

/// The wasm binary that a file's bytes stand for; text is assembled.
pub(crate) fn module<'a>(path: &Path, bytes: &'a [u8]) -> anyhow::Result<Cow<'a, [u8]>> {
    let path_text = path.display();
    match Resemblance::of(bytes) {
        Resemblance::Empty => bail!("{path_text} is empty, not a WebAssembly module"),
        Resemblance::Elf if bytes.get(HEADER_OFFSET..).is_some_and(|b| b.starts_with(&MAGIC)) => {
            bail!("{path_text} is a cwasm artifact already, not a WebAssembly module")
        }
        Resemblance::Elf => bail!("{path_text} is an ELF file, not a WebAssembly module"),
        Resemblance::Wasmtime => {
            bail!("{path_text} is an artifact of Wasmtime, not a WebAssembly module")
        }
        Resemblance::Unknown => {
            bail!("{path_text} is neither a WebAssembly binary nor text")
        }
        _ => {}
    }
    parse_text(bytes, path).map_err(|error| cannot_compile(path, bytes, error))
}

/// The refusal of a module, with the module's path. `source` is what the file
/// holds, text or binary.
pub(crate) fn cannot_compile(path: &Path, source: &[u8], error: CompileError) -> anyhow::Error {
    let error = if source.starts_with(b"\0asm") { error } else { explain(error, source, path) };
    // Errors in text name the file themselves, with line and column.
    let named = matches!(error, CompileError::Text { .. });
    let error = anyhow::Error::new(error);
    if named { error } else { error.context(format!("cannot compile {}", path.display())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_of_a_file_is_as_long_as_that_of_an_artifact_or_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(TREE_OFFSET * 2).collect();
        for length in [0, 1, TREE_OFFSET - 1, TREE_OFFSET, TREE_OFFSET * 2] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert_eq!(front(&path).unwrap(), bytes[..length.min(TREE_OFFSET)]);
        }
    }

    #[test]
    fn contents_decide_before_the_suffix() {
        let kind = |path: &str, front: &[u8]| Kind::of(Path::new(path), front);
        assert_eq!(kind("a.wasm", b"\x7fELF"), Kind::Artifact);
        assert_eq!(kind("a.wasm", b"\0asm\x01\0\0\0"), Kind::Module);
        assert_eq!(kind("a", b"(module)"), Kind::Module);
        assert_eq!(kind("a.cwasm", &bundle::MAGIC), Kind::Bundle);
        // So that the loader says what is wrong with it.
        assert_eq!(kind("a.cwasm", b""), Kind::Artifact);
    }
}
