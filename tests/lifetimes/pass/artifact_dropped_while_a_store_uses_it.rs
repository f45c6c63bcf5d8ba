//! The code would be unmapped under the instance.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Store};

fn main() {
    let code = artifact();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
    instance.func(&store, "fails").unwrap().call(&mut store, &[]).unwrap_err();
    drop(store);
    drop(code);
}
