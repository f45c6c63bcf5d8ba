//! Wasm of the store is still running. What a caller gives out cannot be swapped.

use cwasm_loader::{Caller, Engine, Func, Store};

fn main() {
    let mut store = Store::new(&Engine::default(), ());
    let func = Func::wrap(&mut store, |mut caller: Caller<'_, '_, ()>| {
        let mut other = Store::new(&Engine::default(), ());
        std::mem::swap(caller.data_mut(), other.data_mut());
    });
    func.call(&mut store, &[]).unwrap();
}
