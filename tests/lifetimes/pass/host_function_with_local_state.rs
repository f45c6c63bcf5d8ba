//! A host function may be called on any thread.

use cwasm_loader::{Caller, Engine, Func, Store};

fn main() {
    let mut store = Store::new(&Engine::default(), ());
    let shared = std::sync::Arc::new(std::sync::atomic::AtomicI32::new(0));
    let func = Func::wrap(&mut store, move |_: Caller<'_, '_, ()>| {
        shared.store(1, std::sync::atomic::Ordering::Relaxed);
    });
    func.call(&mut store, &[]).unwrap();
}
