//! A tag lives in its store, and is only reached through it.

use cwasm_loader::{Engine, Store, Tag, TagType, ValType};

fn main() {
    let mut store = Store::new(&Engine::default(), ());
    let tag = Tag::new(&mut store, TagType::new([ValType::I32])).unwrap();
    drop(store);
    tag.ty(&store).unwrap();
}
