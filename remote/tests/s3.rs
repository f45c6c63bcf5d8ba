//! An S3 server: what a directory can do, also for several who push at the same time.

mod support;

use cwasm_artifact::check::{Host, Origin};
use cwasm_compiler::CpuLevel;
use cwasm_remote::Error;
use cwasm_tests::fault::child;
use cwasm_tests::servers::Server;
use support::{artifact, open, request, trusted};

fn push_and_pull_as_the_environment_says() {
    let remote = open("s3://bucket/team/app:1.2");
    let missing = remote.pull(&Host::this(), Origin::Any);
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    let key = trusted().public();
    let plain = trusted().sign(&artifact(1, CpuLevel::Baseline, 300_000));
    remote.push(&[&plain]).unwrap();
    let other = open("s3://bucket/team/app:1.3");
    other.push(&[&artifact(3, CpuLevel::Baseline, 0)]).unwrap();
    assert_eq!(remote.pull(&Host::this(), Origin::Keys(&[key])).unwrap().bytes, plain);
    let levels = [CpuLevel::Baseline, CpuLevel::X86_64V2, CpuLevel::X86_64V3, CpuLevel::X86_64V4];
    let artifacts = levels.map(|level| artifact(1, level, 0));
    std::thread::scope(|scope| {
        for artifact in &artifacts {
            scope.spawn(move || open("s3://bucket/shared").push(&[artifact]).unwrap());
        }
    });
    assert_eq!(open("s3://bucket/shared").entries().unwrap().len(), 4);
    let elsewhere = open("s3://no-such-bucket/app").pull(&Host::this(), Origin::Any);
    assert!(matches!(elsewhere, Err(Error::NotFound { .. })), "{elsewhere:?}");
}

#[test]
fn a_bucket_keeps_artifacts() {
    const TEST: &str = "a_bucket_keeps_artifacts";
    // In a process of its own, since S3 is told by variables where it is.
    child::here(TEST, push_and_pull_as_the_environment_says);
    let Some(server) = Server::s3() else { return };
    let answer = request(
        server.port,
        &format!(
            "PUT /bucket HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\nConnection: close\r\nAuthorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request\r\n\r\n",
            server.port
        ),
    );
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let ended = child::start(TEST, |command| {
        command
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", server.port))
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", "us-east-1");
    });
    ended.well();
}
