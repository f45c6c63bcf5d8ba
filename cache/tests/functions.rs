//! The code of functions, kept from one compilation to the next.

#[path = "support/edit.rs"]
mod edit;
mod support;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use cwasm_cache::{Cache, Options};
use cwasm_compiler::{Settings, compile};
use cwasm_loader::Digest;
use support::Folder;

const COUNT: u64 = 50;

fn module() -> Vec<u8> {
    let mut text = String::from("(module (memory 1)\n");
    for number in 0..COUNT {
        writeln!(
            text,
            "(func (export \"f{number}\") (param i32) (result i32)
               (i32.add (i32.load offset={number} (local.get 0)) (i32.const 10)))"
        )
        .unwrap();
    }
    wat::parse_str(text + ")").unwrap()
}

fn cache(folder: &Folder) -> Cache {
    folder.with(Options::default().functions_from(0))
}

/// Gets a module, which must be what a full compilation gives. Returns how many functions
/// were compiled, trampolines among them.
#[track_caller]
fn compiled(cache: &Cache, wasm: &[u8]) -> u64 {
    let before = cache.statistics();
    let artifact = cache.get_or_compile(wasm, &Settings::default()).unwrap();
    let full = compile(wasm, &Settings::default()).unwrap();
    assert_eq!(Some(artifact.digest()), Digest::stated_in(&full));
    let after = cache.statistics();
    assert_eq!(after.compiled, before.compiled + 1, "it was in the cache");
    after.functions_compiled - before.functions_compiled
}

fn file(cache: &Cache) -> PathBuf {
    let mut files = cache.list().unwrap().into_iter().filter(|entry| !entry.artifact);
    let file = files.next().unwrap().path;
    assert!(files.next().is_none(), "one file for all functions of a module");
    file
}

#[test]
fn only_what_changed_is_compiled_again() {
    let folder = Folder::new();
    let first = cache(&folder);
    assert!(compiled(&first, &module()) > COUNT);
    let before = fs::metadata(file(&first)).unwrap().len();
    // Another process.
    let second = cache(&folder);
    let changed = edit::change_one_function(&module());
    assert_eq!(compiled(&second, &changed), 1);
    // What is not used any more is not kept.
    let after = fs::metadata(file(&second)).unwrap().len();
    assert!(after.abs_diff(before) < 16, "{before} {after}");
}

#[test]
fn small_modules_are_left_alone() {
    let folder = Folder::new();
    let cache = folder.cache();
    cache.get_or_compile(&module(), &Settings::default()).unwrap();
    assert!(cache.list().unwrap().iter().all(|entry| entry.artifact));
    assert_eq!(cache.statistics().functions_compiled, 0);
}

#[test]
fn damaged_code_is_set_aside_and_compiled_again() {
    let folder = Folder::new();
    let cache = cache(&folder);
    compiled(&cache, &module());
    let path = file(&cache);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut changed = edit::change_one_function(&module());
    assert!(compiled(&cache, &changed) > COUNT);
    assert_eq!(cache.statistics().corrupt, 1);
    changed.extend_from_slice(&[0, 2, 1, b'x']);
    assert_eq!(compiled(&cache, &changed), 0);
}

#[test]
fn code_that_others_can_write_to_is_not_used() {
    let folder = Folder::new();
    let cache = cache(&folder);
    compiled(&cache, &module());
    let path = file(&cache);
    let mut changed = module();
    for (number, target) in [&path, path.parent().unwrap()].into_iter().enumerate() {
        let before = fs::metadata(target).unwrap().permissions();
        fs::set_permissions(target, fs::Permissions::from_mode(0o777)).unwrap();
        changed.extend_from_slice(&[0, 2, 1, b'0' + u8::try_from(number).unwrap()]);
        assert!(compiled(&cache, &changed) > COUNT);
        fs::set_permissions(target, before).unwrap();
    }
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    changed.extend_from_slice(&[0, 2, 1, b'l']);
    assert!(compiled(&cache, &changed) > COUNT);
}

#[test]
fn pruning_removes_it_like_other_entries() {
    let folder = Folder::new();
    let cache = cache(&folder);
    compiled(&cache, &module());
    assert_eq!(cache.verify().unwrap().intact, 1);
    assert_eq!(cache.prune(Some(0)).unwrap().removed, 2);
    assert_eq!(cache.list().unwrap(), []);
}
