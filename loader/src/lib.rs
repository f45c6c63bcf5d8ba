//! Checks, maps and runs `.cwasm` artifacts. Contains no compiler.
//!
//! ```no_run
//! use cwasm_loader::{Artifact, Digest, Engine, Linker, Store, Trust};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let digest: Digest = "00".parse()?;
//! let artifact = Artifact::load("add.cwasm", &Trust::digest(digest))?;
//! let engine = Engine::default();
//! let mut store = Store::new(&engine, ());
//! let instance = Linker::new(&engine).instantiate(&mut store, &artifact)?;
//! let add = instance.typed_func::<(i32, i32), i32>(&store, "add")?;
//! assert_eq!(add.call(&mut store, (2, 3))?, 5);
//! # Ok(()) }
//! ```
//!
//! The modules, in the order in which an artifact passes through them:
//! a `source` is opened in the way that a `trust` asks for (`cache_dir` is the one that looks at
//! directories), `snapshot` reads it into private memory (`spare` may have some) and has it checked (`hashing`), `artifact` checks and maps it, `linker` and `instantiate` make instances of it in a
//! `store`, and the handles `func`, `memory`, `table`, `global`, `tag`, `exception` and `any_ref` use
//! them. `vm` holds what compiled code touches, `sys` what the operating system provides.
//! All `unsafe` is in these two, and where handles meet them.

mod any_ref;
mod artifact;
mod bundle;
mod cache_dir;
mod constant;
mod embedded;
mod engine;
mod error;
mod exception;
mod external;
mod func;
mod global;
mod hashing;
mod instance;
mod instantiate;
mod kept;
mod limits;
mod linker;
mod memory;
mod shared_memory;
mod snapshot;
mod source;
mod spare;
mod store;
mod sys;
mod table;
mod tag;
mod trust;
mod type_registry;
mod value;
mod vm;

pub use any_ref::AnyRef;
pub use artifact::{Artifact, ExportType, ImportType};
pub use bundle::{Bundle, Picked};
pub use cache_dir::{CacheDir, CacheDirError, Exposure};
pub use cwasm_artifact::abi::traps::Trap as TrapKind;
pub use cwasm_artifact::bundle::{BundleEntry, BundleError};
pub use cwasm_artifact::digest::Digest;
pub use cwasm_artifact::report::{Problem, Report};
pub use cwasm_artifact::signature::{KeyId, PublicKey, PublicKeyError};
pub use cwasm_artifact::types::{
    CompositeType, ExternType, FieldType, FuncType, GlobalType, HeapType, IndexType, Limits,
    MemoryType, RefType, StorageType, StructType, TableType, TagType, TypeRef, ValType,
};
pub use embedded::{Embedded, Installed};
pub use engine::{Config, Engine};
pub use error::{CodeLost, Error, Frame, HostError, LinkError, LoadError, NoRoom, Trap};
pub use exception::{Exception, ExnRef};
pub use external::Extern;
pub use func::{Caller, Func, HostResult, IntoHostFunc, TypedFunc};
pub use global::Global;
pub use instance::Instance;
pub use limits::StoreLimits;
pub use linker::Linker;
pub use memory::Memory;
pub use shared_memory::SharedMemory;
pub use source::Source;
pub use store::{AsStore, AsStoreMut, Store, StoreMut, StoreRef};
pub use table::Table;
pub use tag::Tag;
pub use trust::Trust;
pub use value::{ExternRef, Ref, Val, WasmTy, WasmTyList};
pub use vm::bytes::MemoryBytes;
