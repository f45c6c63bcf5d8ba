//! Debian's `docker-registry`: what a directory can do, credentials, and that they are told to nobody.

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use cwasm_artifact::check::{Host, Origin};
use cwasm_artifact::cpu::Arch;
use cwasm_artifact::digest::Digest;
use cwasm_compiler::CpuLevel;
use cwasm_remote::Error;
use cwasm_tests::fault::child;
use cwasm_tests::servers::Server;
use support::{artifact, open, trusted};

#[test]
fn a_registry_keeps_artifacts_for_several_cpus() {
    let Some(server) = Server::registry(None) else { return };
    let reference = format!("oci://127.0.0.1:{}/team/app:1.2", server.port);
    let remote = open(&reference);
    let missing = remote.pull(&Host::this(), Origin::Any);
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    let key = trusted().public();
    let levels = [CpuLevel::X86_64V3, CpuLevel::Baseline];
    let artifacts = levels.map(|level| trusted().sign(&artifact(1, level, 300_000)));
    remote.push(&[&artifacts[0]]).unwrap();
    let pushed = remote.push(&[&artifacts[1]]).unwrap();
    assert_eq!(pushed.there.len(), 2);
    for (level, artifact) in levels.iter().zip(&artifacts) {
        let features = level.features(Arch::X86_64).unwrap();
        let host = Host { cpu_features: features, ..Host::this() };
        assert_eq!(remote.pull(&host, Origin::Keys(&[key])).unwrap().bytes, *artifact);
    }
    let host = Host { cpu_features: Default::default(), ..Host::this() };
    let fixed = format!("oci://127.0.0.1:{}/team/app@{}", server.port, pushed.index);
    assert_eq!(open(&fixed).pull(&host, Origin::Keys(&[key])).unwrap().bytes, artifacts[1]);
    // A new version replaces its like, and the digest leads to the old one.
    let newer = artifact(2, CpuLevel::Baseline, 0);
    assert_eq!(remote.push(&[&newer]).unwrap().there.len(), 2);
    let digest = remote.pull(&host, Origin::Any).unwrap().digest;
    assert_eq!(Some(digest), Digest::stated_in(&newer));
    assert_eq!(open(&fixed).pull(&host, Origin::Any).unwrap().bytes, artifacts[1]);
}

/// What `htpasswd -B` makes of the user `me` and the password `hunter2-secret`.
const HTPASSWD: &str = include_str!("htpasswd");

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn push_and_pull_as_the_environment_says() {
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let reference = std::env::var("TEST_REFERENCE").unwrap();
    let remote = open(&reference);
    let artifact = artifact(1, CpuLevel::Baseline, 0);
    let result = remote.push(&[&artifact]);
    let told = match &result {
        Ok(_) => {
            assert_eq!(remote.pull(&Host::this(), Origin::Any).unwrap().bytes, artifact);
            "it worked".to_owned()
        }
        Err(error) => format!("{error}; {error:?}"),
    };
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("127.0.0.1"), "there is something to look through");
    for text in [&log, &told, &format!("{remote:?}")] {
        assert!(!text.contains("hunter2-secret"), "a password was told: {text}");
        assert!(!text.contains("bWU6aHVudGVyMi1zZWNyZXQ="), "a password was told: {text}");
    }
    let _ = writeln!(std::io::stdout(), "TOLD {told}");
}

#[test]
fn credentials_come_from_the_docker_config_and_are_told_to_nobody() {
    const TEST: &str = "credentials_come_from_the_docker_config_and_are_told_to_nobody";
    // In a process of its own, since it is about variables.
    child::here(TEST, push_and_pull_as_the_environment_says);
    let Some(server) = Server::registry(Some(HTPASSWD)) else { return };
    let host = format!("127.0.0.1:{}", server.port);
    let config = |auth: &str| format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#);
    // me:hunter2-secret, and me:wrong.
    let (right, wrong) = ("bWU6aHVudGVyMi1zZWNyZXQ=", "bWU6d3Jvbmc=");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config(right)).unwrap();
    let empty = tempfile::tempdir().unwrap();
    let run = |directory: &tempfile::TempDir, variable: &str| {
        let ended = child::start(TEST, |command| {
            command
                .env("TEST_REFERENCE", format!("oci://{host}/app"))
                .env("DOCKER_CONFIG", directory.path())
                .env("DOCKER_AUTH_CONFIG", variable);
        });
        ended.well();
        ended.output
    };
    assert!(run(&folder, "").contains("TOLD it worked"));
    assert!(run(&empty, &config(right)).contains("TOLD it worked"));
    let told = run(&empty, "");
    assert!(told.contains("not allowed to use oci://"), "{told}");
    assert!(told.contains("config.json in DOCKER_CONFIG or ~/.docker"), "{told}");
    let told = run(&folder, &config(wrong));
    assert!(told.contains("the variable DOCKER_AUTH_CONFIG, and those in it were used"), "{told}");
}
