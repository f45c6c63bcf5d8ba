//! The global would keep the function when its code is gone.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Func, Global, GlobalType, Ref, Store, Val, ValType};

fn main() {
    fn put<'code>(store: &mut Store<'code, ()>, item: Global<'code>, func: Func<'code>) {
        item.set(store, Val::FuncRef(Some(func))).unwrap();
    }
    let code = artifact();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
    let item = { let ty = GlobalType { value: ValType::FuncRef, mutable: true }; Global::new(&mut store, ty, Val::FuncRef(None)).unwrap() };
    {
        let short = artifact();
        let mut other = Store::new(&engine, ());
        let guest = linker(&engine).instantiate(&mut other, &short).unwrap();
        let func = guest.func(&other, "sum").unwrap();
        put(&mut store, item, func);
    }
}
