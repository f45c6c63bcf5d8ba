//! A table lives in its store, and is only reached through it.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Store};

fn main() {
    let code = artifact();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
    let item = instance.table(&store, "table").unwrap();
    item.get(&store, 0).unwrap();
    drop(store);
}
