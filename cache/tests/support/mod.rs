//! Modules to compile, and a cache in a folder of its own.

#![allow(dead_code, unreachable_pub, reason = "shared by test binaries that each use a part")]

use std::fs;
use std::path::{Path, PathBuf};

use cwasm_cache::{Cache, Options};
use cwasm_compiler::Settings;
use cwasm_loader::{Artifact, Engine, Linker, Store};

/// A module whose function `f` returns `number`.
pub fn module(number: i32) -> Vec<u8> {
    wat::parse_str(format!("(module (func (export \"f\") (result i32) i32.const {number}))"))
        .unwrap()
}

/// What the function `f` of an artifact returns.
pub fn run(artifact: &Artifact) -> i32 {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, artifact).unwrap();
    let f = instance.typed_func::<(), i32>(&store, "f").unwrap();
    f.call(&mut store, ()).unwrap()
}

/// Gets a module from the cache, and runs it.
#[track_caller]
pub fn get_and_run(cache: &Cache, number: i32) {
    let artifact = cache.get_or_compile(&module(number), &Settings::default()).unwrap();
    assert_eq!(run(&artifact), number);
}

/// A folder for a cache.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    pub fn cache(&self) -> Cache {
        Cache::open(self.path()).unwrap()
    }

    pub fn with(&self, options: Options) -> Cache {
        options.open(self.path()).unwrap()
    }

    /// The files of the entries.
    pub fn entries(&self) -> Vec<PathBuf> {
        self.cache().list().unwrap().into_iter().map(|entry| entry.path).collect()
    }
}

/// Every file below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}
