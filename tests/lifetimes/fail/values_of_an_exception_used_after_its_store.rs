//! The store owns what an exception refers to, also if the exception is kept.

use cwasm_lifetimes::{artifact, linker};
use cwasm_loader::{Engine, Exception, Store, Tag, TagType, Val, ValType};

fn main() {
    let code = artifact();
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = linker(&engine).instantiate(&mut store, &code).unwrap();
    let func = instance.func(&store, "sum").unwrap();
    let tag = Tag::new(&mut store, TagType::new([ValType::FuncRef])).unwrap();
    let exception = Exception::new(&mut store, tag, &[Val::FuncRef(Some(func))]).unwrap();
    let values = exception.values(&store).unwrap();
    drop(store);
    drop(code);
    assert!(matches!(values[0], Val::FuncRef(Some(_))));
}
