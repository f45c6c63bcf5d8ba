//! A function borrows the code that it runs.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Func, Store};

fn main() {
    fn function<'code>() -> Func<'code> {
        let code = artifact();
        let engine = Engine::default();
        let mut store = Store::new(&engine, ());
        let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
        instance.func(&store, "sum").unwrap()
    }
    function();
}
