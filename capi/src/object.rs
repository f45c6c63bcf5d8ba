//! What C holds pointers to, and what is done with it, without a pointer in sight.

use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::sync::Arc;

use cwasm_loader::{Digest, Engine, Linker, Store, Trust, Val};

use crate::value::Value;

/// `cwasm_error_t`: a message.
#[derive(Debug)]
pub struct Error {
    message: CString,
    trap: bool,
}

impl Error {
    pub(crate) fn misuse(message: String) -> Self {
        // A zero byte would end the message for C.
        let message = CString::new(message.replace('\0', "\u{fffd}")).unwrap_or_default();
        Self { message, trap: false }
    }

    pub(crate) fn null(what: &str) -> Self {
        Self::misuse(format!("a null pointer was passed for {what}"))
    }

    pub(crate) fn panicked() -> Self {
        Self::misuse("cwasm failed, which is a bug in it; its message is on stderr".to_owned())
    }

    /// The message with its causes.
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            // Writing to a `String` does not fail.
            let _ = write!(message, ": {error}");
            cause = error.source();
        }
        Self::misuse(message)
    }

    pub(crate) fn message(&self) -> &CStr {
        &self.message
    }

    pub(crate) fn is_trap(&self) -> bool {
        self.trap
    }
}

impl From<cwasm_loader::Error> for Error {
    fn from(error: cwasm_loader::Error) -> Self {
        match error.trap() {
            Some(trap) => Self { trap: true, ..Self::misuse(trap.to_string()) },
            None => Self::of(&error),
        }
    }
}

/// `cwasm_artifact_t`.
#[derive(Debug)]
pub struct Artifact(Arc<cwasm_loader::Artifact>);

impl Artifact {
    pub(crate) fn load(bytes: &[u8], digest: &[u8]) -> Result<Self, Error> {
        let digest = <[u8; 32]>::try_from(digest)
            .map_err(|_| Error::misuse("a digest has 32 bytes".to_owned()))?;
        let trust = Trust::digest(Digest(digest));
        let artifact = cwasm_loader::Artifact::from_bytes(bytes, &trust);
        Ok(Self(Arc::new(artifact.map_err(|error| Error::of(&error))?)))
    }
}

/// `cwasm_instance_t`: an instance in a store of its own, which keeps the artifact alive.
#[derive(Debug)]
pub struct Instance {
    store: Store<'static, ()>,
    instance: cwasm_loader::Instance<'static>,
}

impl Instance {
    pub(crate) fn new(artifact: &Artifact) -> Result<Self, Error> {
        let engine = Engine::default();
        let mut store = Store::new(&engine, ());
        // Code that counts fuel stops without any.
        store.set_fuel(u64::MAX);
        let instance = Linker::new(&engine).instantiate_shared(&mut store, &artifact.0)?;
        Ok(Self { store, instance })
    }

    /// Calls a function that has `result_count` results.
    pub(crate) fn call(
        &mut self,
        name: &CStr,
        arguments: &[Val<'static>],
        result_count: usize,
    ) -> Result<Vec<Value>, Error> {
        let name = name
            .to_str()
            .map_err(|_| Error::misuse("the name of the function is not UTF-8".to_owned()))?;
        let func = self.instance.func(&self.store, name)?;
        let results = func.ty(&self.store)?.results.len();
        if results != result_count {
            return Err(Error::misuse(format!(
                "`{name}` has {results} results, and there is room for {result_count}"
            )));
        }
        let results = func.call(&mut self.store, arguments)?;
        results.iter().map(Value::of).collect()
    }
}
