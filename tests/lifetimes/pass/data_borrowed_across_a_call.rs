//! Host functions may change the data.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Store, Val};

fn main() {
    let code = artifact();
    let engine = Engine::default();
    let mut store = Store::new(&engine, vec![1]);
    let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
    let sum = instance.func(&store, "sum").unwrap();
    sum.call(&mut store, &[Val::I32(1), Val::I32(2)]).unwrap();
    let first = &store.data()[0];
    assert_eq!(*first, 1);
}
