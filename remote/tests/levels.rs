//! A store behind the local cache: machines compile once, and nobody runs what nobody whom they trust has signed.

mod support;

use std::sync::Arc;
use std::time::Duration;

use cwasm_cache::{Cache, Error, Options as CacheOptions};
use cwasm_compiler::{CpuLevel, Settings};
use cwasm_loader::{Artifact, Engine, Linker, Store};
use cwasm_remote::{Access, RemoteLevel};
use cwasm_tests::servers::{Server, free_port};
use cwasm_tests::signing::Key;
use support::server::{Fault, Misbehaving};
use support::{artifact, hasty, open, trusted};

/// Machines that share a store, each with a cache of its own.
struct Fleet {
    folder: tempfile::TempDir,
    wasm: Vec<u8>,
}

impl Fleet {
    fn new() -> Self {
        let wasm = wat::parse_str(r#"(module (func (export "answer") (result i32) i32.const 7))"#);
        Self { folder: tempfile::tempdir().unwrap(), wasm: wasm.unwrap() }
    }

    fn store(&self) -> String {
        format!("file://{}/store", self.folder.path().display())
    }

    fn machine(&self, name: &str, store: &str, signer: Option<Key>) -> Cache {
        let access = match signer {
            None => Access::ReadOnly,
            Some(key) => {
                Access::ReadWrite(Arc::new(move |message: &[u8]| key.signature_of(message)))
            }
        };
        let options = hasty().attempts(2).deadline(Duration::from_secs(5));
        let level = RemoteLevel::new(&store.parse().unwrap(), options, access);
        CacheOptions::default()
            .level(Arc::new(level), [trusted().public()])
            .open(self.folder.path().join(name))
            .unwrap()
    }

    fn compile(&self, cache: &Cache) {
        assert_eq!(answer(&cache.get_or_compile(&self.wasm, &Settings::default()).unwrap()), 7);
    }
}

fn answer(artifact: &Artifact) -> i32 {
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, artifact).unwrap();
    instance.typed_func::<(), i32>(&store, "answer").unwrap().call(&mut store, ()).unwrap()
}

#[test]
fn what_one_machine_compiles_others_find() {
    let fleet = Fleet::new();
    let first = fleet.machine("first", &fleet.store(), Some(trusted()));
    fleet.compile(&first);
    let did = first.statistics();
    assert_eq!((did.compiled, did.level_misses, did.level_written), (1, 1, 1));
    let second = fleet.machine("second", &fleet.store(), None);
    fleet.compile(&second);
    fleet.compile(&second);
    let did = second.statistics();
    // The second time from its own directory.
    assert_eq!((did.compiled, did.level_hits, did.hits), (0, 1, 1));
    // A machine that must not compile finds it too.
    let level = RemoteLevel::new(&fleet.store().parse().unwrap(), hasty(), Access::ReadOnly);
    std::fs::create_dir(fleet.folder.path().join("third")).unwrap();
    let third = CacheOptions::default()
        .read_only(true)
        .level(Arc::new(level), [trusted().public()])
        .open(fleet.folder.path().join("third"))
        .unwrap();
    assert_eq!(answer(&third.get(&fleet.wasm, &Settings::default()).unwrap()), 7);
    let fuel = Settings { fuel: true, ..Settings::default() };
    assert!(matches!(third.get(&fleet.wasm, &fuel), Err(Error::Miss { .. })));
}

#[test]
fn a_registry_is_a_level_too() {
    let Some(server) = Server::registry(None) else { return };
    let fleet = Fleet::new();
    let store = format!("oci://127.0.0.1:{}/cache", server.port);
    fleet.compile(&fleet.machine("first", &store, Some(trusted())));
    let second = fleet.machine("second", &store, None);
    fleet.compile(&second);
    assert_eq!((second.statistics().compiled, second.statistics().level_hits), (0, 1));
}

#[test]
fn a_stranger_s_signature_is_not_enough() {
    let fleet = Fleet::new();
    let stranger = fleet.machine("first", &fleet.store(), Some(Key::new(9)));
    fleet.compile(&stranger);
    let second = fleet.machine("second", &fleet.store(), None);
    fleet.compile(&second);
    let did = second.statistics();
    assert_eq!((did.compiled, did.level_hits, did.level_refused), (1, 0, 1));
}

#[test]
fn a_signed_artifact_under_another_s_name_is_not_taken() {
    let fleet = Fleet::new();
    // Who may write to the store puts what was signed without a limit where the one with the limit belongs.
    let unlimited = cwasm_compiler::compile(&fleet.wasm, &Settings::default()).unwrap();
    let fuel = Settings { fuel: true, ..Settings::default() };
    let key = cwasm_cache::Key::new(&(&fleet.wasm).into(), &(&fuel).into());
    let other = artifact(1, CpuLevel::Baseline, 0);
    for wrong in [unlimited, other] {
        let name = format!("{}/{key}", fleet.store());
        open(&name).push(&[&trusted().sign(&wrong)]).unwrap();
        let folder = tempfile::tempdir_in(fleet.folder.path()).unwrap();
        let machine = fleet.machine(folder.path().to_str().unwrap(), &fleet.store(), None);
        let artifact = machine.get_or_compile(&fleet.wasm, &fuel).unwrap();
        assert!(artifact.uses_fuel());
        let did = machine.statistics();
        assert_eq!((did.compiled, did.level_refused), (1, 1));
    }
}

#[test]
fn a_store_that_fails_stops_nobody() {
    let fleet = Fleet::new();
    let layout = fleet.folder.path();
    let server = Misbehaving::new(layout, |_, _| Fault::Status(500));
    let nobody = free_port();
    for (number, store) in [
        format!("http://127.0.0.1:{}/cache", server.port),
        format!("oci://127.0.0.1:{nobody}/cache"),
        "file:///proc/no/such/place".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        let machine = fleet.machine(&number.to_string(), store, Some(trusted()));
        fleet.compile(&machine);
        let did = machine.statistics();
        assert_eq!((did.compiled, did.level_written), (1, 0), "{store}");
        assert!(did.level_failures >= 1, "{store}: {did:?}");
    }
}
