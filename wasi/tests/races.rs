//! Races: while a guest calls, the host swaps what its paths go through for
//! links that lead out, and moves directories under it. Whatever a call finds,
//! it neither reaches nor changes what lies outside.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cwasm_wasi::Errno;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use support::{Guest, Host, SECRET};

/// How often a call is raced at least, and at most if it always ends the same.
const ROUNDS: (u32, u32) = (200, 300_000);

/// What a call got hold of.
#[derive(Debug, PartialEq)]
enum Got {
    Nothing,
    Text(String),
    Inode(u64),
}

/// A call on a path that a race decides about.
type Raced = (&'static str, fn(&mut Guest, &str) -> Result<Got, Errno>);

fn done((): ()) -> Got {
    Got::Nothing
}

fn opened(guest: &mut Guest, result: Result<u32, Errno>) -> Result<Got, Errno> {
    let fd = result?;
    // A directory cannot be read, and a truncated file is empty.
    let text = guest.read_fd(fd).unwrap_or_default();
    guest.close(fd);
    Ok(Got::Text(text))
}

/// Repeats what puts things back until it succeeds, which it does once the
/// attacker has put the directory back.
fn back(mut call: impl FnMut() -> Result<(), Errno>) {
    for _ in 0..ROUNDS.1 {
        if call().is_ok() {
            return;
        }
    }
    panic!("what the call made is not where it should be");
}

/// Every call that takes a path, on something in a directory. What a call
/// changes is put back.
const IN_A_DIRECTORY: &[Raced] = &[
    ("open", |guest, dir| guest.read(&format!("{dir}/file"), 1).map(Got::Text)),
    ("open, not following", |guest, dir| guest.read(&format!("{dir}/file"), 0).map(Got::Text)),
    ("open to write", |guest, dir| {
        let result = guest.open(&format!("{dir}/file"), 1, 0);
        opened(guest, result)
    }),
    ("truncate", |guest, dir| {
        let result = guest.open(&format!("{dir}/scratch"), 1, 1 | 8);
        opened(guest, result)
    }),
    ("create", |guest, dir| {
        let path = format!("{dir}/new");
        let result = guest.open(&path, 1, 1 | 4);
        let got = opened(guest, result)?;
        back(|| guest.unlink(&path));
        Ok(got)
    }),
    ("unlink", |guest, dir| {
        let path = format!("{dir}/scratch");
        guest.unlink(&path)?;
        back(|| guest.open(&path, 1, 1 | 4).map(|fd| guest.close(fd)));
        Ok(Got::Nothing)
    }),
    ("open directory", |guest, dir| {
        let dir = guest.open(&format!("{dir}/dir"), 1, 2)?;
        let file = guest.open_at(dir, "file", 1, 0, 1 << 1);
        let got = opened(guest, file);
        guest.close(dir);
        got
    }),
    ("stat", |guest, dir| guest.inode(&format!("{dir}/file"), 1).map(Got::Inode)),
    ("stat, not following", |guest, dir| guest.inode(&format!("{dir}/file"), 0).map(Got::Inode)),
    ("times", |guest, dir| guest.set_times(&format!("{dir}/file"), 1).map(done)),
    ("times, not following", |guest, dir| guest.set_times(&format!("{dir}/link"), 0).map(done)),
    ("create directory", |guest, dir| {
        let path = format!("{dir}/made");
        guest.create_directory(&path)?;
        back(|| guest.remove_directory(&path));
        Ok(Got::Nothing)
    }),
    ("remove directory", |guest, dir| {
        let path = format!("{dir}/dir/empty");
        guest.remove_directory(&path)?;
        back(|| guest.create_directory(&path));
        Ok(Got::Nothing)
    }),
    ("readlink", |guest, dir| guest.readlink(&format!("{dir}/link")).map(Got::Text)),
    ("symlink", |guest, dir| {
        let path = format!("{dir}/symbolic");
        guest.symlink("x", &path)?;
        back(|| guest.unlink(&path));
        Ok(Got::Nothing)
    }),
    ("link from", |guest, dir| {
        guest.link(&format!("{dir}/file"), "stolen")?;
        let got = guest.read("stolen", 1);
        guest.unlink("stolen")?;
        got.map(Got::Text)
    }),
    ("link to", |guest, dir| {
        let path = format!("{dir}/linked");
        guest.link("mine", &path)?;
        back(|| guest.unlink(&path));
        Ok(Got::Nothing)
    }),
    ("rename from", |guest, dir| {
        let path = format!("{dir}/mobile");
        guest.rename(&path, "stolen")?;
        let got = guest.read("stolen", 1).map(Got::Text);
        back(|| guest.rename("stolen", &path));
        got
    }),
    ("rename to", |guest, dir| {
        let path = format!("{dir}/mine");
        guest.rename("mine", &path)?;
        back(|| guest.rename(&path, "mine"));
        Ok(Got::Nothing)
    }),
];

/// One of these by its name.
fn named(name: &str) -> &'static Raced {
    IN_A_DIRECTORY.iter().find(|(other, _)| *other == name).unwrap()
}

/// Ends the attack when the attacked thread is done, or has panicked.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Calls `call` in rounds while `attack` runs on another thread, over and over.
fn race(
    host: &Host,
    path: &str,
    (name, call): &Raced,
    attack: impl Fn() + Sync,
    mut check: impl FnMut(Got),
) {
    let stop = AtomicBool::new(false);
    let attacks = AtomicU64::new(0);
    let before = host.state_outside();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                attack();
                attacks.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stop = StopOnDrop(&stop);
        let mut guest = host.guest();
        let (mut succeeded, mut refused) = (0, 0);
        for round in 0..ROUNDS.1 {
            match call(&mut guest, path) {
                Ok(got) => {
                    check(got);
                    succeeded += 1;
                }
                Err(_) => refused += 1,
            }
            let raced = attacks.load(Ordering::Relaxed) > 3 && succeeded > 0 && refused > 0;
            if round >= ROUNDS.0 && raced {
                break;
            }
        }
        // Each side of the race was seen, so that there was one.
        assert!(succeeded > 0 && refused > 0, "{name}: {succeeded} succeeded, {refused} refused");
    });
    assert_eq!(host.state_outside(), before, "{name}");
}

/// Puts into `inside/victim` what lies outside under the same names.
fn victim(host: &Host) -> PathBuf {
    let victim = host.inside().join("victim");
    fs::create_dir_all(victim.join("dir/empty")).unwrap();
    fs::write(victim.join("file"), "inner").unwrap();
    fs::write(victim.join("mobile"), "inner").unwrap();
    fs::write(victim.join("scratch"), "inner").unwrap();
    fs::write(host.outside().join("mobile"), SECRET).unwrap();
    fs::write(host.outside().join("scratch"), SECRET).unwrap();
    fs::write(victim.join("dir/file"), "inner").unwrap();
    symlink("inner", victim.join("link")).unwrap();
    fs::write(host.inside().join("mine"), "mine").unwrap();
    victim
}

fn exchange(one: &Path, other: &Path) {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

/// Nothing that a call got comes from outside.
fn check_got(host: &Host) -> impl FnMut(Got) {
    let secrets: Vec<u64> = ["file", "dir/file", "link", "mobile", "scratch"]
        .iter()
        .filter_map(|name| fs::symlink_metadata(host.outside().join(name)).ok())
        .map(|stat| stat.ino())
        .collect();
    move |got| match got {
        Got::Text(text) => assert!(text != SECRET && text != "file", "it got {text:?}"),
        Got::Inode(inode) => assert!(!secrets.contains(&inode), "it got the inode {inode}"),
        Got::Nothing => {}
    }
}

#[test]
fn a_directory_is_swapped_for_a_link_that_leads_out() {
    for target in ["relative", "absolute"] {
        let host = Host::new();
        let victim = victim(&host);
        let trap = host.inside().join("trap");
        match target {
            "relative" => symlink("../outside", &trap).unwrap(),
            _ => symlink(host.outside(), &trap).unwrap(),
        }
        for call in IN_A_DIRECTORY {
            race(&host, "victim", call, || exchange(&victim, &trap), check_got(&host));
        }
    }
}

#[test]
fn a_parent_is_swapped_while_the_path_goes_through_it() {
    let host = Host::new();
    let victim = victim(&host);
    let trap = host.inside().join("trap");
    symlink("../outside/dir", &trap).unwrap();
    // Through the directory and out of it again: with the link in its place,
    // `..` would be the directory outside.
    for name in ["open", "open to write", "stat", "times", "unlink", "create"] {
        race(&host, "victim/dir/..", named(name), || exchange(&victim, &trap), check_got(&host));
    }
    for call in IN_A_DIRECTORY {
        race(&host, "victim/../victim", call, || exchange(&victim, &trap), check_got(&host));
    }
}

#[test]
fn the_last_name_is_swapped_for_a_link_that_leads_out() {
    const ON_A_FILE: &[Raced] = &[
        ("open", |guest, path| guest.read(path, 1).map(Got::Text)),
        ("open, not following", |guest, path| guest.read(path, 0).map(Got::Text)),
        ("open to write", |guest, path| {
            let result = guest.open(path, 1, 0);
            opened(guest, result)
        }),
        ("truncate or create", |guest, path| {
            let result = guest.open(path, 1, 1 | 8);
            opened(guest, result)
        }),
        ("stat", |guest, path| guest.inode(path, 1).map(Got::Inode)),
        ("times", |guest, path| guest.set_times(path, 1).map(done)),
        ("link, then read", |guest, path| {
            let result = guest.link(path, "linked");
            let got = guest.read("linked", 1);
            let _ = guest.unlink("linked");
            result.and(got).map(Got::Text)
        }),
        ("readlink", |guest, path| {
            // What is in the link is the guest's to read; what is not a link fails.
            guest.readlink(path).map(|target| {
                assert_eq!(target, "../outside/file");
                Got::Nothing
            })
        }),
    ];
    let host = Host::new();
    let (leaf, trap) = (host.inside().join("leaf"), host.inside().join("trap"));
    fs::write(&leaf, "inner").unwrap();
    symlink("../outside/file", &trap).unwrap();
    for call in ON_A_FILE {
        race(&host, "leaf", call, || exchange(&leaf, &trap), check_got(&host));
    }
}

#[test]
fn a_directory_moves_out_while_the_path_goes_up_from_it() {
    let host = Host::new();
    let deep = host.inside().join("a/b/c");
    fs::create_dir_all(&deep).unwrap();
    // Where it is at home, two up from it is `a`, with a file of this name. Where
    // it is moved to, two up is where `outside` lies.
    fs::create_dir(host.inside().join("a/outside")).unwrap();
    fs::write(host.inside().join("mine"), "mine").unwrap();
    for name in ["file", "mobile", "scratch"] {
        fs::write(host.inside().join("a/outside").join(name), "inner").unwrap();
        fs::write(host.outside().join(name), SECRET).unwrap();
    }
    let elsewhere = host.inside().parent().unwrap().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let away = elsewhere.join("c");
    let attack = || {
        fs::rename(&deep, &away).unwrap();
        fs::rename(&away, &deep).unwrap();
    };
    for name in [
        "open",
        "open to write",
        "truncate",
        "unlink",
        "stat",
        "times",
        "create",
        "symlink",
        "create directory",
        "link from",
        "rename from",
        "rename to",
    ] {
        race(&host, "a/b/c/../../outside", named(name), attack, check_got(&host));
    }
}

#[test]
fn threads_of_the_guest_race_each_other() {
    let host = Host::new();
    let victim = victim(&host);
    let before = host.state_outside();
    let mut guest = host.guest();
    guest.symlink("../outside", "trap").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        // The guest does the swapping itself, name by name.
        let mut attacker = guest.thread();
        let stop = &stop;
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = attacker.rename("victim", "hidden");
                let _ = attacker.rename("trap", "victim");
                let _ = attacker.rename("victim", "trap");
                let _ = attacker.rename("hidden", "victim");
            }
        });
        let mut check = check_got(&host);
        for _ in 0..3000 {
            for (_, call) in ["open", "open to write", "stat"].map(named) {
                if let Ok(got) = call(&mut guest, "victim") {
                    check(got);
                }
            }
        }
    });
    assert_eq!(host.state_outside(), before);
    assert!(victim.join("file").exists());
}
