//! Directories as stores: what is written, what is chosen, and that others who push at the same time lose nothing.

mod support;

use cwasm_artifact::check::{Host, Origin};
use cwasm_artifact::cpu::Arch;
use cwasm_artifact::digest::Digest;
use cwasm_compiler::CpuLevel;
use cwasm_loader::{Artifact, Trust};
use cwasm_remote::Error;
use support::{artifact, open, trusted};

fn store(folder: &tempfile::TempDir) -> String {
    format!("file://{}/store/app", folder.path().display())
}

fn host(level: CpuLevel) -> Host {
    Host { cpu_features: level.features(Arch::X86_64).unwrap(), ..Host::this() }
}

fn digest(artifact: &[u8]) -> Digest {
    Digest::stated_in(artifact).unwrap()
}

#[test]
fn what_is_pushed_is_pulled_with_its_signatures() {
    let folder = tempfile::tempdir().unwrap();
    let remote = open(&store(&folder));
    let artifact = trusted().sign(&artifact(42, CpuLevel::Baseline, 1000));
    assert!(matches!(remote.pull(&Host::this(), Origin::Any), Err(Error::NotFound { .. })));
    remote.push(&[&artifact]).unwrap();
    let key = trusted().public();
    let pulled = open(&store(&folder)).pull(&Host::this(), Origin::Keys(&[key])).unwrap();
    assert_eq!(pulled.bytes, artifact);
    Artifact::from_bytes(&pulled.bytes, &Trust::keys([key])).unwrap();
}

#[test]
fn nothing_is_pulled_without_its_reason_to_be_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let remote = open(&store(&folder));
    let plain = artifact(1, CpuLevel::Baseline, 0);
    remote.push(&[&plain]).unwrap();
    let key = trusted().public();
    let refused = remote.pull(&Host::this(), Origin::Keys(&[key])).unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused:?}");
    let other = remote.pull(&Host::this(), Origin::Digest(Digest([1; 32]))).unwrap_err();
    assert!(matches!(other, Error::NothingForHost { .. }), "{other:?}");
    remote.pull(&Host::this(), Origin::Digest(digest(&plain))).unwrap();
}

#[test]
fn the_best_for_the_host_is_chosen_and_pushes_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let remote = open(&store(&folder));
    let levels = [CpuLevel::X86_64V3, CpuLevel::Baseline, CpuLevel::X86_64V2];
    let artifacts = levels.map(|level| artifact(1, level, 0));
    remote.push(&[&artifacts[0], &artifacts[1]]).unwrap();
    let pushed = remote.push(&[&artifacts[2]]).unwrap();
    assert_eq!(pushed.there.len(), 3);
    for (level, artifact) in levels.iter().zip(&artifacts) {
        let pulled = remote.pull(&host(*level), Origin::Any).unwrap();
        assert_eq!(pulled.digest, digest(artifact), "{level}");
    }
    let newer = artifact(2, CpuLevel::X86_64V3, 0);
    assert_eq!(remote.push(&[&newer]).unwrap().there.len(), 3);
    let best = |level| remote.pull(&host(level), Origin::Any).unwrap().digest;
    assert_eq!(best(CpuLevel::X86_64V4), digest(&newer));
    assert_eq!(best(CpuLevel::X86_64V2), digest(&artifacts[2]));
    // The old one cannot be found any more, not even by its digest; the digest of an old index still leads to it.
    let old = remote.pull(&host(CpuLevel::X86_64V4), Origin::Digest(digest(&artifacts[0])));
    assert!(matches!(old, Err(Error::NothingForHost { .. })));
    let fixed = format!("{}@{}", store(&folder), pushed.index);
    let pulled = open(&fixed).pull(&host(CpuLevel::X86_64V4), Origin::Any).unwrap();
    assert_eq!(pulled.digest, digest(&artifacts[0]));
    assert!(matches!(open(&fixed).push(&[&newer]), Err(Error::Fixed { .. })));
}

#[test]
fn a_host_that_nothing_fits_is_told_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let remote = open(&store(&folder));
    remote.push(&[&artifact(1, CpuLevel::X86_64V3, 0)]).unwrap();
    let error = remote.pull(&host(CpuLevel::Baseline), Origin::Any).unwrap_err().to_string();
    assert!(error.contains("x86_64-unknown-linux-gnu (x86-64-v3)"), "{error}");
    let arm = Host { target: "aarch64-unknown-linux-gnu".into(), ..host(CpuLevel::Baseline) };
    let error = remote.pull(&arm, Origin::Any).unwrap_err().to_string();
    assert!(error.contains("nothing for aarch64-unknown-linux-gnu"), "{error}");
}

#[test]
fn what_is_not_intact_or_is_given_twice_is_not_pushed() {
    let folder = tempfile::tempdir().unwrap();
    let remote = open(&store(&folder));
    let good = artifact(1, CpuLevel::Baseline, 0);
    let mut damaged = good.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(matches!(remote.push(&[&damaged]), Err(Error::Refused { .. })));
    let twice = remote.push(&[&good, &artifact(2, CpuLevel::Baseline, 0)]);
    assert!(matches!(twice, Err(Error::Twice { .. })));
    assert!(!folder.path().join("store").exists());
}

#[test]
fn a_store_is_an_image_layout() {
    let folder = tempfile::tempdir().unwrap();
    let remote = open(&store(&folder));
    let artifact = artifact(1, CpuLevel::X86_64V3, 0);
    remote.push(&[&artifact]).unwrap();
    let layout = folder.path().join("store/app");
    let json = |path: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(layout.join(path)).unwrap()).unwrap()
    };
    let follow = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
        let path = format!("blobs/{digest}");
        let bytes = std::fs::read(layout.join(&path)).unwrap();
        assert_eq!(descriptor["size"], bytes.len());
        assert_eq!(
            descriptor["digest"],
            cwasm_remote::BlobDigest::of(&bytes).to_string(),
            "blobs are named by what they hold"
        );
        path
    };
    assert_eq!(json("oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = json("index.json");
    let tag = &index["manifests"][0];
    assert_eq!(tag["annotations"]["org.opencontainers.image.ref.name"], "latest");
    let images = json(&follow(tag));
    assert_eq!(images["mediaType"], "application/vnd.oci.image.index.v1+json");
    let entry = &images["manifests"][0];
    assert_eq!(entry["platform"]["architecture"], "amd64");
    assert_eq!(entry["platform"]["variant"], "v3");
    assert_eq!(entry["annotations"]["vnd.cwasm.digest"], digest(&artifact).to_string());
    let manifest = json(&follow(entry));
    follow(&manifest["config"]);
    let layer = &manifest["layers"][0];
    assert_eq!(layer["mediaType"], cwasm_remote::ARTIFACT_TYPE);
    assert_eq!(std::fs::read(layout.join(follow(layer))).unwrap(), artifact);
}

#[test]
fn pushes_at_the_same_time_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let reference = store(&folder);
    let levels = [CpuLevel::Baseline, CpuLevel::X86_64V2, CpuLevel::X86_64V3, CpuLevel::X86_64V4];
    let artifacts = levels.map(|level| artifact(1, level, 0));
    std::thread::scope(|scope| {
        for (number, artifact) in artifacts.iter().enumerate() {
            let reference = &reference;
            scope.spawn(move || {
                // One tag that all share, and one of its own.
                open(&format!("{reference}:shared")).push(&[artifact]).unwrap();
                open(&format!("{reference}:own{number}")).push(&[artifact]).unwrap();
            });
        }
    });
    assert_eq!(open(&format!("{reference}:shared")).entries().unwrap().len(), 4);
    for number in 0..4 {
        assert_eq!(open(&format!("{reference}:own{number}")).entries().unwrap().len(), 1);
    }
}

#[test]
fn functions_that_block_may_be_called_inside_of_a_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let remote = open(&store(&folder));
        remote.push(&[&artifact(1, CpuLevel::Baseline, 0)]).unwrap();
        remote.pull(&Host::this(), Origin::Any).unwrap();
    });
}

#[test]
fn damage_in_a_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let remote = open(&store(&folder));
    remote.push(&[&artifact(1, CpuLevel::Baseline, 0)]).unwrap();
    let blobs = folder.path().join("store/app/blobs/sha256");
    let mut refusals = 0;
    for entry in std::fs::read_dir(&blobs).unwrap() {
        let path = entry.unwrap().path();
        let intact = std::fs::read(&path).unwrap();
        let mut damaged = intact.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x20;
        std::fs::write(&path, &damaged).unwrap();
        match remote.pull(&Host::this(), Origin::Any) {
            Err(Error::WrongBytes { .. }) => refusals += 1,
            result => drop(result.unwrap()),
        }
        std::fs::write(&path, &intact).unwrap();
        remote.pull(&Host::this(), Origin::Any).unwrap();
    }
    // All but the empty configuration, which is not read.
    assert_eq!(refusals, 3);
    std::fs::write(folder.path().join("store/app/index.json"), b"[]").unwrap();
    assert!(matches!(remote.pull(&Host::this(), Origin::Any), Err(Error::Store { .. })));
}

#[test]
fn what_is_too_large_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let artifact = artifact(1, CpuLevel::Baseline, 0);
    open(&store(&folder)).push(&[&artifact]).unwrap();
    let limit = artifact.len() as u64;
    let pull = |limit| {
        support::open_with(&store(&folder), support::hasty().max_bytes(limit))
            .pull(&Host::this(), Origin::Any)
    };
    pull(limit).unwrap();
    assert!(matches!(pull(limit - 1), Err(Error::TooLarge { .. })));
}
