//! Errors, by whose they are: the file's ([`LoadError`]), the link's
//! ([`LinkError`]), the program's ([`Trap`]), the host function's
//! ([`Error::Host`]), or the caller's (the rest of [`Error`]).

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use cwasm_artifact::abi::traps::Trap as TrapKind;
use cwasm_artifact::report::Report;
use cwasm_artifact::types::{ExternType, FuncType, HeapType, ValType};

use crate::cache_dir::Exposure;
use crate::exception::Exception;
use crate::vm::lazy::Lost;

/// Any error that a host function may return. An [`Exception`] of the store is thrown: wasm can catch it.
pub type HostError = Box<dyn std::error::Error + Send + Sync>;

/// Why an artifact was not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The path does not lead to a regular file.
    #[error("{} is {found}, not a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it leads to.
        found: &'static str,
    },
    /// The file changed its size while it was read.
    #[error("{} changed while it was read; load it again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be used as a bundle, or has nothing that is asked for.
    #[error("cannot load from {}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: cwasm_artifact::bundle::BundleError,
    },
    /// The file is in a cache directory that only this user can write to, and does not itself
    /// belong to this user alone.
    #[error("{} is not trusted for being in the cache: {exposure}", path.display())]
    CacheEntry {
        /// The file, or a directory on the way to it.
        path: PathBuf,
        /// What is wrong.
        exposure: Exposure,
    },
    /// The source is not named by a path in the cache directory that makes it trusted.
    #[error(
        "only what is in the cache directory {} is trusted for that: name it by its path in there, without `..`",
        directory.display()
    )]
    NotInCache {
        /// The directory.
        directory: PathBuf,
    },
    /// The artifact is larger than any that this loader reads.
    #[error("the artifact has {bytes} bytes, and a loader reads at most {limit}")]
    TooLarge {
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
    /// There is no memory for the artifact.
    #[error("cannot map {bytes} bytes for the artifact")]
    Map {
        /// How much it needs.
        bytes: u64,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The artifact is not one that this process should run.
    #[error(transparent)]
    Refused(#[from] Report),
}

impl LoadError {
    /// Whether the file is intact and merely made for another loader or host:
    /// for a cache, a miss and not a failure.
    #[must_use]
    pub fn is_miss(&self) -> bool {
        matches!(self, Self::Refused(report) if report.is_miss())
    }
}

/// Why a module could not be linked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Nothing is defined under the name of an import.
    #[error(
        "unknown import: the module imports {ty} as `{module}` `{name}`, and nothing is defined under that name"
    )]
    UnknownImport {
        /// First name of the import.
        module: String,
        /// Second name of the import.
        name: String,
        /// What the module wants.
        ty: Box<ExternType>,
    },
    /// What is defined under the name of an import has another type.
    #[error(
        "incompatible import type: the module imports `{module}` `{name}` as {wanted}, and it is {found}"
    )]
    IncompatibleImport {
        /// First name of the import.
        module: String,
        /// Second name of the import.
        name: String,
        /// What the module wants.
        wanted: Box<ExternType>,
        /// What is defined, in the notation of the text format.
        found: String,
    },
    /// The same name was defined twice.
    #[error("`{module}` `{name}` is already defined; allow shadowing to replace it")]
    Duplicate {
        /// First name.
        module: String,
        /// Second name.
        name: String,
    },
    /// The memory of an import cannot be used by code that relies on guards.
    #[error(
        "incompatible import type: the memory `{module}` `{name}` has no guard, and the module was compiled without explicit bounds checks"
    )]
    UnguardedMemory {
        /// First name of the import.
        module: String,
        /// Second name of the import.
        name: String,
    },
}

/// Code of an artifact that was loaded with [`crate::Artifact::load_lazily`], or what a memory of it begins with, could not be had when it was needed: its
/// file was changed, or cannot be read. What is not as it was sealed never runs, and nobody sees it. The program ended as by a trap; the
/// store can be used, and code that was loaded before goes on running. Bytes of a memory that were lost are lost only as long as the file is not what it was.
#[derive(Debug)]
pub struct CodeLost {
    lost: Lost,
    frames: Vec<Frame>,
}

impl CodeLost {
    /// Which bytes of the file were needed.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.lost.range()
    }

    /// The wasm that was running, from the innermost frame outwards. None if it was the host that accessed a memory.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }
}

impl fmt::Display for CodeLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.range();
        write!(
            f,
            "the part of the artifact from {start:#x} to {end:#x}, which was not loaded before, "
        )?;
        match self.lost.system() {
            None => f.write_str("is not what was sealed: its file was changed after it was opened"),
            Some(_) => f.write_str("cannot be loaded"),
        }?;
        f.write_str("; keep the files of artifacts that are loaded lazily, and replace them by renaming others over them")
    }
}

impl std::error::Error for CodeLost {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.lost.system().map(|error| error as _)
    }
}

/// A memory has grown by pages, and the system has no room for them now that they are needed. That is unusual: where the system may refuse
/// them, `memory.grow` fails instead. The program ended as by a trap; the store can be used. What else the memory holds is unharmed.
#[derive(Debug)]
pub struct NoRoom {
    lost: Lost,
    frames: Vec<Frame>,
}

impl NoRoom {
    /// Which bytes of the memory it is about.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.lost.range()
    }

    /// The wasm that was running, from the innermost frame outwards. None if it was the host that accessed the memory.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.range();
        write!(
            f,
            "the system has no room for the bytes from {start:#x} to {end:#x} of a memory, which it has grown by; raise the limits of the process (`ulimit -d`, `vm.max_map_count`), or set them before any memory grows, so that growing fails"
        )
    }
}

impl std::error::Error for NoRoom {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.lost.system().map(|error| error as _)
    }
}

/// Why an operation on a store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program trapped.
    #[error(transparent)]
    Trap(Box<Trap>),
    /// A host function returned an error.
    #[error(transparent)]
    Host(HostError),
    /// An exception was thrown, and wasm did not catch it.
    #[error(transparent)]
    Exception(Exception),
    /// Code, or bytes of a memory, that were to be loaded when they are needed are not in their file any more.
    #[error(transparent)]
    CodeLost(CodeLost),
    /// The system has no room for pages that a memory has grown by.
    #[error(transparent)]
    NoRoom(NoRoom),
    /// The module could not be linked.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A handle was used with a store that is not its own.
    #[error("the {what} belongs to another store")]
    WrongStore {
        /// What the handle leads to.
        what: &'static str,
    },
    /// An instance has no export with the name.
    #[error("the module has no export `{name}`")]
    NoExport {
        /// The name.
        name: String,
    },
    /// An export is something else.
    #[error("the export `{name}` is {found}, not a {wanted}")]
    ExportKind {
        /// The name.
        name: String,
        /// What was asked for.
        wanted: &'static str,
        /// What it is.
        found: Box<ExternType>,
    },
    /// A function was asked for with a type that it does not have.
    #[error("the function has the type {found}, not {wanted}")]
    FuncType {
        /// What was asked for.
        wanted: Box<FuncType>,
        /// What it is.
        found: Box<FuncType>,
    },
    /// A function was called with a wrong number of arguments.
    #[error("the function takes {wanted} arguments, and {found} were given")]
    ArgumentCount {
        /// How many parameters it has.
        wanted: usize,
        /// How many values were given.
        found: usize,
    },
    /// A value has a wrong type.
    #[error("a value of type {wanted} is needed, and {found} was given")]
    ValueType {
        /// The type that is needed.
        wanted: ValType,
        /// The type of the value.
        found: ValType,
    },
    /// A handle of an object was used after the call of the host function which received or made it, or after it was released.
    #[error(
        "the reference ended with the call of the host function that received or made it, or was released; to use one later, call `AnyRef::keep` while it is valid"
    )]
    StaleReference,
    /// An external reference leads to something that wasm made.
    #[error(
        "the external reference is not to a value of the host, but to one that wasm made; `ExternRef::to_any` gives that"
    )]
    NotOfTheHost,
    /// A reference to an object is needed, and another was given.
    #[error("a reference to {found} has no fields or elements; only structures and arrays do")]
    NotAnObject {
        /// What it leads to.
        found: HeapType,
    },
    /// A type of objects is needed, and another was given, or one that nothing in the store uses.
    #[error("{found} is no {wanted}")]
    ObjectType {
        /// What is needed.
        wanted: &'static str,
        /// What was given.
        found: HeapType,
    },
    /// A structure was to be made with a wrong number of values.
    #[error("the structure has {wanted} fields, and {found} values were given")]
    FieldCount {
        /// How many fields it has.
        wanted: usize,
        /// How many values were given.
        found: usize,
    },
    /// An object does not have a field or element.
    #[error("the object has {length} fields or elements, and not one at {index}")]
    ObjectAccess {
        /// The field or element.
        index: u32,
        /// How many there are.
        length: u32,
    },
    /// A field or element that cannot change was to be changed.
    #[error("the field or element at {index} is immutable")]
    ImmutableField {
        /// Which.
        index: u32,
    },
    /// A global that cannot change was to be changed.
    #[error("the global is immutable")]
    ImmutableGlobal,
    /// An access from the host left a memory.
    #[error("bytes {offset} to {offset} + {length} lie outside of the memory of {size} bytes")]
    MemoryAccess {
        /// Where the access began.
        offset: u64,
        /// How many bytes it wanted.
        length: u64,
        /// How many bytes there are.
        size: u64,
    },
    /// An access from the host left a table.
    #[error("element {index} lies outside of the table of {size} elements")]
    TableAccess {
        /// The element.
        index: u64,
        /// How many there are.
        size: u64,
    },
    /// A memory would be larger than its maximum or the store's limit.
    #[error("a memory of {pages} pages of {page_size} bytes exceeds the limit")]
    MemoryLimit {
        /// How many pages it would have.
        pages: u64,
        /// The size of each in bytes.
        page_size: u64,
    },
    /// No memory can have a type that was asked for.
    #[error("there is no such memory: {problem}")]
    MemoryType {
        /// What is wrong with the type.
        problem: &'static str,
    },
    /// The bytes of a memory were to be borrowed that other threads may write to.
    #[error(
        "the memory is shared between threads, so its bytes cannot be borrowed; copy them with `read` and `write`, or take them as atomics with `shared`"
    )]
    SharedMemory,
    /// A table would be larger than its maximum or the store's limit.
    #[error("a table of {elements} elements exceeds the limit")]
    TableLimit {
        /// How many elements it would have.
        elements: u64,
    },
    /// The store may not hold more of something.
    #[error("the store's limit of {limit} {what} is reached")]
    StoreLimit {
        /// What there is too much of.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// The system has no address space or memory for a linear memory.
    #[error(
        "cannot reserve {bytes} bytes of address space for a memory; where address space is scarce, compile with `--memory-checks explicit`"
    )]
    MemoryReservation {
        /// How much it needs.
        bytes: u64,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// There is no memory for the loader's own structures.
    #[error("out of memory")]
    OutOfMemory,
    /// The thread cannot be prepared for traps.
    #[error("cannot prepare this thread for running wasm")]
    Thread(#[source] std::io::Error),
}

impl Error {
    /// The trap, if this is one.
    #[must_use]
    pub fn trap(&self) -> Option<&Trap> {
        match self {
            Self::Trap(trap) => Some(trap),
            _ => None,
        }
    }

    /// The exception, if this is one.
    #[must_use]
    pub fn exception(&self) -> Option<&Exception> {
        match self {
            Self::Exception(exception) => Some(exception),
            _ => None,
        }
    }

    /// The error of a host function, if this is one of type `E`.
    #[must_use]
    pub fn downcast_host<E: std::error::Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::Host(error) => error.downcast_ref(),
            _ => None,
        }
    }

    /// What a host function returned, as the error of the call that reached
    /// it: an [`Error`] that merely passed through stays what it was.
    pub(crate) fn from_host(error: HostError) -> Self {
        match error.downcast::<Self>().map(|error| *error) {
            Ok(error) => error,
            Err(error) => match error.downcast::<Exception>() {
                Ok(exception) => Self::Exception(*exception),
                Err(error) => Self::Host(error),
            },
        }
    }

    /// Something that was to be had when it is needed cannot be had.
    #[cold]
    pub(crate) fn lost(lost: Lost, frames: Vec<Frame>) -> Self {
        if lost.is_no_room() {
            Self::NoRoom(NoRoom { lost, frames })
        } else {
            Self::CodeLost(CodeLost { lost, frames })
        }
    }

    pub(crate) fn trapped(kind: TrapKind, frames: Vec<Frame>, omitted: usize) -> Self {
        Self::Trap(Box::new(Trap { kind, frames, omitted }))
    }
}

/// A function that was running when a program trapped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// The module's name from its name section.
    pub module: Option<String>,
    /// Index of the function in its module.
    pub func_index: u32,
    /// The function's name from the name section.
    pub func_name: Option<String>,
    /// Byte offset in the wasm module of the operator that was running.
    pub wasm_offset: Option<u32>,
}

/// A program was stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap {
    kind: TrapKind,
    frames: Vec<Frame>,
    omitted: usize,
}

impl Trap {
    /// Why.
    #[must_use]
    pub fn kind(&self) -> TrapKind {
        self.kind
    }

    /// Where: the wasm functions that were running, innermost first.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// How many more frames there were than [`Trap::frames`] holds. Functions that were copied into others count with them as one
    /// here.
    #[must_use]
    pub fn omitted_frames(&self) -> usize {
        self.omitted
    }
}

impl fmt::Display for Trap {
    /// The reason, and a line per frame.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wasm trap: {}", self.kind)?;
        write_frames(f, &self.frames, self.omitted)
    }
}

/// Writes a line per frame.
pub(crate) fn write_frames(
    f: &mut fmt::Formatter<'_>,
    frames: &[Frame],
    omitted: usize,
) -> fmt::Result {
    for (index, frame) in frames.iter().enumerate() {
        write!(f, "\n  {index:3}: ")?;
        match frame.wasm_offset {
            Some(offset) => write!(f, "{offset:#8x} - ")?,
            None => f.write_str("       ? - ")?,
        }
        f.write_str(frame.module.as_deref().unwrap_or("<unnamed>"))?;
        match &frame.func_name {
            Some(name) => write!(f, "!{name}")?,
            None => write!(f, "!<function {}>", frame.func_index)?,
        }
    }
    if omitted > 0 {
        write!(f, "\n  and {omitted} more frames")?;
    }
    Ok(())
}

impl std::error::Error for Trap {}
