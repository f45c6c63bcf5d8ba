//! Wasm of the store is still running. What a caller gives out cannot be swapped.

use cwasm_loader::{AsStoreMut, Caller, Engine, Func, Store};

fn main() {
    let mut store = Store::new(&Engine::default(), ());
    let func = Func::wrap(&mut store, |mut caller: Caller<'_, '_, ()>| {
        let mut other = Store::new(&Engine::default(), ());
        std::mem::swap(&mut caller.as_store_mut(), &mut other);
    });
    func.call(&mut store, &[]).unwrap();
}
