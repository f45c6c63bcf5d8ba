//! Ways out of a directory, tried with every call that takes a path: `..`,
//! absolute paths, symbolic links of every kind, hard links.

mod support;

use std::fs;
use std::os::unix::fs::symlink;

use cwasm_wasi::Errno;
use support::{Guest, Host, SECRET};

/// A host whose guest has links that lead outside, and the names by which the
/// folder outside could be reached.
fn host_with_exits() -> (Host, Vec<String>) {
    let host = Host::new();
    let (inside, outside) = (host.inside(), host.outside());
    fs::create_dir_all(inside.join("dir/deep")).unwrap();
    fs::write(inside.join("mine"), "mine").unwrap();
    let absolute = outside.to_str().unwrap().to_owned();
    for (name, target) in [
        ("relative", "../outside"),
        ("absolute", absolute.as_str()),
        ("dir/deep/relative", "../../../outside"),
        ("chain", "chain-2"),
        ("chain-2", "dir/../chain-3"),
        ("chain-3", "relative"),
        ("parent", ".."),
        ("dir/parent", "../.."),
        ("root", "/"),
        ("process", "/proc/self/root"),
        ("dots", "dir/./deep/../../../outside/."),
        ("slashes", "..//outside//"),
    ] {
        symlink(target, inside.join(name)).unwrap();
    }
    let exits = vec![
        "../outside".into(),
        "./../outside".into(),
        "dir/../../outside".into(),
        "dir/deep/../../../outside".into(),
        "dir/..//../outside".into(),
        "../inside/../outside".into(),
        absolute.clone(),
        format!("/{absolute}"),
        format!("dir/../..{absolute}"),
        "relative".into(),
        "absolute".into(),
        "dir/deep/relative".into(),
        "chain".into(),
        "parent/outside".into(),
        "dir/parent/outside".into(),
        "dir/parent/inside/../outside".into(),
        format!("root{absolute}"),
        format!("process{absolute}"),
        format!("/proc/self/root{absolute}"),
        "dots".into(),
        "slashes".into(),
    ];
    (host, exits)
}

/// A call that tries to get at what lies outside, under the name of an exit.
type Attempt = (&'static str, fn(&mut Guest, &str) -> Result<(), Errno>);

const ATTEMPTS: &[Attempt] = &[
    ("open file", |guest, exit| guest.open(&format!("{exit}/file"), 1, 0).map(drop)),
    ("open file, not following", |guest, exit| guest.open(&format!("{exit}/file"), 0, 0).map(drop)),
    ("create file", |guest, exit| guest.open(&format!("{exit}/new"), 1, 1).map(drop)),
    ("create new file", |guest, exit| guest.open(&format!("{exit}/new"), 0, 1 | 4).map(drop)),
    ("truncate file", |guest, exit| guest.open(&format!("{exit}/file"), 1, 8).map(drop)),
    ("open directory", |guest, exit| guest.open(&format!("{exit}/dir"), 1, 2).map(drop)),
    ("open through a link", |guest, exit| guest.open(&format!("{exit}/link"), 1, 0).map(drop)),
    ("read", |guest, exit| guest.read(&format!("{exit}/file"), 1).map(drop)),
    ("stat", |guest, exit| guest.inode(&format!("{exit}/file"), 1).map(drop)),
    ("stat, not following", |guest, exit| guest.inode(&format!("{exit}/link"), 0).map(drop)),
    ("stat of something missing", |guest, exit| guest.inode(&format!("{exit}/none"), 0).map(drop)),
    ("times", |guest, exit| guest.set_times(&format!("{exit}/file"), 1)),
    ("times, not following", |guest, exit| guest.set_times(&format!("{exit}/link"), 0)),
    ("create directory", |guest, exit| guest.create_directory(&format!("{exit}/new"))),
    ("remove directory", |guest, exit| guest.remove_directory(&format!("{exit}/dir/empty"))),
    ("unlink", |guest, exit| guest.unlink(&format!("{exit}/file"))),
    ("readlink", |guest, exit| guest.readlink(&format!("{exit}/link")).map(drop)),
    ("symlink", |guest, exit| guest.symlink("mine", &format!("{exit}/new"))),
    ("link from", |guest, exit| guest.link(&format!("{exit}/file"), "stolen")),
    ("link to", |guest, exit| guest.link("mine", &format!("{exit}/new"))),
    ("rename from", |guest, exit| guest.rename(&format!("{exit}/file"), "stolen")),
    ("rename directory from", |guest, exit| guest.rename(&format!("{exit}/dir"), "stolen")),
    ("rename to", |guest, exit| guest.rename("mine", &format!("{exit}/new"))),
    ("rename over", |guest, exit| guest.rename("mine", &format!("{exit}/file"))),
];

#[test]
fn no_call_reaches_what_lies_outside() {
    let (host, exits) = host_with_exits();
    let before = host.state_outside();
    let mut guest = host.guest();
    for exit in &exits {
        for (name, attempt) in ATTEMPTS {
            // `Perm` whatever is there: a guest learns nothing about the host.
            assert_eq!(attempt(&mut guest, exit), Err(Errno::Perm), "{name}, {exit}");
        }
    }
    assert_eq!(host.state_outside(), before);
    assert!(!host.inside().join("stolen").exists());
    assert_eq!(fs::read_to_string(host.inside().join("mine")).unwrap(), "mine");
}

#[test]
fn a_link_in_the_last_place_is_no_exit_either() {
    let (host, _) = host_with_exits();
    let inside = host.inside();
    symlink("../outside/file", inside.join("to-file")).unwrap();
    symlink(host.outside().join("file"), inside.join("to-file-absolute")).unwrap();
    symlink("../outside/new", inside.join("dangling-out")).unwrap();
    symlink("../outside/dir/empty", inside.join("to-empty")).unwrap();
    let before = host.state_outside();
    let mut guest = host.guest();
    for link in ["to-file", "to-file-absolute", "dangling-out", "to-empty"] {
        for oflags in [0, 1, 2, 8, 1 | 8] {
            assert_eq!(guest.open(link, 1, oflags), Err(Errno::Perm), "{link} {oflags}");
            let not_followed = guest.open(link, 0, oflags);
            assert!(
                matches!(not_followed, Err(Errno::Loop | Errno::NotDir | Errno::Perm)),
                "{link} {oflags}: {not_followed:?}"
            );
        }
        assert_eq!(guest.open(link, 0, 1 | 4), Err(Errno::Exist));
        assert_eq!(guest.inode(link, 1), Err(Errno::Perm));
        assert_eq!(guest.set_times(link, 1), Err(Errno::Perm));
        assert_eq!(guest.create_directory(link), Err(Errno::Exist));
        assert_eq!(guest.remove_directory(link), Err(Errno::NotDir));
        // A trailing slash asks for what the link points to.
        assert!(guest.remove_directory(&format!("{link}/")).is_err());
        assert!(guest.unlink(&format!("{link}/")).is_err());
        assert!(guest.rename("mine", &format!("{link}/")).is_err());
    }
    // The link itself is the guest's to look at, move, link and remove. Where an
    // absolute one points is told to nobody.
    assert_eq!(guest.readlink("to-file"), Ok("../outside/file".into()));
    assert_eq!(guest.readlink("to-file-absolute"), Err(Errno::Perm));
    guest.inode("to-file", 0).unwrap();
    guest.set_times("to-file", 0).unwrap();
    guest.link("to-file", "hard").unwrap();
    assert_eq!(guest.read("hard", 1), Err(Errno::Perm));
    guest.rename("hard", "moved").unwrap();
    guest.rename("mine", "to-file").unwrap();
    guest.unlink("moved").unwrap();
    assert_eq!(host.state_outside(), before);
}

#[test]
fn links_that_the_guest_makes_lead_nowhere_else() {
    let (host, _) = host_with_exits();
    let before = host.state_outside();
    let mut guest = host.guest();
    let absolute = host.outside().join("file");
    let made = guest.symlink(absolute.to_str().unwrap(), "to-absolute");
    assert_eq!(made, Err(Errno::Perm));
    // A relative one may say anything; it is not followed out.
    guest.symlink("../outside/file", "mine-out").unwrap();
    assert_eq!(guest.read("mine-out", 1), Err(Errno::Perm));
    // Moved to where it would point elsewhere, it still does not lead out.
    guest.symlink("../mine", "dir/inner").unwrap();
    assert_eq!(guest.read("dir/inner", 1), Ok("mine".into()));
    guest.rename("dir/inner", "inner").unwrap();
    assert_eq!(guest.read("inner", 1), Err(Errno::Perm));
    assert_eq!(host.state_outside(), before);
}

#[test]
fn loops_and_long_chains_end() {
    let host = Host::new();
    let inside = host.inside();
    symlink("loop", inside.join("loop")).unwrap();
    symlink("pong", inside.join("ping")).unwrap();
    symlink("ping", inside.join("pong")).unwrap();
    fs::write(inside.join("end"), "end").unwrap();
    symlink("end", inside.join("chain-0")).unwrap();
    for link in 1..60 {
        symlink(format!("chain-{}", link - 1), inside.join(format!("chain-{link}"))).unwrap();
    }
    symlink("nowhere", inside.join("dangling")).unwrap();
    let mut guest = host.guest();
    for name in ["loop", "ping", "chain-59"] {
        assert_eq!(guest.read(name, 1), Err(Errno::Loop), "{name}");
        assert_eq!(guest.inode(name, 1), Err(Errno::Loop), "{name}");
        assert_eq!(guest.set_times(name, 1), Err(Errno::Loop), "{name}");
        assert_eq!(guest.create_directory(&format!("{name}/new")), Err(Errno::Loop), "{name}");
        assert_eq!(guest.unlink(&format!("{name}/x")), Err(Errno::Loop), "{name}");
        assert_eq!(guest.readlink(&format!("{name}/x")), Err(Errno::Loop), "{name}");
        assert_eq!(guest.rename("end", &format!("{name}/x")), Err(Errno::Loop), "{name}");
    }
    assert_eq!(guest.read("chain-20", 1), Ok("end".into()));
    // One that dangles inside can be filled.
    assert_eq!(guest.read("dangling", 1), Err(Errno::NoEnt));
    guest.open("dangling", 1, 1).unwrap();
    assert!(inside.join("nowhere").exists());
}

#[test]
fn a_directory_that_is_moved_away_stays_as_it_is() {
    let host = Host::new();
    fs::create_dir_all(host.inside().join("a/b")).unwrap();
    fs::write(host.inside().join("a/b/file"), "inner").unwrap();
    let mut guest = host.guest();
    let dir = guest.open("a/b", 1, 2).unwrap();
    // The host takes it out of what the guest was given.
    fs::rename(host.inside().join("a/b"), host.outside().join("b")).unwrap();
    let file = guest.open_at(dir, "file", 1, 0, 1 << 1).unwrap();
    assert_eq!(guest.read_fd(file), Ok("inner".into()));
    for path in ["..", "../file", "../../outside/file", "./../file", "../b/file"] {
        assert_eq!(guest.open_at(dir, path, 1, 0, 1 << 1), Err(Errno::Perm), "{path}");
    }
    assert_eq!(guest.open("a/b/file", 1, 0), Err(Errno::NoEnt));
}

#[test]
fn a_hard_link_to_a_directory_cannot_be_made() {
    let (host, _) = host_with_exits();
    let mut guest = host.guest();
    assert_eq!(guest.link("dir", "again"), Err(Errno::Perm));
    assert_eq!(guest.link(".", "again"), Err(Errno::Perm));
    assert!(matches!(guest.rename("dir", "dir/deep/inner"), Err(Errno::Inval)));
    assert!(guest.rename(".", "elsewhere").is_err());
    assert!(guest.remove_directory(".").is_err());
    assert!(guest.unlink("dir").is_err());
    assert_eq!(fs::read_to_string(host.outside().join("file")).unwrap(), SECRET);
}
