//! A reference that was taken out of a table leads into the store.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Ref, Store};

fn main() {
    let code = artifact();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
    let table = instance.table(&store, "table").unwrap();
    let Ref::Func(Some(sum)) = table.get(&store, 1).unwrap() else { unreachable!() };
    sum.ty(&store).unwrap();
    drop(store);
}
