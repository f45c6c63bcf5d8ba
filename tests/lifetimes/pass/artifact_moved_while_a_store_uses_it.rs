//! The store knows where the artifact is.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Store};

fn main() {
    let code = Box::new(artifact());
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
    instance.memory(&store, "memory").unwrap().grow(&mut store, 1).unwrap();
}
