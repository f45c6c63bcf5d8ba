//! `cwasm push`, `pull` and `bundle`, and a whole deployment: from one machine through a store to another, which serves requests meanwhile.

mod command;

use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use command::Folder;
use cwasm_loader::{Artifact, Caller, Engine, Linker, PublicKey, Trust, Val};
use cwasm_tests::servers::Server;
use hot_swap::Modules;

/// An application whose requests may wait in the host.
fn application(version: i32) -> String {
    format!(
        r#"(module (import "host" "wait" (func $wait))
             (func (export "version") (result i32) i32.const {version})
             (func (export "slow") (result i32) call $wait i32.const {version}))"#
    )
}

/// Builds a version in one place, and ships it.
fn release(builder: &Folder, store: &str, version: i32) {
    builder.write("app.wat", application(version));
    builder.compile("app.wat -o v1.cwasm");
    builder.compile("app.wat -o v3.cwasm --cpu x86-64-v3");
    for file in ["v1.cwasm", "v3.cwasm"] {
        assert_eq!(builder.cwasm(&format!("sign {file} --key release.key")).code, 0);
    }
    let ended = builder.cwasm(&format!("push {store}:{version}.0 v1.cwasm v3.cwasm"));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.stderr, "", "no progress in a pipe");
    assert!(ended.stdout.contains("(x86-64-v1)") && ended.stdout.contains("(x86-64-v3)"));
}

/// Gets a version to another place, and loads it there.
fn fetch(host: &Folder, store: &str, version: i32, key: PublicKey) -> Artifact {
    let file = format!("app-{version}.cwasm");
    let ended = host.cwasm(&format!("pull {store}:{version}.0 -o {file} --key release.pub"));
    assert_eq!(ended.code, 0, "{ended:?}");
    Artifact::load(host.path(&file), &Trust::keys([key])).unwrap()
}

fn deploy(store: &str) {
    let (builder, host) = (Folder::new(), Folder::new());
    assert_eq!(builder.cwasm("keygen -o release.key").code, 0);
    // The public key is all that the host gets from the builder.
    host.write("release.pub", builder.read("release.key.pub"));
    let key: PublicKey = String::from_utf8(host.read("release.pub")).unwrap().parse().unwrap();

    // The slow request says that it has begun, and then waits.
    let (begun, has_begun) = channel();
    let (go, may_go) = channel::<()>();
    let may_go = Mutex::new(may_go);
    let engine = Engine::default();
    let mut linker: Linker<'static, ()> = Linker::new(&engine);
    linker
        .func("host", "wait", move |_: Caller<'_, '_, ()>| {
            begun.send(()).unwrap();
            may_go.lock().unwrap().recv().unwrap();
        })
        .unwrap();
    let modules = Arc::new(Modules::new(linker));
    let call = |function: &'static str| {
        let modules = modules.clone();
        std::thread::spawn(move || {
            match modules.request("app", function, &[]).unwrap().as_slice() {
                [Val::I32(version)] => *version,
                other => panic!("{other:?}"),
            }
        })
    };

    release(&builder, store, 1);
    modules.replace("app", fetch(&host, store, 1, key));
    assert_eq!(call("version").join().unwrap(), 1);
    let old_request = call("slow");
    has_begun.recv().unwrap();

    release(&builder, store, 2);
    modules.replace("app", fetch(&host, store, 2, key));
    // Prune: the old file goes while its code is running, and what the builder keeps for itself.
    std::fs::remove_file(host.path("app-1.cwasm")).unwrap();
    assert_eq!(builder.cwasm("cache prune --max-size 0").code, 0);
    assert_eq!(call("version").join().unwrap(), 2);
    go.send(()).unwrap();
    assert_eq!(old_request.join().unwrap(), 1, "an old request ends on the old code");
    assert_eq!(call("version").join().unwrap(), 2);
    // A roll back is a pull.
    modules.replace("app", fetch(&host, store, 1, key));
    assert_eq!(call("version").join().unwrap(), 1);
}

#[test]
fn a_deployment_through_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    deploy(&format!("file://{}/store/app", folder.path().display()));
}

#[test]
fn a_deployment_through_a_registry() {
    let Some(registry) = Server::registry(None) else { return };
    let port = registry.port;
    deploy(&format!("oci://127.0.0.1:{port}/team/app"));
}

const MODULE: &str = r#"(module (func (export "f") (result i32) (i32.const 7)))"#;

#[test]
fn what_is_not_trusted_is_not_written() {
    let folder = Folder::new();
    let digest = folder.write("in.wat", MODULE).compile("in.wat");
    let store = format!("file://{}", folder.path("store/in").display());
    assert_eq!(folder.cwasm(&format!("push {store} in.cwasm")).code, 0);
    for key in ["mine", "other"] {
        assert_eq!(folder.cwasm(&format!("keygen -o {key}")).code, 0);
    }
    let before = folder.write("old.cwasm", "what was there").names();
    let refused = folder.cwasm(&format!("pull {store} -o old.cwasm --key mine.pub"));
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("is refused"), "{refused:?}");
    let no_reason = folder.cwasm(&format!("pull {store} -o old.cwasm"));
    assert_eq!(no_reason.code, 2, "{no_reason:?}");
    let damaged = folder.cwasm(&format!("pull {store}:none -o old.cwasm --trust-file"));
    assert!(damaged.stderr.contains("there is no file://"), "{damaged:?}");
    assert_eq!(folder.names(), before);
    assert_eq!(folder.read("old.cwasm"), b"what was there");
    let ended = folder.cwasm(&format!("pull {store} -o old.cwasm --digest {digest}"));
    ended.printed(&format!("{digest} old.cwasm\n"));
    assert_eq!(folder.read("old.cwasm"), folder.read("in.cwasm"));
    let arm =
        folder.cwasm(&format!("pull {store} --trust-file --target aarch64-unknown-linux-gnu"));
    assert!(arm.stderr.contains("has nothing for aarch64-unknown-linux-gnu"), "{arm:?}");
}

#[test]
fn bundles_are_made_shown_checked_and_run() {
    let folder = Folder::new();
    let popcnt = r#"(module (func (export "f") (param i64) (result i64) local.get 0 i64.popcnt))"#;
    let one = folder.write("in.wat", popcnt).compile("in.wat -o in.v1.cwasm");
    let two = folder.compile("in.wat -o in.v2.cwasm --cpu x86-64-v2");
    assert_eq!(folder.cwasm("keygen -o a").code, 0);
    assert_eq!(folder.cwasm("sign in.v2.cwasm --key a").code, 0);
    let ended = folder.cwasm("bundle -o in.bundle in.v1.cwasm in.v2.cwasm");
    assert_eq!(ended.code, 0, "{ended:?}");
    let verified = folder.cwasm("verify in.bundle");
    assert!(verified.stdout.contains(&format!("ok {one} in x86_64")), "{verified:?}");
    assert!(verified.stdout.contains(&format!("ok {two} in x86_64")), "{verified:?}");
    assert_eq!(folder.cwasm("verify in.bundle --key a.pub").code, 1, "one is not signed");
    assert_eq!(folder.cwasm(&format!("verify in.bundle --digest {one}")).code, 0);
    let shown = folder.cwasm("inspect in.bundle");
    assert!(shown.stdout.contains(&two) && shown.stdout.contains("(x86-64-v2)"), "{shown:?}");
    assert!(folder.cwasm("inspect in.bundle --json").stdout.contains("\"bundle\": ["));
    if std::arch::is_x86_feature_detected!("popcnt") {
        // The second one is picked, which is signed.
        folder.cwasm("run in.bundle --key a.pub --invoke f 7").printed("3\n");
    }
    assert_eq!(folder.cwasm("run in.bundle --invoke f 7").code, 1, "nothing vouches for it");
    assert_eq!(folder.cwasm("bundle -o all.bundle a=in.v1.cwasm b=in.v1.cwasm").code, 0);
    let which = folder.cwasm("run all.bundle --trust-file --invoke f 7");
    assert!(which.stderr.contains("choose one with `--module`: a, b"), "{which:?}");
    folder.cwasm("run all.bundle --module b --trust-file --invoke f 7").printed("3\n");
}

#[test]
fn a_store_behind_the_cache_is_named_by_variables() {
    let (first, second) = (Folder::new(), Folder::new());
    let store = tempfile::tempdir().unwrap();
    assert_eq!(first.cwasm("keygen -o a").code, 0);
    second.write("a.pub", first.read("a.pub"));
    let run = |folder: &Folder, variables: &[(&str, &str)]| {
        folder.write("in.wat", MODULE);
        let mut command = Command::new(env!("CARGO_BIN_EXE_cwasm"));
        let directory = folder.path("in.wat");
        command.args(["run", "in.wat", "--invoke", "f"]).current_dir(directory.parent().unwrap());
        command.env("CWASM_CACHE_DIR", folder.cache.path()).envs(variables.iter().copied());
        let output = command.output().unwrap();
        assert_eq!(output.stdout, b"7\n", "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let place = format!("file://{}/cache", store.path().display());
    let remote = ("CWASM_CACHE_REMOTE", place.as_str());
    let key = ("CWASM_CACHE_REMOTE_KEY", "a.pub");
    assert!(run(&second, &[remote]).contains("CWASM_CACHE_REMOTE_KEY must name"));
    assert_eq!(second.cwasm("cache clear").code, 0);
    assert_eq!(run(&first, &[remote, key, ("CWASM_CACHE_REMOTE_SIGN", "a")]), "");
    assert_eq!(run(&second, &[remote, key]), "");
    let did = second.cwasm("cache stats --json").stdout;
    let did: serde_json::Value = serde_json::from_str(&did).unwrap();
    assert_eq!(did["level_hits"], 1, "{did}");
    let nowhere = ("CWASM_CACHE_REMOTE", "file:///proc/no/such/place");
    assert_eq!(second.cwasm("cache clear").code, 0);
    let told = run(&second, &[nowhere, key, ("CWASM_CACHE_REMOTE_SIGN", "a.pub")]);
    assert!(told.contains("is not used: a.pub is a public key"), "{told}");
}
