//! What is found, what is compiled again, what is removed, and what is refused.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cwasm_cache::{Cache, Error, Options, Profile, Wasm};
use cwasm_compiler::{CpuLevel, Settings};
use support::{Folder, files, get_and_run, module, run};

#[test]
fn the_second_time_is_a_hit_also_for_another_process() {
    let folder = Folder::new();
    let cache = folder.cache();
    get_and_run(&cache, 1);
    get_and_run(&cache, 1);
    get_and_run(&folder.cache(), 1);
    let statistics = cache.statistics();
    assert_eq!((statistics.hits, statistics.misses, statistics.compiled), (1, 1, 1));
    drop(cache);
    let all = folder.cache().all_statistics();
    assert_eq!((all.hits, all.misses, all.compiled), (2, 1, 1));
    assert_eq!(folder.entries().len(), 1);
}

#[test]
fn other_sources_and_settings_are_other_entries() {
    let folder = Folder::new();
    let cache = folder.cache();
    let wasm = module(1);
    let base = Settings::default();
    for settings in [
        Settings { fuel: true, ..base.clone() },
        Settings { epoch: true, ..base.clone() },
        Settings { cpu: CpuLevel::Native, ..base.clone() },
        Settings { jobs: 1, ..base.clone() },
        base,
    ] {
        let artifact = cache.get_or_compile(&wasm, &settings).unwrap();
        assert_eq!(artifact.uses_fuel(), settings.fuel);
        assert_eq!(artifact.uses_epoch(), settings.epoch);
    }
    // The number of threads makes no other artifact.
    assert_eq!(cache.statistics().compiled, 4);
    assert_eq!(folder.entries().len(), 4);
}

#[test]
fn an_artifact_is_loaded_once_for_all_who_share_it() {
    let folder = Folder::new();
    let cache = folder.cache();
    let (wasm, settings) = (module(7), Settings::default());
    let source = Wasm::new(&wasm);
    let first = cache.get_or_compile_shared(&source, &settings).unwrap();
    let second = cache.get_or_compile_shared(&source, &settings).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    drop((first, second));
    let third = cache.get_or_compile_shared(&source, &settings).unwrap();
    assert_eq!(run(&third), 7);
    let statistics = cache.statistics();
    assert_eq!((statistics.hits, statistics.shared_hits, statistics.compiled), (2, 1, 1));
}

#[test]
fn large_modules_that_are_alike_are_told_apart() {
    // They have one length, one beginning and one end.
    let large = |number: i32| {
        let data = "x".repeat(40_000);
        let f = format!("(func (export \"f\") (result i32) i32.const {number})");
        let names: String = (0..6000).map(|n| format!("(func $name_{n})")).collect();
        wat::parse_str(format!("(module {names} {f} (memory 1) (data \"{data}\"))")).unwrap()
    };
    let folder = Folder::new();
    let cache = folder.cache();
    for round in 0..3_u64 {
        for number in [1, 2] {
            let wasm = large(number);
            assert!(wasm.len() > 64 << 10);
            let artifact = cache.get_or_compile(&wasm, &Settings::default()).unwrap();
            assert_eq!(run(&artifact), number);
            // And again, when its hash was remembered.
            let artifact = cache.get_or_compile(&wasm, &Settings::default()).unwrap();
            assert_eq!(run(&artifact), number);
        }
        let statistics = cache.statistics();
        assert_eq!((statistics.compiled, statistics.corrupt), (2, 0));
        assert_eq!(statistics.hits, round * 4 + 2);
    }
    // Damage is found on this way too.
    for path in folder.entries() {
        let mut bytes = fs::read(&path).unwrap();
        bytes[5000] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    for number in [2, 1] {
        assert_eq!(
            run(&cache.get_or_compile(&large(number), &Settings::default()).unwrap()),
            number
        );
    }
    assert_eq!(cache.statistics().corrupt, 2);
}

#[test]
fn many_threads_compile_once() {
    let folder = Folder::new();
    let cache = folder.cache();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| get_and_run(&cache, 5));
        }
    });
    let statistics = cache.statistics();
    assert_eq!((statistics.compiled, statistics.hits), (1, 15));
}

#[test]
fn who_waits_too_long_compiles_too() {
    let folder = Folder::new();
    let cache = folder.with(Options::default().wait(Duration::from_millis(5)));
    // Every lock is held by somebody who does nothing.
    let locks: Vec<_> = (0..256)
        .map(|number| {
            let locks = fs::read_dir(folder.path()).unwrap().flatten();
            let path = locks.map(|entry| entry.path().join("locks")).find(|path| path.is_dir());
            let path = path.unwrap().join(format!("{number:02x}"));
            let file = fs::File::create(path).unwrap();
            file.lock().unwrap();
            file
        })
        .collect();
    get_and_run(&cache, 3);
    assert_eq!(cache.statistics().compiled, 1);
    drop(locks);
    get_and_run(&cache, 3);
    assert_eq!(cache.statistics().hits, 1);
}

#[test]
fn every_kind_of_damage_costs_a_compilation_and_is_counted() {
    let folder = Folder::new();
    let cache = folder.cache();
    get_and_run(&cache, 1);
    get_and_run(&cache, 2);
    let path = |number| {
        let artifact = cache.get_or_compile(&module(number), &Settings::default()).unwrap();
        let found = folder.entries().into_iter().find(|path| {
            fs::read(path).is_ok_and(|bytes| {
                cwasm_loader::Digest::stated_in(&bytes) == Some(artifact.digest())
            })
        });
        found.unwrap()
    };
    let (path, other) = (path(1), path(2));
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let damages: [&dyn Fn(); 7] = [
        &|| fs::write(&path, &flipped).unwrap(),
        &|| fs::write(&path, &whole[..whole.len() / 2]).unwrap(),
        &|| fs::write(&path, [&whole[..], b"more"].concat()).unwrap(),
        &|| fs::write(&path, b"").unwrap(),
        &|| fs::write(&path, vec![0; whole.len()]).unwrap(),
        // An intact artifact, of another module.
        &|| fs::write(&path, fs::read(&other).unwrap()).unwrap(),
        &|| {
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
        },
    ];
    let compiled = cache.statistics().compiled;
    for (number, damage) in (1_u64..).zip(damages) {
        damage();
        get_and_run(&cache, 1);
        let statistics = cache.statistics();
        assert_eq!((statistics.corrupt, statistics.compiled), (number, compiled + number));
        assert_eq!(fs::read(&path).unwrap(), whole);
        get_and_run(&cache, 1);
    }
    assert!(cache.list().unwrap().iter().any(|entry| entry.corrupt));
}

#[test]
fn what_cannot_be_written_runs_from_memory() {
    let folder = Folder::new();
    let cache = folder.cache();
    // Files in the places of the folders: nothing can be written, also by root.
    let entries = fs::read_dir(folder.path()).unwrap().flatten();
    let entries = entries.map(|entry| entry.path()).find(|path| path.join("about").is_file());
    let entries = entries.unwrap();
    fs::remove_dir_all(&entries).unwrap();
    fs::write(&entries, b"").unwrap();
    for _ in 0..2 {
        get_and_run(&cache, 1);
    }
    let statistics = cache.statistics();
    assert_eq!((statistics.compiled, statistics.unwritten, statistics.hits), (2, 2, 0));
    // A cache that begins like this is as good.
    get_and_run(&folder.cache(), 1);
}

#[test]
fn a_full_disk_is_no_reason_not_to_run() {
    let folder = Folder::new();
    // `/dev/full` in the place of each temporary file would need its name; a limit on the
    // size of files does the same, in a process of its own.
    let test = std::env::current_exe().unwrap();
    let script =
        "ulimit -f 1; trap '' XFSZ; exec \"$0\" --exact child_with_small_files --nocapture";
    let output = std::process::Command::new("bash")
        .args(["-c", script])
        .arg(test)
        .env("CWASM_TEST_CACHE", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("ran from memory"), "{text}");
    assert_eq!(folder.entries().len(), 0);
    let left = files(&folder.path());
    assert!(!left.iter().any(|path| path.extension().is_some_and(|it| it == "tmp")), "{left:?}");
}

#[test]
fn child_with_small_files() {
    // Without the variable, nobody asks for it.
    let Some(path) = std::env::var_os("CWASM_TEST_CACHE") else { return };
    let cache = Cache::open(path).unwrap();
    get_and_run(&cache, 1);
    assert_eq!(cache.statistics().unwritten, 1);
    println!("ran from memory");
}

#[test]
fn a_read_only_cache_never_compiles_and_never_writes() {
    let folder = Folder::new();
    assert!(Options::default().read_only(true).open(folder.path()).is_err());
    get_and_run(&folder.cache(), 1);
    let before = files(&folder.path());
    let read_only = folder.with(Options::default().read_only(true));
    get_and_run(&read_only, 1);
    let found = read_only.get(&module(1), Profile::default()).unwrap();
    assert_eq!(run(&found), 1);
    for error in [
        read_only.get_or_compile(&module(2), &Settings::default()).unwrap_err(),
        read_only.get(&module(2), Profile::default()).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Miss { .. }), "{error}");
        assert!(error.to_string().contains("must not compile"), "{error}");
    }
    // Damage is a miss, and stays for somebody who can write.
    let path = folder.entries().remove(0);
    fs::write(&path, b"damage").unwrap();
    assert!(matches!(read_only.get(&module(1), Profile::default()), Err(Error::Miss { .. })));
    assert_eq!(read_only.statistics().corrupt, 1);
    drop(read_only);
    assert_eq!(files(&folder.path()), before);
}

#[test]
fn a_shared_layer_is_read_and_never_written() {
    let (below, above) = (Folder::new(), Folder::new());
    get_and_run(&below.cache(), 1);
    let before = files(&below.path());
    let cache = above.with(Options::default().shared(below.path()));
    get_and_run(&cache, 1);
    get_and_run(&cache, 2);
    let statistics = cache.statistics();
    assert_eq!((statistics.hits, statistics.compiled), (1, 1));
    assert_eq!(files(&below.path()), before);
    assert_eq!(above.entries().len(), 1);
    // Damage below is compiled again above.
    fs::write(below.entries().remove(0), b"damage").unwrap();
    get_and_run(&cache, 1);
    get_and_run(&cache, 1);
    let statistics = cache.statistics();
    assert_eq!((statistics.hits, statistics.compiled, statistics.corrupt), (2, 2, 1));
}

#[test]
fn a_directory_of_others_is_refused() {
    let folder = Folder::new();
    drop(folder.cache());
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    for result in
        [Cache::open(folder.path()), Options::default().read_only(true).open(folder.path())]
    {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Directory(_)), "{error}");
    }
    let other = Folder::new();
    assert!(Options::default().shared(folder.path()).open(other.path()).is_err());
}

#[test]
fn the_entries_used_longest_ago_go_first() {
    let folder = Folder::new();
    let cache = folder.with(Options::default().used_precision(Duration::ZERO));
    for number in 0..6 {
        get_and_run(&cache, number);
    }
    let hour = Duration::from_secs(3600);
    for (age, entry) in (1_u32..).zip(cache.list().unwrap()) {
        let file = fs::File::open(&entry.path).unwrap();
        file.set_modified(SystemTime::now() - hour * age).unwrap();
    }
    // The oldest is used, and so becomes the youngest.
    let oldest = cache.list().unwrap().pop().unwrap();
    for number in 0..6 {
        let key = cwasm_cache::Key::new(&(&module(number)).into(), &Profile::default());
        if key.to_string() == oldest.key {
            get_and_run(&cache, number);
        }
    }
    let entries = cache.list().unwrap();
    assert_eq!(entries[0].key, oldest.key);
    let bytes: u64 = entries[..2].iter().map(|entry| entry.bytes).sum();
    let pruned = cache.prune(Some(bytes)).unwrap();
    assert_eq!((pruned.removed, pruned.kept, pruned.kept_bytes), (4, 2, bytes));
    assert_eq!(cache.list().unwrap(), entries[..2]);
}

#[test]
fn a_cache_stays_below_its_limit() {
    let folder = Folder::new();
    get_and_run(&folder.cache(), 0);
    let one = folder.cache().list().unwrap()[0].bytes;
    let cache = folder.with(Options::default().max_bytes(one * 4));
    for number in 0..20 {
        get_and_run(&cache, number);
    }
    let entries = cache.list().unwrap();
    let bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
    assert!(bytes <= one * 4, "{} entries, {bytes} bytes", entries.len());
    assert!(entries.len() >= 2);
    assert!(cache.statistics().pruned >= 10);
}

#[test]
fn what_is_open_survives_pruning() {
    let folder = Folder::new();
    let cache = folder.cache();
    let artifact = cache.get_or_compile(&module(9), &Settings::default()).unwrap();
    let open = fs::File::open(folder.entries().remove(0)).unwrap();
    let length = open.metadata().unwrap().len();
    assert_eq!(cache.prune(Some(0)).unwrap().removed, 1);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut &open, &mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, length);
    assert_eq!(run(&artifact), 9);
}

#[test]
fn what_other_versions_wrote_is_a_miss_and_is_pruned() {
    let folder = Folder::new();
    get_and_run(&folder.cache(), 1);
    let entry = folder.entries().remove(0);
    let current = entry.parent().unwrap().parent().unwrap();
    // As if all of it had been written by another version.
    fs::rename(current, folder.path().join("0123456789abcdef")).unwrap();
    let cache = folder.cache();
    get_and_run(&cache, 1);
    let statistics = cache.statistics();
    assert_eq!((statistics.compiled, statistics.corrupt), (1, 0));
    let entries = cache.list().unwrap();
    assert_eq!(entries.iter().filter(|entry| entry.current).count(), 1);
    assert_eq!(cache.verify().unwrap().other, 1);
    assert_eq!(cache.prune(None).unwrap().removed, 1);
    assert!(!folder.path().join("0123456789abcdef").exists());
    assert!(cache.list().unwrap().iter().all(|entry| entry.current));
    get_and_run(&cache, 1);
    assert_eq!(cache.statistics().hits, 1);
}

#[test]
fn verifying_sets_aside_what_is_damaged() {
    let folder = Folder::new();
    let cache = folder.cache();
    get_and_run(&cache, 1);
    get_and_run(&cache, 2);
    let damaged = folder.entries().remove(0);
    let mut bytes = fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let verified = cache.verify().unwrap();
    assert_eq!((verified.intact, verified.corrupt), (1, vec![damaged]));
    assert_eq!(cache.verify().unwrap().corrupt.len(), 0);
    assert_eq!(cache.clear().unwrap().removed, 2);
    assert_eq!(cache.list().unwrap(), []);
    get_and_run(&cache, 1);
}

#[test]
fn errors_of_the_module_and_the_machine_are_passed_on() {
    let folder = Folder::new();
    let cache = folder.cache();
    let error = cache.get_or_compile(b"\0asm\x01\0\0\0\xff", &Settings::default()).unwrap_err();
    assert!(matches!(error, Error::Compile(_)), "{error}");
    let target = "aarch64-unknown-linux-gnu".parse().unwrap();
    let settings = Settings { target, ..Settings::default() };
    if cfg!(target_arch = "x86_64") {
        let error = cache.get_or_compile(&module(1), &settings).unwrap_err();
        assert!(matches!(error, Error::OtherTarget { .. }), "{error}");
    }
    assert_eq!(folder.entries().len(), 0);
}

/// A module so large that its hash is remembered. Two of them differ in one byte.
fn large_module(number: i32) -> Vec<u8> {
    let filling = "x".repeat(64 << 10);
    wat::parse_str(format!(
        "(module (memory 8) (data (i32.const 0) \"{filling}\")
            (func (export \"f\") (result i32) i32.const {number})
            (data (i32.const 0) \"{filling}\"))"
    ))
    .unwrap()
}

#[test]
fn hashes_that_are_remembered_lead_to_no_other_module() {
    let folder = Folder::new();
    let cache = folder.cache();
    let modules = [1, 2].map(|number| (large_module(number), number));
    // What the process remembers, and what is on file.
    let get = |(wasm, number): &(Vec<u8>, i32)| {
        let other = folder.cache();
        let compiled = [&cache, &other].map(|cache| {
            let before = cache.statistics().compiled;
            let artifact = cache.get_or_compile(wasm, &Settings::default()).unwrap();
            assert_eq!(run(&artifact), *number);
            cache.statistics().compiled - before
        });
        compiled.iter().sum::<u64>()
    };
    let hashes = || {
        let mut files = files(&folder.path());
        files.retain(|file| file.parent().unwrap().ends_with("hashes"));
        files
    };
    assert_eq!(modules.each_ref().map(get), [1, 1]);
    let [one, two] = &hashes()[..] else { panic!("{:?}", hashes()) };
    assert_eq!(modules.each_ref().map(get), [0, 0]);

    // One that says what another should; damage; nothing; what others could have written; a folder.
    let (first, second) = (fs::read(one).unwrap(), fs::read(two).unwrap());
    let writable = |file: &Path| {
        fs::set_permissions(file, Permissions::from_mode(0o666)).unwrap();
    };
    for damage in [&first[..], &first[..100], b"", b"\xff\xfe", &second[..]] {
        for file in [one, two] {
            fs::write(file, damage).unwrap();
            writable(file);
        }
        assert_eq!(modules.each_ref().map(get), [0, 0]);
    }
    for file in [one, two] {
        fs::remove_file(file).unwrap();
        fs::create_dir(file).unwrap();
    }
    assert_eq!(modules.each_ref().map(get), [0, 0]);
    for file in [one, two] {
        fs::remove_dir(file).unwrap();
    }
    assert_eq!(modules.each_ref().map(get), [0, 0]);
    assert_eq!(hashes().len(), 2);

    // Entries that were damaged, and one under the name of another.
    let artifacts = || {
        let mut paths = folder.entries();
        paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "cwasm"));
        paths
    };
    for path in artifacts() {
        fs::write(path, b"damage").unwrap();
    }
    assert_eq!(modules.each_ref().map(get), [1, 1]);
    let paths = artifacts();
    fs::copy(&paths[0], &paths[1]).unwrap();
    assert_eq!(modules.each_ref().map(get).iter().sum::<u64>(), 1);
    // They go with the entries.
    cache.clear().unwrap();
    assert!(hashes().is_empty(), "{:?}", hashes());
}
