//! `cwasm cache`, and `cwasm run` through it.

mod command;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use command::Folder;

const SEVEN: &str = "(module (func (export \"f\") (result i32) (i32.const 7)))";

fn json(folder: &Folder, arguments: &str) -> serde_json::Value {
    let ended = folder.cwasm(arguments);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"))
}

#[test]
fn a_module_is_compiled_once() {
    let folder = Folder::new();
    folder.write("in.wat", SEVEN);
    for _ in 0..3 {
        folder.cwasm("run in.wat --invoke f").printed("7\n");
    }
    let stats = json(&folder, "cache stats --json");
    assert_eq!(
        (&stats["entries"], &stats["hits"], &stats["compiled"]),
        (&1.into(), &2.into(), &1.into())
    );
    folder.cwasm("run --no-cache in.wat --invoke f").printed("7\n");
    folder.cwasm("compile in.wat");
    assert_eq!(json(&folder, "cache stats --json")["hits"], 2);
    // Code that counts fuel is another entry.
    folder.cwasm("run in.wat --fuel 1000 --invoke f").printed("7\n");
    let list = json(&folder, "cache list --json");
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!(list[0]["state"], "current");
    assert_eq!(list[0]["key"].as_str().unwrap().len(), 64);
    assert!(folder.cwasm("cache list").stdout.contains(" bytes "));
}

#[test]
fn what_is_damaged_is_set_aside_and_runs_all_the_same() {
    let folder = Folder::new();
    folder.write("in.wat", SEVEN);
    folder.cwasm("run in.wat --invoke f").printed("7\n");
    folder.cwasm("cache verify").printed("1 intact, 0 corrupt\n");
    let list = json(&folder, "cache list --json");
    let path = list[0]["path"].as_str().unwrap().to_owned();
    let damage = || {
        let mut bytes = fs::read(&path).unwrap();
        bytes[5000] ^= 1;
        fs::write(&path, bytes).unwrap();
    };
    damage();
    let ended = folder.cwasm("cache verify");
    assert_eq!(ended.code, 1);
    assert!(ended.stdout.starts_with("0 intact, 1 corrupt\n"), "{ended:?}");
    folder.cwasm("run in.wat --invoke f").printed("7\n");
    damage();
    folder.cwasm("run in.wat --invoke f").printed("7\n");
    let stats = json(&folder, "cache stats --json");
    assert_eq!((&stats["corrupt"], &stats["compiled"]), (&2.into(), &3.into()));
}

#[test]
fn a_cache_is_pruned_and_cleared() {
    let folder = Folder::new();
    for number in 0..3 {
        let name = format!("{number}.wat");
        folder.write(&name, SEVEN.replace('7', &number.to_string()));
        folder.cwasm(&format!("run {name} --invoke f")).printed(&format!("{number}\n"));
    }
    assert_eq!(json(&folder, "cache prune --json")["kept"], 3);
    assert_eq!(json(&folder, "cache prune --max-size 0 --json")["removed"], 3);
    folder.cwasm("run 1.wat --invoke f").printed("1\n");
    let cleared = folder.cwasm("cache clear");
    assert!(cleared.stdout.starts_with("removed 1 entries"), "{cleared:?}");
    assert_eq!(json(&folder, "cache stats --json")["compiled"], 0);
    assert_eq!(folder.cwasm("cache prune --max-size many").code, 2);
}

#[test]
fn a_directory_of_others_is_named_and_the_program_runs() {
    let folder = Folder::new();
    folder.write("in.wat", SEVEN);
    fs::set_permissions(folder.cache.path(), Permissions::from_mode(0o777)).unwrap();
    let ended = folder.cwasm("run in.wat --invoke f");
    ended.printed("7\n");
    assert!(ended.stderr.starts_with("cwasm: warning: running without a cache: "), "{ended:?}");
    assert!(ended.stderr.contains("chmod go-w"), "{ended:?}");
    folder.cwasm("cache stats").refused("the cache directory cannot be used: ");
    let path = format!("{}\n", folder.cache.path().display());
    folder.cwasm("cache dir").printed(&path);
}

#[test]
fn the_default_directory_is_the_users_own() {
    let folder = Folder::new();
    folder.write("in.wat", SEVEN);
    let run = |home: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cwasm"));
        command.args(["run", "in.wat", "--invoke", "f"]).current_dir(folder.path("."));
        command.env_remove("CWASM_CACHE_DIR").env_remove("XDG_CACHE_HOME").env("HOME", home);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    };
    let home = folder.path("home");
    assert_eq!(run(home.to_str().unwrap()), ("7\n".into(), String::new()));
    let mode = fs::metadata(home.join(".cache/cwasm")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // Nowhere to keep anything: the program runs, and says nothing about it.
    assert_eq!(run(""), ("7\n".into(), String::new()));
    assert_eq!(run("/proc/none"), ("7\n".into(), String::new()));
}
