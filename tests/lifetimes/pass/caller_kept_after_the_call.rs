//! A caller borrows the store for the length of the call.

use cwasm_loader::{Caller, Engine, Func, Store};

fn main() {
    static KEPT: std::sync::Mutex<Option<bool>> = std::sync::Mutex::new(None);
    let mut store = Store::new(&Engine::default(), ());
    let func = Func::wrap(&mut store, |caller: Caller<'_, '_, ()>| {
        *KEPT.lock().unwrap() = Some(caller.memory().is_some());
    });
    func.call(&mut store, &[]).unwrap();
}
