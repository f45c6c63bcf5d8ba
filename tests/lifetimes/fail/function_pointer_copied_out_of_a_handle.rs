//! A copied pointer would leave its lifetime behind.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Store};

fn main() {
    let code = artifact();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
    let sum = instance.typed_func::<(i32, i32), i32>(&store, "sum").unwrap();
    let pointer: extern "C" fn(i32, i32) -> i32 = *sum;
    drop(store);
    drop(code);
    pointer(1, 2);
}
