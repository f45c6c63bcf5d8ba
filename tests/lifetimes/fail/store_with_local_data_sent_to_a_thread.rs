//! The data may only be used by the thread that made it.

use cwasm_loader::{Engine, Store};

fn main() {
    let engine = Engine::default();
    let store = Store::new(&engine, std::rc::Rc::new(1));
    std::thread::spawn(move || drop(store));
}
