//! The store knows where the artifact is.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Store};

fn main() {
    let code = artifact();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
    let elsewhere = Box::new(code);
    instance.memory(&store, "memory").unwrap().grow(&mut store, 1).unwrap();
    drop(elsewhere);
}
