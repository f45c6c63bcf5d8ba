//! A host function may be called on any thread.

use cwasm_loader::{Caller, Engine, Func, Store};

fn main() {
    let mut store = Store::new(&Engine::default(), ());
    let local = std::rc::Rc::new(std::cell::Cell::new(0));
    Func::wrap(&mut store, move |_: Caller<'_, '_, ()>| local.set(1));
}
