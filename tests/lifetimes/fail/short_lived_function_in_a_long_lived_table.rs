//! The table would keep the function when its code is gone.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Func, Ref, Store, Table};

fn main() {
    fn put<'code>(store: &mut Store<'code, ()>, item: Table<'code>, func: Func<'code>) {
        item.set(store, 0, Ref::Func(Some(func))).unwrap();
    }
    let code = artifact();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
    let item = instance.table(&store, "table").unwrap();
    {
        let short = artifact();
        let mut other = Store::new(&engine, ());
        let guest = linker(&engine).instantiate(&mut other, &short).unwrap();
        let func = guest.func(&other, "sum").unwrap();
        put(&mut store, item, func);
    }
}
