//! Stores: where instances live, and what handles are used with.
//!
//! [`StoreCore`] is the part that compiled code, builtins and handles work on.
//! It is allocated once, never moves, and is reached by raw pointer while wasm
//! runs, so no reference to it is held across a call. [`borrowed`] has the borrows that handles take.

mod borrowed;
mod objects;
mod types;

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use cwasm_artifact::abi::memory::wait_result;
use cwasm_artifact::abi::traps::Trap as TrapKind;
use cwasm_artifact::types::{
    CompositeType, FuncType, GlobalType, HeapType, MemoryType, TableType, TagType,
};

pub use borrowed::{AsStore, AsStoreMut, StoreMut, StoreRef};
pub(crate) use objects::Content;
use types::TypeTable;

use crate::artifact::Artifact;
use crate::engine::{Config, Engine};
use crate::error::{Error, Frame, HostError};
use crate::exception::Exception;
use crate::func::KeepAlive;
use crate::kept::KeptFuncs;
use crate::limits::StoreLimits;
use crate::shared_memory::SharedMemory;
use crate::sys::Image;
use crate::type_registry::Registration;
use crate::vm::activation::{self, Activation, Unwound};
use crate::vm::backtrace::{Frames, MAX_FRAMES};
use crate::vm::exception::{Exceptions, Landing, Origin, Root, VmException, VmTag};
use crate::vm::heap::{Heap, Window};
use crate::vm::host_func::VmHostFunc;
use crate::vm::instance::VmInstance;
use crate::vm::layout::{VmExit, VmFuncRef, VmStoreContext, VmValue};
use crate::vm::lazy::Lost;
use crate::vm::memory::{StoreMemory, too_large};
use crate::vm::roots::Roots;
use crate::vm::shared::Expected;
use crate::vm::stable::Stable;
use crate::vm::table::{RawRef, VmTable};

/// Tells stores apart, so that handles are not mixed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StoreId(u64);

impl StoreId {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A global of a store.
#[derive(Debug)]
pub(crate) struct VmGlobal {
    /// In a vmctx, or in `owned`.
    pub(crate) storage: NonNull<VmValue>,
    pub(crate) ty: GlobalType,
    /// The storage of a global that the host made.
    _owned: Option<Stable<VmValue>>,
}

impl VmGlobal {
    pub(crate) fn value(&self) -> VmValue {
        // SAFETY: the storage is in a vmctx of this store, or owned by the global;
        // both live as long as the store. Compiled code writes to it only
        // while the store is borrowed exclusively.
        unsafe { self.storage.read() }
    }
}

// SAFETY: the storage belongs to the same store as this.
unsafe impl Send for VmGlobal {}
// SAFETY: as above; sharing allows reading only.
unsafe impl Sync for VmGlobal {}

/// The code of an artifact, for finding a program counter.
#[derive(Debug)]
struct CodeRange {
    start: usize,
    end: usize,
    artifact: *const Artifact,
}

/// The stack limit of a store whose code never ran: whoever enters it sets another, which is an address. If somebody forgot,
/// there would be no stack.
const NEVER_ENTERED: usize = usize::MAX;

/// What a host function left behind when it failed, or a builtin.
#[derive(Debug)]
pub(crate) enum Pending {
    Error(HostError),
    Panic(Box<dyn Any + Send>),
    /// The thread could not be prepared for traps.
    Thread(std::io::Error),
    /// Who handles an exception could not be found out, or bytes that a builtin needed are gone.
    Lost(Lost),
}

/// A store without the application's data.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct StoreCore<'code> {
    /// First, so that its address is the store's.
    context: VmStoreContext,
    /// The engine's, close at hand for calls.
    max_wasm_stack: usize,
    host_stack: usize,
    pub(crate) id: StoreId,
    pub(crate) engine: Engine,
    pub(crate) limits: StoreLimits,
    pub(crate) artifacts: Vec<&'code Artifact>,
    /// The published list of code: `code_owner`, or null. A signal handler of the
    /// thread that uses the store reads it, between any two instructions.
    code: AtomicPtr<Vec<CodeRange>>,
    code_owner: Option<Stable<Vec<CodeRange>>>,
    pub(crate) instances: Vec<VmInstance<'code>>,
    pub(crate) memories: Vec<StoreMemory>,
    /// Whether one of them may have bytes that were not loaded yet, or are late. Set by whatever makes them so; taken back by whoever
    /// notices that none has.
    pub(crate) late_memory: bool,
    pub(crate) tables: Vec<Stable<VmTable>>,
    pub(crate) globals: Vec<VmGlobal>,
    pub(crate) tags: Vec<Stable<VmTag>>,
    pub(crate) exceptions: Exceptions,
    /// An exception that is on its way out of wasm or of a host function.
    pub(crate) thrown: Option<(NonNull<VmException>, Root)>,
    /// Where the thread goes on that throws.
    pub(crate) landing: Landing,
    /// The innermost activation, or null.
    activation: *const Activation,
    /// Host functions that the application made in the store.
    host_funcs: Vec<Stable<VmHostFunc>>,
    host_types: Vec<Arc<Registration>>,
    /// All types that the store uses, by number, if compiled code asks for them.
    types: TypeTable,
    /// Objects of wasm.
    heap: Heap,
    /// Those that the host holds.
    pub(crate) roots: Roots,
    /// The values of the constant expressions that are being evaluated.
    pub(crate) constants: Vec<VmValue>,
    /// What host functions need to stay alive.
    keep_alive: KeptFuncs<'code>,
    /// Values behind external references.
    externs: Vec<Box<dyn Any + Send + Sync>>,
    pub(crate) pending: Option<Pending>,
    trap_frames: Box<Frames>,
    /// Artifacts that the store owns a share of. Last, to be dropped after
    /// everything that refers to them.
    shared: Vec<Arc<Artifact>>,
}

// SAFETY: the raw pointers in a store lead to the store's own parts, to code of
// artifacts that it borrows (`Artifact: Sync`), and to closures that it keeps
// alive (`KeepAlive: Send + Sync`).
unsafe impl Send for StoreCore<'_> {}
// SAFETY: as above; a shared store only allows reading.
unsafe impl Sync for StoreCore<'_> {}

impl<'code> StoreCore<'code> {
    fn new(engine: &Engine) -> Self {
        Self {
            context: VmStoreContext {
                stack_limit: NEVER_ENTERED,
                epoch_deadline: u64::MAX,
                epoch_counter: engine.epoch(),
                fuel: 0,
                entry_fp: 0,
                entry_sp: 0,
                entry_handler: 0,
                exit: VmExit::default(),
                objects: Window::default(),
                type_infos: ptr::null(),
            },
            max_wasm_stack: engine.config().max_wasm_stack,
            host_stack: engine.config().host_stack.max(Config::MIN_HOST_STACK),
            id: StoreId::new(),
            engine: engine.clone(),
            limits: StoreLimits::default(),
            artifacts: Vec::new(),
            code: AtomicPtr::new(ptr::null_mut()),
            code_owner: None,
            instances: Vec::new(),
            memories: Vec::new(),
            late_memory: false,
            tables: Vec::new(),
            globals: Vec::new(),
            tags: Vec::new(),
            exceptions: Exceptions::new(),
            thrown: None,
            landing: Landing::default(),
            activation: ptr::null(),
            host_funcs: Vec::new(),
            host_types: Vec::new(),
            types: TypeTable::default(),
            heap: Heap::new(),
            roots: Roots::default(),
            constants: Vec::new(),
            keep_alive: KeptFuncs::default(),
            externs: Vec::new(),
            pending: None,
            trap_frames: Box::new(Frames::new()),
            shared: Vec::new(),
        }
    }

    /// The store's context, without a reference to the store.
    pub(crate) fn context(this: NonNull<Self>) -> *mut VmStoreContext {
        this.as_ptr().cast()
    }

    /// Whether a memory of the store may have bytes that were not loaded yet, or are late.
    ///
    /// # Safety
    /// The store is alive, and nobody changes it meanwhile.
    pub(crate) unsafe fn has_late_memory(this: *const Self) -> bool {
        // SAFETY: the caller promises that.
        unsafe { (*this).late_memory }
    }

    /// The innermost activation, or null.
    pub(crate) fn activation(this: NonNull<Self>) -> *const Activation {
        // SAFETY: callers hold a live store that they have exclusive use of.
        unsafe { (*this.as_ptr()).activation }
    }

    /// Notes the innermost activation.
    pub(crate) fn set_activation(this: NonNull<Self>, activation: *const Activation) {
        // SAFETY: callers hold a live store that they have exclusive use of.
        unsafe { (*this.as_ptr()).activation = activation };
    }

    /// The frame of the entry trampoline of the innermost activation; zero if no wasm is running.
    pub(crate) fn entry_fp(&self) -> usize {
        self.context.entry_fp
    }

    /// Whether wasm of the store waits for the host.
    pub(crate) fn is_called_by_wasm(&self) -> bool {
        self.context.entry_fp != 0
    }

    /// The stack between the wasm frames of the store. See [`activation::wasm_stack`].
    pub(crate) fn wasm_stack(&self, innermost: Option<usize>) -> Vec<(usize, usize)> {
        // SAFETY: the activation that the store knows is alive, and is its innermost.
        unsafe { activation::wasm_stack(&self.context, self.activation, innermost) }
    }

    pub(crate) fn max_wasm_stack(this: NonNull<Self>) -> usize {
        // SAFETY: callers hold a live store, and no reference to its limits.
        unsafe { (*this.as_ptr()).max_wasm_stack.min((*this.as_ptr()).limits.stack) }
    }

    /// How much of the stack is kept for host functions.
    pub(crate) fn host_stack(this: NonNull<Self>) -> usize {
        // SAFETY: callers hold a live store.
        unsafe { (*this.as_ptr()).host_stack }
    }

    /// A trap of the host function that is running.
    #[cold]
    pub(crate) fn host_trap(&mut self, kind: TrapKind) -> Error {
        let this = NonNull::from(&mut *self).cast::<StoreCore<'static>>();
        // SAFETY: the store is exclusively borrowed, and alive.
        unsafe { activation::note_host_frames(this) };
        let (frames, omitted) = self.frames();
        Error::trapped(kind, frames, omitted)
    }

    /// What the host gets if bytes that it needs are gone.
    pub(crate) fn lost_to_host(lost: Lost) -> Error {
        Error::lost(lost, Vec::new())
    }

    /// The buffer for the backtrace of a trap.
    ///
    /// # Safety
    /// The store is alive, and nobody else uses the buffer.
    pub(crate) unsafe fn trap_frames(this: NonNull<Self>) -> *mut Frames {
        // SAFETY: the store is alive.
        unsafe { &raw mut *(*this.as_ptr()).trap_frames }
    }

    /// The artifact whose code contains a program counter, and the offset in
    /// its text. Takes no lock and allocates nothing.
    ///
    /// # Safety
    /// The store is alive for as long as the result is used.
    pub(crate) unsafe fn find_code<'a>(
        this: NonNull<Self>,
        pc: usize,
    ) -> Option<(&'a Artifact, u32)> {
        // SAFETY: the store is alive, and the list was complete when it was
        // published, and is freed by this same thread after it is replaced.
        let ranges = unsafe { (*this.as_ptr()).code.load(Ordering::Acquire).as_ref() }?;
        let after = ranges.partition_point(|range| range.start <= pc);
        let range = ranges.get(after.checked_sub(1)?)?;
        if pc >= range.end {
            return None;
        }
        // SAFETY: the store borrows the artifact.
        let artifact = unsafe { &*range.artifact };
        Some((artifact, u32::try_from(pc - range.start).ok()?))
    }

    /// Finds out again whether a memory has bytes that were not loaded yet, or are late.
    pub(crate) fn look_for_late_memory(&mut self) {
        self.late_memory = self.memories.iter().any(StoreMemory::is_late);
    }

    /// Makes the byte at an address present, if it is of a memory of the store and was to be loaded when it is needed, or is late. `None`
    /// if not, or if it is present.
    ///
    /// Takes no lock and allocates nothing.
    ///
    /// # Safety
    /// The thread was in compiled code of the store: nobody else uses the store.
    pub(crate) unsafe fn load_address(
        this: NonNull<Self>,
        address: usize,
    ) -> Option<Result<(), Lost>> {
        // SAFETY: the store is alive, and no reference to it exists while compiled code runs.
        let store = unsafe { &mut *this.as_ptr() };
        let result = store.memories.iter_mut().find_map(|memory| memory.load_address(address))?;
        store.look_for_late_memory();
        Some(result)
    }

    /// Keeps a share of an artifact until the store is dropped, and gives out
    /// the artifact as if it were borrowed.
    ///
    /// # Safety
    /// The reference must not be used after the store, whatever its lifetime says: it
    /// may go into the store, and nothing that leaves the store may hold it.
    pub(crate) unsafe fn share(&mut self, artifact: &Arc<Artifact>) -> &'code Artifact {
        if !self.shared.iter().any(|known| Arc::ptr_eq(known, artifact)) {
            self.shared.push(Arc::clone(artifact));
        }
        // SAFETY: the store holds a share, never gives it up before it is
        // dropped, and the contents of an `Arc` do not move.
        unsafe { &*Arc::as_ptr(artifact) }
    }

    /// Adds an artifact to those whose code may run in this store.
    pub(crate) fn register_artifact(&mut self, artifact: &'code Artifact) {
        if self.artifacts.iter().any(|known| ptr::eq(*known, artifact)) {
            return;
        }
        self.artifacts.push(artifact);
        self.add_types_of(artifact);
        let mut ranges: Vec<_> = self
            .artifacts
            .iter()
            .map(|artifact| {
                let text = artifact.text().as_ptr_range();
                CodeRange {
                    start: text.start.addr(),
                    end: text.end.addr(),
                    artifact: ptr::from_ref(*artifact),
                }
            })
            .collect();
        ranges.sort_by_key(|range| range.start);
        let ranges = Stable::new(ranges);
        // The handler runs on this thread, so it is not in the middle of reading
        // the old list, which is freed only when the new one is published.
        self.code.store(ranges.as_ptr(), Ordering::Release);
        self.code_owner = Some(ranges);
        // Host functions that waited for an exit trampoline may find one here.
        for func in self.host_funcs.iter_mut().filter(|func| func.lacks_code()) {
            for (record, id) in artifact.view().types().iter().zip(artifact.types().ids()) {
                if let Some(code) = artifact.text().get(record.exit.get() as usize..) {
                    func.fill_code(*id, code.as_ptr().cast());
                }
            }
        }
    }

    /// An exit trampoline for a signature, from any artifact of the store.
    fn exit_trampoline(&self, type_id: u32) -> *const std::ffi::c_void {
        for artifact in &self.artifacts {
            for (record, id) in artifact.view().types().iter().zip(artifact.types().ids()) {
                if *id == type_id
                    && let Some(code) = artifact.text().get(record.exit.get() as usize..)
                {
                    return code.as_ptr().cast();
                }
            }
        }
        ptr::null()
    }

    /// Keeps a closure alive as long as the store. Takes a share of it the first time only, so that
    /// an instance more costs no count, neither now nor when it is dropped.
    pub(crate) fn keep(&mut self, func: &Arc<dyn KeepAlive + 'code>) {
        if self.keep_alive.insert(func) {
            self.keep_types(func.registration());
        }
    }

    /// A reference to a host function that no instance imports.
    pub(crate) fn add_host_func(
        &mut self,
        func: &Arc<dyn KeepAlive + 'code>,
    ) -> NonNull<VmFuncRef> {
        let host = func.host_code();
        let code = self.exit_trampoline(host.type_id);
        let host = VmHostFunc::new(&raw mut self.context, host, code, ptr::null_mut());
        let func_ref = VmHostFunc::func_ref(&host);
        self.host_funcs.push(host);
        self.keep(func);
        // SAFETY: the address of a field is not null.
        unsafe { NonNull::new_unchecked(func_ref) }
    }

    /// Adds a memory: zeroed, or as the image if that can be mapped.
    pub(crate) fn add_memory(
        &mut self,
        ty: &MemoryType,
        guarded: bool,
        image: Option<&Arc<Image>>,
    ) -> Result<u32, Error> {
        self.limits.check_count("memories", self.memories.len(), self.limits.memories)?;
        if ty.bytes(ty.limits.min).is_none_or(|bytes| bytes > self.limits.memory_bytes()) {
            return Err(too_large(ty, ty.limits.min));
        }
        let memory = StoreMemory::new(ty, guarded, image)?;
        Ok(push(&mut self.memories, memory))
    }

    /// Adds a memory that other stores may have too, unless it is here already.
    pub(crate) fn add_shared_memory(&mut self, memory: &SharedMemory) -> Result<u32, Error> {
        let is_here = |known: &StoreMemory| known.shared().is_some_and(|known| known.same(memory));
        if let Some(index) = self.memories.iter().position(is_here) {
            // The store has fewer than 2^32 memories, see `push`.
            return u32::try_from(index).map_err(|_| Error::OutOfMemory);
        }
        self.limits.check_count("memories", self.memories.len(), self.limits.memories)?;
        Ok(push(&mut self.memories, StoreMemory::Shared(memory.clone())))
    }

    pub(crate) fn add_table(&mut self, ty: TableType, init: RawRef) -> Result<u32, Error> {
        self.limits.check_count("tables", self.tables.len(), self.limits.tables)?;
        let table = Stable::new(VmTable::new(ty, init, self.limits.table_elements)?);
        Ok(push(&mut self.tables, table))
    }

    /// A global whose storage is elsewhere in the store.
    pub(crate) fn add_global(&mut self, ty: GlobalType, storage: NonNull<VmValue>) -> u32 {
        push(&mut self.globals, VmGlobal { storage, ty, _owned: None })
    }

    /// A global that the host makes.
    pub(crate) fn add_host_global(&mut self, ty: GlobalType, value: VmValue) -> u32 {
        let owned = Stable::new(value);
        // SAFETY: the address of a live value is not null.
        let storage = unsafe { NonNull::new_unchecked(owned.as_ptr()) };
        push(&mut self.globals, VmGlobal { storage, ty, _owned: Some(owned) })
    }

    pub(crate) fn add_tag(&mut self, type_id: u32, ty: TagType) -> Result<u32, Error> {
        self.limits.check_count("tags", self.tags.len(), self.limits.tags)?;
        let index = u32::try_from(self.tags.len()).unwrap_or(u32::MAX);
        Ok(push(&mut self.tags, Stable::new(VmTag { index, type_id, ty })))
    }

    pub(crate) fn global_value(&self, index: u32) -> VmValue {
        self.globals[index as usize].value()
    }

    pub(crate) fn set_global_value(&mut self, index: u32, value: VmValue) {
        // SAFETY: as in `VmGlobal::value`, and `&mut self` is exclusive.
        unsafe { self.globals[index as usize].storage.write(value) };
    }

    pub(crate) fn grow_memory(&mut self, memory: u32, delta: u64) -> Option<u64> {
        let limit = self.limits.memory_bytes();
        let memory = &mut self.memories[memory as usize];
        let old = memory.grow(delta, limit)?;
        self.late_memory |= memory.is_late();
        Some(old)
    }

    /// `memory.atomic.wait`; one of `wait_result`. Ends when the epoch reaches the
    /// deadline, if the store has one.
    pub(crate) fn wait_in_memory(
        &self,
        memory: u32,
        address: u64,
        expected: Expected,
        timeout: i64,
    ) -> u32 {
        let Some(memory) = self.memories[memory as usize].shared() else {
            // Compiled code traps before it comes here.
            return wait_result::OUT_OF_BOUNDS;
        };
        let deadline = self.context.epoch_deadline;
        let interrupted = || self.engine.epoch().load(Ordering::Relaxed) >= deadline;
        let interrupted: Option<&dyn Fn() -> bool> =
            if deadline == u64::MAX { None } else { Some(&interrupted) };
        memory.vm().wait(address, expected, timeout, interrupted)
    }

    pub(crate) fn grow_table(&mut self, table: u32, delta: u64, init: RawRef) -> Option<u64> {
        let limit = self.limits.table_elements;
        self.tables[table as usize].grow(delta, init, limit)
    }

    /// Keeps a value for wasm to refer to; returns its number, from 1.
    pub(crate) fn add_extern(&mut self, value: Box<dyn Any + Send + Sync>) -> usize {
        self.externs.push(value);
        self.externs.len()
    }

    pub(crate) fn extern_value(&self, number: usize) -> Option<&(dyn Any + Send + Sync)> {
        self.externs.get(number.checked_sub(1)?).map(|value| &**value)
    }

    pub(crate) fn fuel(&self) -> u64 {
        u64::try_from(self.context.fuel.saturating_neg()).unwrap_or(0)
    }

    pub(crate) fn set_fuel(&mut self, fuel: u64) {
        self.context.fuel = i64::try_from(fuel).unwrap_or(i64::MAX).saturating_neg();
    }

    pub(crate) fn set_epoch_deadline(&mut self, ticks: u64) {
        let now = self.engine.epoch().load(Ordering::Relaxed);
        self.context.epoch_deadline = now.saturating_add(ticks);
    }

    /// Calls a function of the store. See [`activation::enter`].
    ///
    /// # Safety
    /// As for [`activation::enter`].
    #[inline]
    pub(crate) unsafe fn call(
        this: NonNull<Self>,
        func: NonNull<VmFuncRef>,
        values: *mut VmValue,
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise is the same.
        let result = unsafe { activation::enter(this, func, values) };
        match result {
            Ok(()) => Ok(()),
            Err(unwound) => {
                // SAFETY: the store is exclusively borrowed by the caller, and
                // wasm has been left.
                Err(unsafe { &mut *this.as_ptr() }.failure(unwound))
            }
        }
    }

    #[cold]
    fn failure(&mut self, unwound: Unwound) -> Error {
        match (unwound, self.pending.take()) {
            // The handlers of the exception, or what trapped, could not be found out.
            (Unwound::Exception, Some(Pending::Lost(lost)))
            // Nor bytes that a builtin needed: it trapped.
            | (Unwound::Trap(_), Some(Pending::Lost(lost)))
            | (Unwound::Lost(lost), None | Some(Pending::Lost(_))) => {
                self.thrown = None;
                Error::lost(lost, self.frames().0)
            }
            (_, Some(Pending::Thread(error))) => Error::Thread(error),
            (Unwound::Exception, _) => match self.thrown.take() {
                Some((exception, root)) => {
                    let (frames, omitted) = self.frames();
                    let origin = Origin { frames: frames.into(), omitted };
                    let origin = self.exceptions.originate(exception, || Some(origin));
                    Error::Exception(Exception::from_raw(exception, root, origin, self))
                }
                None => Error::Host("an exception was thrown, and is gone".into()),
            },
            (Unwound::Trap(kind), _) => {
                let (frames, omitted) = self.frames();
                Error::trapped(kind, frames, omitted)
            }
            // Why the host stopped is what counts, even if it is lost how wasm goes on.
            (Unwound::Host | Unwound::Lost(_), Some(Pending::Error(error))) => {
                Error::from_host(error)
            }
            (Unwound::Host | Unwound::Lost(_), Some(Pending::Panic(panic))) => {
                std::panic::resume_unwind(panic)
            }
            (Unwound::Host | Unwound::Unprepared, _) => {
                Error::Host("a host function failed without saying why".into())
            }
        }
    }

    /// Notes why an exception that nobody catches is none, or why a builtin fails.
    pub(crate) fn note_lost(&mut self, lost: Lost) {
        self.pending = Some(Pending::Lost(lost));
    }

    /// The frames of the last trap, and how many more there were.
    fn frames(&self) -> (Vec<Frame>, usize) {
        let this = NonNull::from(self);
        let mut frames = Vec::new();
        for (position, pc) in self.trap_frames.pcs().iter().enumerate() {
            // SAFETY: the store is alive.
            let Some((artifact, offset)) = (unsafe { Self::find_code(this, *pc) }) else {
                continue;
            };
            // A return address may be the first byte behind its function.
            let inside = if position == 0 { offset } else { offset.saturating_sub(1) };
            // What was to be loaded when it is needed, and is gone, is left out.
            let Ok(Some(func_index)) = artifact.function_at(inside) else { continue };
            let frame = |func_index, wasm_offset| Frame {
                module: artifact.name().map(str::to_owned),
                func_index,
                func_name: artifact.function_name(func_index).ok().flatten().map(str::to_owned),
                wasm_offset,
            };
            // An instruction that traps may stand where a call returns to.
            let sites = artifact.sites().unwrap_or_default();
            let trapping = (position == 0).then(|| sites.trap_at(offset)).flatten();
            let site = trapping.or_else(|| sites.return_at(offset));
            let mut wasm_offset = site.map(|site| site.wasm);
            if let Some(inlined) = site.and_then(|site| artifact.inlined(site).ok().flatten()) {
                // The function has no frame of its own in its caller's code.
                frames.push(frame(inlined.function.get(), wasm_offset));
                wasm_offset = Some(inlined.call.get());
            }
            frames.push(frame(func_index, wasm_offset));
        }
        // With functions that have no frame of their own, there can be more than program counters.
        let more = frames.len().saturating_sub(MAX_FRAMES);
        frames.truncate(MAX_FRAMES);
        (frames, self.trap_frames.omitted() + more)
    }
}

impl Drop for StoreCore<'_> {
    fn drop(&mut self) {
        if self.context.stack_limit == NEVER_ENTERED {
            self.memories.iter_mut().for_each(StoreMemory::vouch_no_code_ran);
        }
    }
}

/// Appends to a part of the store; returns the index.
fn push<V>(all: &mut Vec<V>, value: V) -> u32 {
    let index = u32::try_from(all.len()).unwrap_or_else(|_| {
        // Each entry takes more than one byte of a 64-bit address space, and the
        // default limits are far lower.
        unreachable!("a store holds fewer than 2^32 of anything")
    });
    all.push(value);
    index
}

#[repr(C)]
struct StoreInner<'code, T> {
    /// First, so that its address is the store's.
    core: StoreCore<'code>,
    data: T,
}

/// A world of instances and the application's data for them.
///
/// `'code` is the lifetime of the artifacts that the store borrows: none of them can
/// be dropped or moved before the store. Everything in a store lives as long
/// as the store. Dropping it frees all of it at once.
///
/// A store is `Send` if `T` is, and `Sync` if `T` is. It is invariant in `T`, since
/// host functions read and write `T`.
pub struct Store<'code, T> {
    inner: NonNull<StoreInner<'code, T>>,
    owns: PhantomData<(StoreCore<'code>, T)>,
    invariant: PhantomData<fn(T) -> T>,
}

// SAFETY: a store owns its parts, which are `Send` if `T` is.
unsafe impl<T: Send> Send for Store<'_, T> {}
// SAFETY: a shared store gives out shared references to `T` and to its parts.
unsafe impl<T: Sync> Sync for Store<'_, T> {}

impl<T> fmt::Debug for Store<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = self.as_store().core();
        f.debug_struct("Store")
            .field("instances", &core.instances.len())
            .field("memories", &core.memories.len())
            .finish_non_exhaustive()
    }
}

impl<'code, T> Store<'code, T> {
    /// An empty store.
    #[must_use]
    pub fn new(engine: &Engine, data: T) -> Self {
        let inner = Box::new(StoreInner { core: StoreCore::new(engine), data });
        Self { inner: NonNull::from(Box::leak(inner)), owns: PhantomData, invariant: PhantomData }
    }

    /// The application's data.
    #[must_use]
    pub fn data(&self) -> &T {
        self.as_store().into_data()
    }

    /// The application's data.
    pub fn data_mut(&mut self) -> &mut T {
        self.as_store_mut().into_data_mut()
    }

    /// Drops everything else, and returns the application's data.
    #[must_use]
    pub fn into_data(self) -> T {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the pointer came from `Box::leak` in `new`, and `this` does not
        // drop it again.
        let inner = unsafe { Box::from_raw(this.inner.as_ptr()) };
        inner.data
    }

    /// How much fuel is left.
    #[must_use]
    pub fn fuel(&self) -> u64 {
        self.as_store().core().fuel()
    }

    /// Sets how much fuel is left. Code that was compiled with fuel uses about one
    /// unit per operator, and traps when there is none left.
    pub fn set_fuel(&mut self, fuel: u64) {
        self.as_store_mut().core_mut().set_fuel(fuel);
    }

    /// Lets code that was compiled with epochs trap once the engine's epoch
    /// has been advanced `ticks` times from now.
    pub fn set_epoch_deadline(&mut self, ticks: u64) {
        self.as_store_mut().core_mut().set_epoch_deadline(ticks);
    }

    /// A function type as what references point to: `(ref null $type)` is
    /// `RefType { nullable: true, heap: store.heap_type(type) }`. Equal types have
    /// equal heap types in the whole process, for as long as the store lives.
    pub fn heap_type(&mut self, ty: FuncType) -> HeapType {
        self.as_store_mut().core_mut().heap_type(ty)
    }

    /// The function type that a heap type of this store stands for. `None` if it is none of
    /// functions, or of a type that nothing in the store uses.
    #[must_use]
    pub fn func_type(&self, heap: HeapType) -> Option<&FuncType> {
        let HeapType::Concrete(wanted) = heap else { return None };
        self.as_store().core().named_type(wanted)?.func()
    }

    /// What a type of this store is made of that a module declares: a function, a structure or an array. References in it are to types of this
    /// store. `None` if nothing in the store uses the type.
    ///
    /// Types of globals, tables, functions and tags of a store name the types of modules. A host function asks [`StoreRef::composite_type`].
    #[must_use]
    pub fn composite_type(&self, heap: HeapType) -> Option<&CompositeType> {
        self.as_store().composite_type(heap)
    }

    /// Whether references to values of the type `found` may stand where those to values of `wanted` are expected (specification, 3.3.5).
    #[must_use]
    pub fn is_subtype(&self, found: HeapType, wanted: HeapType) -> bool {
        self.as_store().is_subtype(found, wanted)
    }

    /// How many exceptions there are, also those that nothing leads to any more.
    #[must_use]
    pub fn exceptions(&self) -> usize {
        self.as_store().core().exceptions.count()
    }

    /// Sets how many bytes of objects are made between two collections at least, 4 MiB at first. There is no collection either before as many are made
    /// as lived on at the last one. With more, less time is spent on it; with none, there is one before each object, to find out whether all
    /// that is needed is kept.
    pub fn collect_after(&mut self, bytes: usize) {
        self.as_store_mut().core_mut().heap.set_interval(bytes);
    }

    /// How many bytes the objects of wasm take, with those that nothing leads to any more and what is free between them.
    #[must_use]
    pub fn object_bytes(&self) -> usize {
        self.as_store().core().object_bytes()
    }

    /// Frees objects and exceptions that nothing leads to. This happens by itself when there are many.
    pub fn collect(&mut self) {
        // SAFETY: no wasm of the store runs: that would need a borrow of it.
        unsafe { self.as_store_mut().core_mut().collect(None) };
    }

    /// Ends all handles of objects that were received or made outside of host functions, but for those that are
    /// kept. See [`crate::AnyRef`].
    pub fn release_references(&mut self) {
        self.as_store_mut().core_mut().roots.release_all();
    }

    /// What the store may hold.
    pub fn limits_mut(&mut self) -> &mut StoreLimits {
        &mut self.as_store_mut().into_core_mut().limits
    }
}

impl<T> Drop for Store<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::leak` in `new`, and is given back once.
        // No wasm of the store is running: that would need a borrow of it.
        drop(unsafe { Box::from_raw(self.inner.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use cwasm_artifact::types::Limits;

    use super::*;

    const PAGE: usize = 65536;

    /// A store with memories of one page each that have grown by three, and the last of which have grown by one more, which is late.
    fn store(memories: u32, late: u32) -> StoreCore<'static> {
        activation::prepare().unwrap();
        let mut core = StoreCore::new(&Engine::default());
        let ty = MemoryType::new(Limits { min: 1, max: None });
        for index in 0..memories {
            assert_eq!(core.add_memory(&ty, true, None).unwrap(), index);
            for size in 1..4 {
                assert_eq!(core.grow_memory(index, 1), Some(size));
            }
        }
        assert!(!core.late_memory);
        for index in memories - late..memories {
            assert_eq!(core.grow_memory(index, 1), Some(4));
            assert!(core.late_memory);
        }
        core
    }

    fn touch(core: &mut StoreCore<'static>, memory: usize, at: usize) -> Option<bool> {
        let address = core.memories[memory].base().addr() + at;
        // SAFETY: nobody uses the store otherwise.
        let result = unsafe { StoreCore::load_address(NonNull::from(core), address) };
        result.map(|result| result.is_ok())
    }

    #[test]
    fn a_store_knows_whether_anything_is_late() {
        let mut core = store(3, 2);
        for (memory, at) in [(0, 0), (0, 4 * PAGE), (1, 4 * PAGE - 1), (2, 5 * PAGE), (1, 0)] {
            assert_eq!(touch(&mut core, memory, at), None, "{memory} {at}");
            assert!(core.late_memory);
        }
        assert_eq!(touch(&mut core, 1, 4 * PAGE), Some(true));
        assert_eq!(touch(&mut core, 1, 4 * PAGE), None);
        assert!(core.late_memory);
        assert_eq!(touch(&mut core, 2, 5 * PAGE - 1), Some(true));
        assert!(!core.late_memory);
    }

    #[test]
    fn a_store_finds_out_what_was_touched_through_a_shared_reference() {
        let mut core = store(2, 1);
        core.memories[1].read(4 * PAGE as u64, &mut [0]).unwrap();
        // Nobody could say so.
        assert!(core.late_memory);
        assert_eq!(touch(&mut core, 1, 4 * PAGE), None);
        core.look_for_late_memory();
        assert!(!core.late_memory);
        // Growths that are done at once leave it as it is.
        assert_eq!(core.grow_memory(1, 1), Some(5));
        assert!(!core.late_memory);
    }
}
