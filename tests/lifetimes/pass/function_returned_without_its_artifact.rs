//! A function borrows the code that it runs.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Artifact, Engine, Func, Store, Val};

fn main() {
    fn function<'code>(code: &'code Artifact, store: &mut Store<'code, ()>) -> Func<'code> {
        let engine = Engine::default();
        let instance = linker(&engine).instantiate(store, code).unwrap();
        instance.func(store, "sum").unwrap()
    }
    let code = artifact();
    let mut store = Store::new(&Engine::default(), ());
    let sum = function(&code, &mut store);
    sum.call(&mut store, &[Val::I32(1), Val::I32(2)]).unwrap();
}
