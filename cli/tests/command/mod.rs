//! Running the `cwasm` command in a folder of its own.

#![allow(dead_code, unreachable_pub, reason = "shared by test binaries that each use a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with files, and the command run in it.
pub struct Folder {
    folder: tempfile::TempDir,
    /// The cache of the commands that are run in it.
    pub cache: tempfile::TempDir,
}

/// How the command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Folder {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), cache: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        fs::write(self.path(name), bytes).unwrap();
        self
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// The names of the files.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Runs `cwasm` with arguments that are separated by spaces.
    pub fn cwasm(&self, arguments: &str) -> Ended {
        self.cwasm_with(&arguments.split(' ').collect::<Vec<_>>(), "")
    }

    /// Runs `cwasm` with arguments and an input.
    pub fn cwasm_with(&self, arguments: &[&str], input: &str) -> Ended {
        let stdin = self.path(".stdin");
        fs::write(&stdin, input).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_cwasm"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env("CWASM_CACHE_DIR", self.cache.path())
            .stdin(fs::File::open(&stdin).unwrap())
            .output()
            .unwrap();
        fs::remove_file(&stdin).unwrap();
        Ended::new(output)
    }

    /// Compiles a file; returns the digest.
    pub fn compile(&self, arguments: &str) -> String {
        let ended = self.cwasm(format!("compile {arguments}").trim_end());
        assert_eq!(ended.code, 0, "{ended:?}");
        let digest = ended.stdout.split_whitespace().next().unwrap().to_owned();
        assert_eq!(digest.len(), 64);
        digest
    }
}

impl Ended {
    fn new(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Asserts that the command was refused, with this message.
    #[track_caller]
    pub fn refused(&self, message: &str) {
        assert_eq!(self.code, 1, "{self:?}");
        assert_eq!(self.stdout, "");
        assert!(
            self.stderr.starts_with(&format!("cwasm: error: {message}")),
            "{:?} does not begin with {message:?}",
            self.stderr
        );
    }

    /// Asserts that the command did it, and printed this.
    #[track_caller]
    pub fn printed(&self, stdout: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (0, stdout), "{}", self.stderr);
    }
}

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
