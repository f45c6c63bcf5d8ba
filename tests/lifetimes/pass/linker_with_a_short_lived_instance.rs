//! Instances of the store would import functions whose code is gone.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Linker, Store};

fn main() {
    let code = artifact();
    let short = artifact();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let mut names = Linker::new(&engine);
    {
        let guest = linker(&engine).instantiate(&mut store, &short).unwrap();
        names.instance(&store, "guest", guest).unwrap();
    }
    names.instantiate(&mut store, &code).unwrap_err();
}
