//! The file format as others meet it: binary tools, other versions, other
//! builds, and files of earlier versions.
//!
//! `CWASM_BLESS=1` writes the reference files of a new format version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cwasm_artifact::abi::fingerprint;
use cwasm_artifact::builder::reseal;
use cwasm_artifact::check::{Host, Origin, check, check_from};
use cwasm_artifact::cpu::{CpuFeatures, CpuLevel};
use cwasm_artifact::header::{FORMAT_VERSION, HEADER_OFFSET, Header, Section, describe};
use cwasm_artifact::module::Module;
use cwasm_compiler::Settings;
use cwasm_loader::{
    Artifact, Caller, Digest, Engine, Linker, LoadError, Problem, Report, Store, Trust,
};
use cwasm_tests::fault::mutants::ARTIFACT;
use cwasm_tests::signing::Key;
use cwasm_tests::{compile, compile_with, load};

/// A module that has something in every section.
const EVERYTHING: &str = include_str!("../artifacts/golden/everything.wat");

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../artifacts/golden")
}

fn version_folder() -> PathBuf {
    golden().join(format!("v{FORMAT_VERSION}"))
}

fn blessing() -> bool {
    std::env::var_os("CWASM_BLESS").is_some()
}

fn load_error(bytes: &[u8]) -> LoadError {
    let digest = Digest::stated_in(bytes).unwrap();
    Artifact::from_bytes(bytes, &Trust::digest(digest)).unwrap_err()
}

fn report(bytes: &[u8]) -> Report {
    match load_error(bytes) {
        LoadError::Refused(report) => report,
        other => panic!("{other}"),
    }
}

/// A module with many functions, some of them long.
fn many_functions() -> String {
    let mut text = String::from("(module (memory 1) (table 64 funcref)");
    for i in 0..150 {
        let body = format!("(i32.add (i32.load offset={i} (local.get 0)) (i32.const {i}))");
        let mut nested = "(local.get 0)".to_owned();
        for _ in 0..i % 17 {
            nested = format!("(i32.mul {nested} {body})");
        }
        let callee = (i * 7) % 150;
        text.push_str(&format!(
            "(func $f{i} (export \"f{i}\") (param i32) (result i32)
               (if (result i32) (local.get 0) (then {nested}) (else (call $f{callee} (i32.const 1)))))"
        ));
    }
    text.push(')');
    text
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let text = many_functions();
    let one = compile_with(&text, &Settings { jobs: 1, ..Settings::default() });
    for jobs in [2, 3, 8] {
        let many = compile_with(&text, &Settings { jobs, ..Settings::default() });
        assert!(one == many, "{jobs} threads");
    }
    assert!(one == compile_with(&text, &Settings::default()));
}

/// Runs a binary tool; `None` if it is not installed.
fn tool(name: &str, flag: &str, file: &Path) -> Option<(String, String)> {
    let output = match Command::new(name).arg(flag).arg(file).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: {name} is not installed");
            return None;
        }
        result => result.unwrap(),
    };
    assert!(output.status.success(), "{name}: {output:?}");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Some((text(output.stdout), text(output.stderr)))
}

#[test]
fn binary_tools_read_artifacts_without_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in
        [("everything", EVERYTHING), ("many", &many_functions()), ("empty", "(module)")]
    {
        let file = folder.path().join(name);
        fs::write(&file, compile(text)).unwrap();
        for (program, flag) in [("readelf", "-aW"), ("objdump", "-dr"), ("nm", "-a")] {
            let Some((output, errors)) = tool(program, flag, &file) else { continue };
            // `nm` says on stderr that a file without functions has no symbols.
            if !(program == "nm" && name == "empty") {
                assert_eq!(errors, "", "{program} {name}");
            }
            assert!(!output.to_lowercase().contains("warning"), "{program} {name}: {output}");
            if name == "everything" && program != "readelf" {
                for function in ["sum of two", "fails", "trampoline.entry"] {
                    assert!(output.contains(function), "{program} does not show `{function}`");
                }
            }
        }
    }
}

#[test]
fn a_linker_takes_an_artifact() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("everything.o");
    fs::write(&file, compile(EVERYTHING)).unwrap();
    let linked = folder.path().join("linked.o");
    let output = match Command::new("ld").args(["-r", "-o"]).arg(&linked).arg(&file).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: ld is not installed");
            return;
        }
        result => result.unwrap(),
    };
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn code_is_on_pages_of_its_own_and_refers_to_nothing_outside() {
    let file = compile(EVERYTHING);
    let checked = check(&file, Some(&Host::this())).unwrap();
    let module = Module::new(&checked).unwrap();
    let text = module.range(Section::Text);
    assert!(text.start.is_multiple_of(4096) && !text.is_empty());
    let view = module.view(&file);
    let images = module.range(Section::ImageBytes).start as u64;
    assert!(view.images().iter().all(|image| {
        // As far into a page of the file as into one of the memory.
        (images + image.bytes.get()) % 4096 == image.address.get() % 4096
    }));
    // The only relocations are those of the unwind information.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.o");
    fs::write(&path, &file).unwrap();
    if let Some((output, _)) = tool("readelf", "-rW", &path) {
        let sections: Vec<_> =
            output.lines().filter(|l| l.contains("Relocation section")).collect();
        assert!(sections.iter().all(|line| line.contains(".eh_frame")), "{sections:?}");
    }
}

#[test]
fn the_layout_is_that_of_its_version() {
    let path = version_folder().join("layout.txt");
    if blessing() && !path.exists() {
        fs::create_dir_all(version_folder()).unwrap();
        fs::write(&path, describe()).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        describe() == golden,
        "the file format changed and is still called version {FORMAT_VERSION}: raise FORMAT_VERSION, \
         write the change into FORMAT.md, and run `make bless` to add reference files\n{}",
        describe()
    );
}

/// Runs the reference artifact, and checks what it does.
fn run_everything(artifact: &Artifact) {
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    linker
        .func("host", "log", |mut caller: Caller<'_, '_, Vec<i32>>, value: i32| {
            caller.data_mut().push(value);
        })
        .unwrap();
    let mut store = Store::new(&engine, Vec::new());
    let instance = linker.instantiate(&mut store, artifact).unwrap();
    let sum = instance.typed_func::<(i32, i32), i32>(&store, "sum").unwrap();
    assert_eq!(sum.call(&mut store, (40, 2)).unwrap(), 42);
    assert_eq!(store.data(), &[1, 42], "the start function logs 1, sum logs its result");
    let memory = instance.memory(&store, "memory").unwrap();
    assert_eq!(&memory.data(&store).unwrap()[16..21], b"hello");
    let fails = instance.typed_func::<(), i32>(&store, "fails").unwrap();
    let error = fails.call(&mut store, ()).unwrap_err();
    assert_eq!(error.trap().unwrap().frames()[0].func_name.as_deref(), Some("fails"));
}

#[test]
fn reference_artifacts_of_every_version_load_or_are_refused_by_name() {
    let newest = version_folder().join("everything.x86_64.cwasm");
    if blessing() && !newest.exists() {
        fs::create_dir_all(version_folder()).unwrap();
        fs::write(&newest, compile(EVERYTHING)).unwrap();
        let target = "aarch64-unknown-linux-gnu".parse().unwrap();
        let other = compile_with(EVERYTHING, &Settings { target, ..Settings::default() });
        fs::write(version_folder().join("everything.aarch64.cwasm"), other).unwrap();
    }
    let signed = version_folder().join("signed.x86_64.cwasm");
    if blessing() && !signed.exists() {
        let file = Key::new(2).sign(&Key::new(1).sign(&fs::read(&newest).unwrap()));
        fs::write(&signed, file).unwrap();
    }
    let mut seen = 0;
    for folder in fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path()) {
        let Some(version) = folder
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix('v')?.parse::<u32>().ok())
        else {
            continue;
        };
        for file in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_none_or(|extension| extension != "cwasm") {
                continue;
            }
            seen += 1;
            let bytes = fs::read(&file).unwrap();
            let name = file.display().to_string();
            let abi = Header::of(&bytes).unwrap().prefix.abi;
            let here = name.contains(std::env::consts::ARCH);
            if version == FORMAT_VERSION && here && abi == fingerprint().0 {
                run_everything(&load(&bytes));
                continue;
            }
            let report = report(&bytes);
            assert!(report.is_miss(), "{name}: {report}");
            let text = report.to_string();
            assert!(text.contains("recompile"), "{name}: {text}");
            assert!(text.contains("cwasm compile"), "{name}: {text}");
            if version != FORMAT_VERSION {
                assert!(text.contains(&format!("in format {version}")), "{name}: {text}");
            }
            if !here {
                let wanted = |p: &Problem| matches!(p, Problem::OtherTarget { .. });
                assert!(report.problems().iter().any(wanted), "{name}: {text}");
            }
        }
    }
    assert!(seen >= 2, "the reference artifacts are missing; run `make bless`");
}

#[test]
fn signatures_in_the_reference_artifact_are_good() {
    let file = fs::read(version_folder().join("signed.x86_64.cwasm")).unwrap();
    for number in [1, 2] {
        let keys = [Key::new(3).public(), Key::new(number).public()];
        check_from(&file, None, Origin::Keys(&keys)).unwrap();
    }
    let keys = [Key::new(3).public()];
    assert!(check_from(&file, None, Origin::Keys(&keys)).is_err());
}

/// Whether a file is an intact artifact of this format and ABI, made from the same module as `fresh`.
fn is_current(path: &Path, fresh: &[u8]) -> bool {
    let fresh = Header::of(fresh).unwrap();
    fs::read(path).is_ok_and(|file| {
        Header::of(&file).is_some_and(|header| {
            header.prefix.abi == fingerprint().0
                && header.prefix.format_version.get() == FORMAT_VERSION
                && header.source_sha256 == fresh.source_sha256
                && check(&file, None).is_ok_and(|checked| Module::new(&checked).is_ok())
        })
    })
}

#[test]
fn the_artifact_of_the_lifetime_programs_has_this_abi() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("lifetimes");
    let path = folder.join("fixture.cwasm");
    let file = compile(EVERYTHING);
    if blessing() && !is_current(&path, &file) {
        fs::write(&path, &file).unwrap();
        let digest = Digest::stated_in(&file).unwrap();
        fs::write(folder.join("fixture.digest"), format!("{digest}\n")).unwrap();
    } else {
        assert!(
            is_current(&path, &file),
            "the ABI, the format or the module changed: run `make bless`"
        );
    }
}

#[test]
fn the_artifact_that_fuzzing_begins_with_has_this_abi() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seed.cwasm");
    if blessing() && !is_current(&path, &ARTIFACT) {
        fs::write(&path, &*ARTIFACT).unwrap();
    }
    assert!(
        is_current(&path, &ARTIFACT),
        "the ABI, the format or the module changed: run `make bless`"
    );
}

#[test]
fn what_was_just_compiled_works_like_the_reference() {
    run_everything(&load(&compile(EVERYTHING)));
}

/// Changes the header of an artifact, and seals it again.
fn with_header(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut file = compile(EVERYTHING);
    change(&mut file[HEADER_OFFSET..]);
    reseal(&mut file).unwrap();
    file
}

#[test]
fn a_patch_release_of_the_compiler_keeps_its_artifacts_loading() {
    let file = with_header(|header| header[48..53].copy_from_slice(b"0.1.9"));
    run_everything(&load(&file));
}

#[test]
fn another_abi_never_loads() {
    let file = with_header(|header| header[16] ^= 1);
    let report = report(&file);
    assert!(report.is_miss());
    assert!(matches!(report.problems(), [Problem::Abi { .. }]), "{report}");
    assert!(
        report
            .to_string()
            .contains("recompile with the `cwasm compile` that belongs to this loader")
    );
}

#[test]
fn another_format_is_refused_by_name_whatever_follows() {
    let file = with_header(|header| header[8] = 9);
    let report = report(&file);
    assert_eq!(
        report.to_string(),
        "built by cwasm 0.1.0 in format 9, and this loader reads format 2; \
         recompile with the `cwasm compile` that belongs to this loader"
    );
}

#[test]
fn everything_that_is_wrong_is_reported_at_once() {
    let mut file = with_header(|header| {
        header[16] ^= 1; // the ABI
        header[80..87].copy_from_slice(b"riscv64"); // the target
        header[168] |= 0x80; // a setting without a meaning
    });
    let text = {
        let checked = check(&file, None).unwrap();
        checked.header().section(Section::Text).within(file.len()).unwrap()
    };
    file[text.start] ^= 1;
    let report = report(&file);
    let kinds: Vec<_> = report.problems().iter().map(Problem::kind).collect();
    assert_eq!(kinds, ["stale", "other-target", "stale", "corrupt"], "{report}");
    assert!(!report.is_miss());
    assert!(report.to_string().contains("(.text"), "{report}");
    assert_eq!(report.to_string().lines().count(), 4);
}

#[test]
fn missing_cpu_features_are_named() {
    let features = CpuFeatures::AVX512F.union(CpuFeatures::from_bits(1 << 40));
    let file =
        with_header(|header| header[144..152].copy_from_slice(&features.bits().to_le_bytes()));
    let host = Host { cpu_features: CpuFeatures::NONE, ..Host::this() };
    let report = check(&file, Some(&host)).unwrap_err();
    assert!(report.is_miss());
    let text = report.to_string();
    assert!(text.contains("avx512f, feature 40") && text.contains("--cpu"), "{text}");
}

#[test]
fn only_the_cpu_features_that_a_file_needs_are_looked_for() {
    for bit in 0..u64::BITS {
        let needed = CpuFeatures::from_bits(1 << bit).union(CpuFeatures::SSE3);
        let file =
            with_header(|header| header[144..152].copy_from_slice(&needed.bits().to_le_bytes()));
        let (all, host) = (Host::this(), Host::for_file(&file));
        assert_eq!(host.cpu_features, needed.intersection(all.cpu_features), "bit {bit}");
        let problem = |host| check(&file, Some(host)).err().map(|report| report.to_string());
        assert_eq!(problem(&host), problem(&all), "bit {bit}");
        assert_eq!(problem(&host).is_none(), all.cpu_features.contains(needed), "bit {bit}");
    }
    assert_eq!(Host::for_file(b"no artifact").cpu_features, CpuFeatures::NONE);
}

#[test]
fn code_records_the_cpu_features_that_it_needs_and_no_others() {
    let features = |text: &str, cpu| {
        let file = compile_with(text, &Settings { cpu, ..Settings::default() });
        CpuFeatures::from_bits(Header::of(&file).unwrap().cpu_features.get())
    };
    let add = "(module (func (export \"f\") (param i32) (result i32) (i32.add (local.get 0) (i32.const 1))))";
    let count =
        "(module (func (export \"f\") (param i32) (result i32) (i32.popcnt (local.get 0))))";
    let floor = "(module (func (export \"f\") (param f64) (result f64) (f64.floor (local.get 0))))";
    for text in [add, count, floor, EVERYTHING] {
        assert_eq!(features(text, CpuLevel::Baseline), CpuFeatures::NONE);
    }
    assert_eq!(features(add, CpuLevel::X86_64V4), CpuFeatures::NONE);
    assert_eq!(features(count, CpuLevel::X86_64V2), CpuFeatures::POPCNT);
    assert_eq!(features(floor, CpuLevel::X86_64V2), CpuFeatures::SSE41);
    // Whatever the host has, the default uses none of it.
    let native = features(EVERYTHING, CpuLevel::Native);
    assert!(CpuFeatures::host().contains(native));
}
