//! Bundles: what is shared is stored once, the best is picked, and no damage leads astray.

use cwasm_artifact::bundle::{BundleError, BundleIndex, assemble, build, front_length};
use cwasm_artifact::check::Host;
use cwasm_artifact::choice::Needs;
use cwasm_artifact::cpu::{Arch, CpuLevel};
use cwasm_artifact::digest::Digest;
use cwasm_compiler::{Settings, compile};
use cwasm_loader::{Artifact, Bundle, LoadError, Trust};

/// Code that every CPU level has other instructions for.
fn module(number: i32, data: usize) -> Vec<u8> {
    let mut state = 1u32;
    let data: String = (0..data)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            format!("\\{:02x}", state >> 24)
        })
        .collect();
    wat::parse_str(format!(
        r#"(module (memory 16) (data (i32.const 0) "{data}")
             (func (export "answer") (result i32) i32.const {number})
             (func (export "v2") (param i64) (result i64) local.get 0 i64.popcnt)
             (func (export "v3") (param i64) (result i64) local.get 0 i64.clz))"#
    ))
    .unwrap()
}

fn artifact(number: i32, data: usize, cpu: CpuLevel) -> Vec<u8> {
    compile(&module(number, data), &Settings { cpu, ..Settings::default() }).unwrap()
}

fn index(bundle: &[u8]) -> Result<BundleIndex, BundleError> {
    let length = bundle.len() as u64;
    let front = usize::try_from(front_length(bundle, length)?).unwrap();
    BundleIndex::read(&bundle[..front], length)
}

#[test]
fn everything_comes_out_as_it_went_in_and_shared_bytes_are_stored_once() {
    let levels = [CpuLevel::Baseline, CpuLevel::X86_64V2, CpuLevel::X86_64V3];
    let artifacts = levels.map(|level| artifact(1, 500_000, level));
    let other = artifact(2, 0, CpuLevel::Baseline);
    let mut inputs: Vec<(&str, &[u8])> =
        artifacts.iter().map(|artifact| ("app", artifact.as_slice())).collect();
    inputs.push(("other", &other));
    let bundle = build(&inputs).unwrap();
    assert_eq!(bundle, build(&inputs).unwrap());
    let index = index(&bundle).unwrap();
    assert_eq!(index.names(), ["app", "other"]);
    for (entry, (name, bytes)) in index.entries().iter().zip(&inputs) {
        assert_eq!(entry.name, *name);
        assert_eq!(assemble(&bundle, entry).unwrap(), *bytes);
    }
    // The memory's half megabyte is there once, and not three times.
    let total: usize = inputs.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(bundle.len() + 900_000 < total, "{} of {total}", bundle.len());
}

#[test]
fn the_best_for_a_host_is_picked() {
    let levels = [CpuLevel::X86_64V2, CpuLevel::Baseline, CpuLevel::X86_64V3];
    let artifacts = levels.map(|level| artifact(1, 0, level));
    let inputs: Vec<(&str, &[u8])> =
        artifacts.iter().map(|artifact| ("app", artifact.as_slice())).collect();
    let bundle = build(&inputs).unwrap();
    let index = index(&bundle).unwrap();
    let needs = |entry: &_| Needs::stated_in(&assemble(&bundle, entry)?);
    for (level, artifact) in levels.iter().zip(&artifacts) {
        let host = Host { cpu_features: level.features(Arch::X86_64).unwrap(), ..Host::this() };
        let picked = index.pick("app", &host, needs).unwrap();
        assert_eq!(assemble(&bundle, picked).unwrap(), *artifact, "{level}");
    }
    let other = Host { target: "aarch64-unknown-linux-gnu".into(), ..Host::this() };
    let refusal = index.pick("app", &other, needs).unwrap_err().to_string();
    assert!(refusal.contains("x86_64-unknown-linux-gnu (x86-64-v2)"), "{refusal}");
    let refusal = index.pick("none", &Host::this(), needs).unwrap_err().to_string();
    assert!(refusal.contains("it has app"), "{refusal}");
}

#[test]
fn a_loader_picks_from_files_and_memory_and_wants_the_same_reasons() {
    let artifact = artifact(5, 0, CpuLevel::Baseline);
    let bundle = build(&[("app", &artifact)]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.bundle");
    std::fs::write(&path, &bundle).unwrap();
    let trust = Trust::digest(Digest::stated_in(&artifact).unwrap());
    Bundle::open(&path).unwrap().pick("app").unwrap().load(&trust).unwrap();
    let picked = Bundle::open(&bundle).unwrap().pick("app").unwrap();
    picked.load(&trust).unwrap();
    assert!(picked.load(&Trust::digest(Digest([0; 32]))).is_err());
    assert!(picked.load(&Trust::keys([])).is_err());
    let none = Bundle::open(&bundle).unwrap().pick("none").unwrap_err();
    assert!(matches!(none, LoadError::Bundle { .. }), "{none:?}");
    assert!(matches!(Bundle::open(&artifact).unwrap_err(), LoadError::Bundle { .. }));
}

#[test]
fn what_cannot_be_told_apart_or_is_damaged_is_not_bundled() {
    let artifact = artifact(5, 0, CpuLevel::Baseline);
    let twice = build(&[("a", &artifact), ("a", &artifact)]);
    assert!(matches!(twice, Err(BundleError::Twice { .. })));
    let mut damaged = artifact.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(matches!(build(&[("a", &damaged)]), Err(BundleError::Refused { .. })));
    for name in ["", "a\nb", &"x".repeat(256)] {
        assert!(matches!(build(&[(name, &artifact)]), Err(BundleError::Name { .. })));
    }
}

/// What a bundle with damage gives is the artifact or a refusal.
fn survives(bundle: &[u8], trust: &Trust) {
    let loaded = Bundle::open(bundle).and_then(|bundle| bundle.pick("app")?.load(trust));
    if let Err(error) = &loaded {
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn every_bit_of_a_small_bundle_and_every_length_is_refused_or_makes_no_difference() {
    let artifact = artifact(5, 0, CpuLevel::Baseline);
    let digest = Digest::stated_in(&artifact).unwrap();
    let bundle = build(&[("app", &artifact), ("other", &artifact)]).unwrap();
    let trust = Trust::digest(digest);
    let front = usize::try_from(front_length(&bundle, bundle.len() as u64).unwrap()).unwrap();
    // All bits of the front, with its checksum wrong and with it made right again; behind it are artifacts,
    // whose every bit has tests of its own.
    for bit in 0..front * 8 {
        let mut damaged = bundle.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Bundle::open(&damaged).is_err(), "bit {bit}");
        reseal(&mut damaged, front);
        survives(&damaged, &trust);
    }
    for byte in (front..bundle.len()).step_by(97) {
        let mut damaged = bundle.clone();
        damaged[byte] ^= 1;
        survives(&damaged, &trust);
        let loaded = Bundle::open(&damaged).unwrap().pick("app").and_then(|it| it.load(&trust));
        if let Ok(loaded) = loaded {
            assert_eq!(Artifact::digest(&loaded), digest);
        }
    }
    for length in 0..bundle.len() {
        assert!(Bundle::open(&bundle[..length]).is_err(), "{length}");
    }
    let mut longer = bundle.clone();
    longer.push(0);
    assert!(Bundle::open(&longer).is_err());
}

/// Makes the checksum of a front right.
fn reseal(bundle: &mut [u8], front: usize) {
    use sha2::Digest as _;
    let hash = sha2::Sha256::new().chain_update(&bundle[..64]).chain_update(&bundle[96..front]);
    bundle[64..96].copy_from_slice(&hash.finalize());
}

#[test]
fn a_hostile_bundle_cannot_make_an_artifact_longer_than_itself() {
    let artifact = artifact(5, 0, CpuLevel::Baseline);
    let bundle = build(&[("app", &artifact)]).unwrap();
    let front = usize::try_from(front_length(&bundle, bundle.len() as u64).unwrap()).unwrap();
    let number = |at: usize| u32::from_le_bytes(bundle[at..at + 4].try_into().unwrap()) as usize;
    let (entries, pieces) = (number(12), number(16));
    let uses = 96 + entries * 24 + pieces * 16;
    // Every use is the one piece, whose length is counted each time.
    let mut bomb = bundle.clone();
    let second = uses + 4;
    bomb.copy_within(uses..uses + 4, second);
    reseal(&mut bomb, front);
    let refusal = Bundle::open(&bomb).unwrap_err();
    let LoadError::Bundle { source, .. } = refusal else { panic!("{refusal:?}") };
    assert_eq!(source, BundleError::Corrupt { what: "an artifact uses a piece twice" });
}
