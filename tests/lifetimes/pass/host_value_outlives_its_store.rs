//! The store owns what external references lead to.

use cwasm_loader::{Engine, ExternRef, Store};

fn main() {
    let mut store = Store::new(&Engine::default(), ());
    let reference = ExternRef::new(&mut store, String::from("text"));
    let value = reference.get(&store).unwrap();
    value.downcast_ref::<String>().unwrap();
    drop(store);
}
