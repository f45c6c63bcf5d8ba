//! The call may grow the memory, or write to it.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Store, Val};

fn main() {
    let code = artifact();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
    let memory = instance.memory(&store, "memory").unwrap();
    let bytes = memory.data(&store).unwrap();
    let sum = instance.func(&store, "sum").unwrap();
    sum.call(&mut store, &[Val::I32(1), Val::I32(2)]).unwrap();
    assert_eq!(bytes[16], b'h');
}
