//! Calls into one instance, as most tests of behaviour make them.

use cwasm_loader::{Artifact, Engine, Error, Instance, Linker, Store, TrapKind, Val};

/// An empty store.
#[must_use]
pub fn store<'code>() -> Store<'code, ()> {
    Store::new(&Engine::default(), ())
}

/// A linker without definitions.
#[must_use]
pub fn linker<'code>() -> Linker<'code, ()> {
    Linker::new(&Engine::default())
}

/// An instance of an artifact that imports nothing.
///
/// # Panics
/// If there is none; so for the other functions.
pub fn instantiate<'code>(
    store: &mut Store<'code, ()>,
    artifact: &'code Artifact,
) -> Instance<'code> {
    linker().instantiate(store, artifact).unwrap()
}

/// Calls a function that is exported.
///
/// # Errors
/// As the call fails.
pub fn call<'code>(
    store: &mut Store<'code, ()>,
    instance: &Instance<'code>,
    name: &str,
    args: &[Val<'code>],
) -> Result<Vec<Val<'code>>, Error> {
    instance.func(&*store, name).unwrap().call(store, args)
}

/// The first result, an `i32`.
#[must_use]
pub fn int(values: Result<Vec<Val<'_>>, Error>) -> i32 {
    values.unwrap()[0].i32().unwrap()
}

/// Why a call trapped.
#[must_use]
pub fn trap(result: Result<Vec<Val<'_>>, Error>) -> TrapKind {
    match result {
        Err(Error::Trap(trap)) => trap.kind(),
        other => panic!("{other:?}"),
    }
}
