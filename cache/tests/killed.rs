//! Processes that use one cache and are killed at any moment.

mod support;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cwasm_cache::Cache;
use support::{Folder, files, get_and_run};

const ROUNDS: u64 = 100;

#[test]
fn a_process_that_is_killed_leaves_nothing_that_matters() {
    let folder = Folder::new();
    // A generator of Knuth's; the seed makes a failure repeatable.
    let mut random = 0x5eed_u64;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    let mut found = 0;
    for round in 0..ROUNDS {
        // Two at once, so that one may be killed while the other waits for it.
        let mut children = [child(&folder, round), child(&folder, round)];
        std::thread::sleep(Duration::from_micros(2000 + next(40_000)));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let cache = folder.cache();
        let verified = cache.verify().unwrap();
        assert_eq!(verified.corrupt, <[std::path::PathBuf; 0]>::default(), "round {round}");
        found = found.max(verified.intact);
        get_and_run(&cache, number(round, 0));
        if next(8) == 0 {
            cache.prune(None).unwrap();
        }
    }
    assert!(found > 10, "the processes were killed before they did anything: {found}");
    let cache = folder.cache();
    cache.prune(None).unwrap();
    let left = files(&folder.path());
    assert!(!left.iter().any(|path| path.extension().is_some_and(|it| it == "tmp")), "{left:?}");
    for entry in cache.list().unwrap() {
        assert!(!entry.corrupt, "{entry:?}");
    }
}

#[test]
fn many_processes_compile_once() {
    let folder = Folder::new();
    let children: Vec<Child> = (0..8)
        .map(|_| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "child_that_asks_once", "--nocapture"]);
            command.env("CWASM_TEST_CACHE", folder.path()).stdout(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let all = folder.cache().all_statistics();
    assert_eq!((all.compiled, all.hits, all.unwritten), (1, 7, 0));
}

#[test]
fn child_that_asks_once() {
    // Without the variable, nobody asks for it.
    let Some(path) = std::env::var_os("CWASM_TEST_CACHE") else { return };
    get_and_run(&Cache::open(path).unwrap(), 1);
}

/// Numbers that children of different rounds share in part.
fn number(round: u64, step: u64) -> i32 {
    i32::try_from((round * 3 + step) % 1000).unwrap()
}

fn child(folder: &Folder, round: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_is_killed", "--nocapture"])
        .env("CWASM_TEST_CACHE", folder.path())
        .env("CWASM_TEST_ROUND", round.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn child_that_is_killed() {
    // Without the variables, nobody asks for it.
    let Some(path) = std::env::var_os("CWASM_TEST_CACHE") else { return };
    let round = std::env::var("CWASM_TEST_ROUND").unwrap().parse().unwrap();
    for step in 0..1000 {
        let cache = Cache::open(&path).unwrap();
        get_and_run(&cache, number(round, step));
        if step % 4 == 3 {
            cache.prune(Some(100_000)).unwrap();
        }
    }
}
