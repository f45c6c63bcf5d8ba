//! A copied pointer would leave its lifetime behind.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Store};

fn main() {
    let code = artifact();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
    let sum = instance.typed_func::<(i32, i32), i32>(&store, "sum").unwrap();
    sum.call(&mut store, (1, 2)).unwrap();
    drop(store);
    drop(code);
}
