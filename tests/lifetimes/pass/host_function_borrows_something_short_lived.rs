//! The store keeps the closure, and the closure what it captures.

use cwasm_loader::{Caller, Engine, Func, Store};

fn main() {
    let number = 42;
    let number = &number;
    let mut store = Store::new(&Engine::default(), ());
    let func = Func::wrap(&mut store, move |_: Caller<'_, '_, ()>| *number);
    func.call(&mut store, &[]).unwrap();
}
