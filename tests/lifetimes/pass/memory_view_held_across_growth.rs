//! A memory that grows may move.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Store};

fn main() {
    let code = artifact();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
    let memory = instance.memory(&store, "memory").unwrap();
    memory.grow(&mut store, 1).unwrap();
    let bytes = memory.data_mut(&mut store).unwrap();
    bytes[0] = 1;
}
