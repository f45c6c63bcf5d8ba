//! Dropping the store still looks at its artifacts.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Store};

fn main() {
    let engine = Engine::default();
    let code = artifact();
    let mut store = Store::new(&engine, ());
    linker(&engine).instantiate(&mut store, &code).unwrap();
}
