//! The bytes of a memory are borrowed from the store.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Store};

fn main() {
    let code = artifact();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
    let memory = instance.memory(&store, "memory").unwrap();
    let bytes = memory.data(&store).unwrap();
    assert_eq!(bytes[16], b'h');
    drop(store);
}
