//! Servers that fail, stop in the middle, or give other bytes than those that were asked for: through a web server and through a registry.

mod support;

use std::path::PathBuf;
use std::time::Duration;

use cwasm_artifact::check::{Host, Origin};
use cwasm_compiler::CpuLevel;
use cwasm_remote::{Error, Pulled};
use cwasm_tests::servers::free_port;
use support::server::{Fault, Misbehaving, Request};
use support::{artifact, hasty, open, open_with};

/// A store with one artifact that is large, and the artifact.
struct Shipped {
    folder: tempfile::TempDir,
    artifact: Vec<u8>,
}

impl Shipped {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let artifact = artifact(42, CpuLevel::Baseline, 700_000);
        open(&format!("file://{}/app", folder.path().display())).push(&[&artifact]).unwrap();
        Self { folder, artifact }
    }

    fn layout(&self) -> PathBuf {
        self.folder.path().join("app")
    }

    /// Pulls through both kinds of servers, which follow a plan.
    fn pull(
        &self,
        plan: impl Fn(&Request, usize) -> Fault + Send + Sync + Clone + 'static,
    ) -> Vec<(Result<Pulled, Error>, Vec<usize>)> {
        let schemes = ["http", "oci"];
        let pull = |scheme| {
            let server = Misbehaving::new(&self.layout(), plan.clone());
            let reference = format!("{scheme}://127.0.0.1:{}/app", server.port);
            let options = hasty().timeout(Duration::from_secs(2));
            let result = open_with(&reference, options).pull(&Host::this(), Origin::Any);
            let digest = cwasm_remote::BlobDigest::of(&self.artifact).to_string();
            (result, server.ranges(digest.strip_prefix("sha256:").unwrap()))
        };
        schemes.map(pull).into()
    }
}

fn is_blob(request: &Request) -> bool {
    request.path.contains("/blobs/")
}

#[test]
fn a_server_without_faults_is_pulled_from() {
    let shipped = Shipped::new();
    for (result, ranges) in shipped.pull(|_, _| Fault::None) {
        assert_eq!(result.unwrap().bytes, shipped.artifact);
        assert_eq!(ranges, [0]);
    }
}

#[test]
fn a_download_goes_on_where_it_stopped() {
    let shipped = Shipped::new();
    for (result, ranges) in shipped.pull(|request, before| match (is_blob(request), before) {
        (true, 0) => Fault::Cut(100_000),
        (true, 1) => Fault::Cut(150_000),
        _ => Fault::None,
    }) {
        assert_eq!(result.unwrap().bytes, shipped.artifact);
        assert_eq!(ranges.len(), 3, "{ranges:?}");
        // What had arrived is not asked for again.
        assert!(ranges[1] > 0 && ranges[2] >= ranges[1] + 100_000, "{ranges:?}");
    }
}

#[test]
fn a_server_that_stops_again_and_again_is_given_up() {
    let shipped = Shipped::new();
    for (result, ranges) in
        shipped.pull(|request, _| if is_blob(request) { Fault::Cut(1000) } else { Fault::None })
    {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Unreachable { attempts: 4, .. }), "{error:?}");
        assert_eq!(ranges.len(), 4);
    }
}

#[test]
fn without_ranges_a_download_begins_again() {
    let shipped = Shipped::new();
    for (result, ranges) in shipped.pull(|request, before| match (is_blob(request), before) {
        (true, 0 | 1) => Fault::CutWithoutRanges(100_000),
        _ => Fault::None,
    }) {
        assert_eq!(result.unwrap().bytes, shipped.artifact);
        assert!(ranges.len() >= 3, "{ranges:?}");
    }
}

#[test]
fn other_bytes_are_refused() {
    let shipped = Shipped::new();
    for fault in [Fault::Flip, Fault::Longer] {
        for (result, ranges) in
            shipped.pull(move |request, _| if is_blob(request) { fault } else { Fault::None })
        {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::WrongBytes { .. }), "{fault:?}: {error:?}");
            assert_eq!(ranges, [0]);
        }
    }
}

#[test]
fn a_server_that_recovers_is_waited_for() {
    let shipped = Shipped::new();
    for (result, ranges) in shipped.pull(|request, before| match (is_blob(request), before) {
        (true, 0) => Fault::Status(500),
        (true, 1) => Fault::Status(503),
        _ => Fault::None,
    }) {
        assert_eq!(result.unwrap().bytes, shipped.artifact);
        assert_eq!(ranges, [0, 0, 0]);
    }
}

#[test]
fn a_server_that_does_not_is_named() {
    let shipped = Shipped::new();
    for (result, _) in shipped.pull(|_, _| Fault::Status(500)) {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Unreachable { attempts: 4, .. }), "{error:?}");
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
    }
}

#[test]
fn who_may_not_is_told_where_credentials_were_looked_for() {
    let shipped = Shipped::new();
    for (result, _) in shipped.pull(|request, _| match request.path.as_str() {
        "/v2/" => Fault::None,
        _ => Fault::Status(401),
    }) {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
        assert!(error.to_string().contains("credentials"), "{error}");
    }
}

#[test]
fn silence_and_deadlines_end() {
    let shipped = Shipped::new();
    let server = Misbehaving::new(&shipped.layout(), |_, _| Fault::Hang);
    for scheme in ["http", "oci"] {
        let reference = format!("{scheme}://127.0.0.1:{}/app", server.port);
        let pull = |options| open_with(&reference, options).pull(&Host::this(), Origin::Any);
        let silent = pull(hasty().attempts(2).timeout(Duration::from_millis(100)));
        assert!(matches!(silent, Err(Error::Unreachable { attempts: 2, .. })), "{silent:?}");
        let late = pull(hasty().deadline(Duration::from_millis(100)));
        assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
    }
    let nobody = free_port();
    for scheme in ["http", "oci"] {
        let reference = format!("{scheme}://127.0.0.1:{nobody}/app");
        let refused = open(&reference).pull(&Host::this(), Origin::Any);
        assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
    }
}
