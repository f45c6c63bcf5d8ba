//! Exceptions: where they live, for how long, and how a throw finds its handler.
//!
//! An exception is a block of memory that wasm refers to by address. The store owns it. It ends
//! * when code catches it without asking for the reference, and nobody else may hold one;
//! * or at a collection, if nothing leads to it. One happens when the number of exceptions has doubled
//!   since the last, and when the heap of objects asks for one (`store/objects`). The roots are: what the host holds, tables and globals of exceptions, and every
//!   word of the stack between the wasm frames of the store that happens to be the address of one. Values
//!   of exceptions that live are followed, and so are fields of objects.
//!
//! No reference is in a register alone during a collection: code keeps those that it needs after a call in
//! its frame (`cwasm_artifact::abi`).

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use cwasm_artifact::abi::vmctx::exception as offset;
use cwasm_artifact::records::NONE;
use cwasm_artifact::types::{HeapType, TagType, ValType};

use super::layout::{VmContext, VmValue};
use super::table::RawRef;
use crate::error::Frame;
use crate::store::StoreCore;

/// A tag. Its address is its identity.
#[derive(Debug)]
pub(crate) struct VmTag {
    /// Which of the store's tags it is.
    pub(crate) index: u32,
    /// The number of the function type that declares it.
    pub(crate) type_id: u32,
    pub(crate) ty: TagType,
}

/// The front of an exception. The values follow.
#[derive(Debug)]
#[repr(C, align(16))]
pub(crate) struct VmException {
    pub(crate) tag: *const VmTag,
    /// Not zero if wasm may hold a reference.
    shared: u32,
    /// Not zero if the host may hold a reference. Compiled code does not know it.
    pinned: AtomicU32,
}

const _: () = {
    assert!(std::mem::offset_of!(VmException, tag) == offset::TAG as usize);
    assert!(std::mem::offset_of!(VmException, shared) == offset::SHARED as usize);
    assert!(size_of::<VmException>() == offset::VALUES as usize);
    assert!(size_of::<VmException>() == size_of::<VmValue>());
};

/// The memory of an exception: a slot that is the front, and one for each value.
#[derive(Debug)]
struct Memory(NonNull<[VmValue]>);

// SAFETY: the memory belongs to the owner of this; the tag belongs to the same store.
unsafe impl Send for Memory {}
// SAFETY: as above; sharing allows reading, and writing what is atomic.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(tag: &VmTag) -> Self {
        let slots = vec![VmValue(0); tag.ty.params.len() + 1].into_boxed_slice();
        let memory = Self(NonNull::from(Box::leak(slots)));
        let front = VmException { tag, shared: 0, pinned: AtomicU32::new(0) };
        // SAFETY: the first slot is large enough for the front, and aligned.
        unsafe { memory.front().write(front) };
        memory
    }

    fn front(&self) -> NonNull<VmException> {
        self.0.cast()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::leak` and is given back once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Keeps an exception alive as long as a share of it exists, wherever that is.
pub(crate) type Root = Arc<()>;

/// Where an exception was thrown that nobody caught.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    pub(crate) frames: Arc<[Frame]>,
    pub(crate) omitted: usize,
}

#[derive(Debug)]
struct Entry {
    memory: Memory,
    root: Weak<()>,
    origin: Option<Origin>,
    marked: bool,
}

/// How many exceptions there are before the first collection.
const FIRST_COLLECTION: usize = 256;

/// The exceptions of a store.
#[derive(Debug)]
pub(crate) struct Exceptions {
    /// By address.
    all: HashMap<usize, Entry>,
    /// At how many exceptions the next collection is.
    threshold: usize,
}

impl Exceptions {
    pub(crate) fn new() -> Self {
        Self { all: HashMap::new(), threshold: FIRST_COLLECTION }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// Makes an exception, whose values are zero.
    fn add(&mut self, tag: &VmTag) -> NonNull<VmException> {
        let memory = Memory::new(tag);
        let front = memory.front();
        let entry = Entry { memory, root: Weak::new(), origin: None, marked: false };
        self.all.insert(front.as_ptr().expose_provenance(), entry);
        front
    }

    /// The exception that a reference leads to, if it is one.
    pub(crate) fn find(&self, raw: RawRef) -> Option<NonNull<VmException>> {
        Some(self.all.get(&raw.addr())?.memory.front())
    }

    /// Keeps an exception alive as long as the result lives.
    pub(crate) fn root(&mut self, exception: NonNull<VmException>) -> Option<Root> {
        let entry = self.all.get_mut(&exception.as_ptr().addr())?;
        let root = entry.root.upgrade().unwrap_or_default();
        entry.root = Arc::downgrade(&root);
        Some(root)
    }

    /// Where an exception was thrown, if it has left wasm before; otherwise `origin`, if there is one, from now on.
    pub(crate) fn originate(
        &mut self,
        exception: NonNull<VmException>,
        origin: impl FnOnce() -> Option<Origin>,
    ) -> Origin {
        let Some(entry) = self.all.get_mut(&exception.as_ptr().addr()) else {
            return Origin::default();
        };
        if entry.origin.is_none() {
            entry.origin = origin();
        }
        entry.origin.clone().unwrap_or_default()
    }

    /// Frees an exception that was caught without its reference, if nobody can hold one.
    pub(crate) fn caught(&mut self, raw: RawRef) {
        let Some(entry) = self.all.get(&raw.addr()) else { return };
        // SAFETY: the exception lives, and no code runs that writes to it.
        let VmException { shared, pinned, .. } = unsafe { entry.memory.front().as_ref() };
        if *shared == 0 && pinned.load(Ordering::Relaxed) == 0 && entry.root.strong_count() == 0 {
            self.all.remove(&raw.addr());
        }
    }

    /// Marks an exception, and those that its values lead to. References to anything else that is collected are added to `objects`.
    pub(crate) fn mark(&mut self, address: usize, objects: &mut Vec<usize>) {
        let mut next = Some(address);
        let mut found = Vec::new();
        while let Some(address) = next {
            if let Some(entry) = self.all.get_mut(&address).filter(|entry| !entry.marked) {
                entry.marked = true;
                // SAFETY: the exception lives, and its tag as long as the store.
                let types = unsafe { &(*entry.memory.front().as_ref().tag).ty.params };
                for (index, ty) in types.iter().enumerate() {
                    let all = match ty {
                        ty if holds_exceptions(*ty) => &mut found,
                        ty if ty.is_collected() => &mut *objects,
                        _ => continue,
                    };
                    // SAFETY: there is a slot for each value behind the front.
                    let value = unsafe { entry.memory.0.cast::<VmValue>().add(index + 1).read() };
                    all.push(value.to_ref().addr());
                }
            }
            next = found.pop();
        }
    }

    /// Marks what handles of the host lead to, as [`Exceptions::mark`] does.
    pub(crate) fn mark_what_the_host_holds(&mut self, objects: &mut Vec<usize>) {
        let held = |entry: &Entry| {
            // SAFETY: the exception lives.
            let pinned = unsafe { &entry.memory.front().as_ref().pinned };
            pinned.load(Ordering::Relaxed) != 0 || entry.root.strong_count() > 0
        };
        let held: Vec<_> =
            self.all.iter().filter(|(_, entry)| held(entry)).map(|(address, _)| *address).collect();
        for address in held {
            self.mark(address, objects);
        }
    }

    /// Frees what is not marked. `looked_at` says how many words the marking has read.
    pub(crate) fn sweep(&mut self, looked_at: usize) {
        self.all.retain(|_, entry| std::mem::take(&mut entry.marked));
        // So that collections cost a constant share of the time that it takes to throw.
        self.threshold = (self.all.len() * 2).max(FIRST_COLLECTION).max(looked_at / 16);
    }
}

/// Whether values of a type can be exceptions.
pub(crate) fn holds_exceptions(ty: ValType) -> bool {
    matches!(ty, ValType::Ref(ty) if ty.heap.top() == HeapType::Exn)
}

/// Lets the host keep a reference to an exception for as long as the store lives.
pub(crate) fn pin(exception: NonNull<VmException>) {
    // SAFETY: callers have found the exception in its store, which they borrow; the field is atomic.
    unsafe { exception.as_ref() }.pinned.store(1, Ordering::Relaxed);
}

/// The slots of an exception's values.
///
/// # Safety
/// The exception lives.
pub(crate) unsafe fn values(exception: NonNull<VmException>) -> NonNull<VmValue> {
    // SAFETY: the values, if there are any, follow the front.
    unsafe { exception.add(1) }.cast()
}

impl StoreCore<'_> {
    /// Makes an exception with a tag of the store; its values are zero. `None` if the store
    /// may not hold another. `stack` is the wasm of this store that is running, without what
    /// the innermost activation knows.
    ///
    /// # Safety
    /// `stack`, if it is given, is the stack pointer in a frame of the store's innermost activation. While
    /// host code runs, it is `None`.
    pub(crate) unsafe fn add_exception(
        &mut self,
        tag: u32,
        stack: Option<usize>,
    ) -> Option<NonNull<VmException>> {
        let limit = self.limits.exceptions;
        if self.exceptions.count() >= self.exceptions.threshold.min(limit) {
            // SAFETY: the caller's promise is the same.
            unsafe { self.collect(stack) };
        }
        if self.exceptions.count() >= limit {
            return None;
        }
        Some(self.exceptions.add(&self.tags[tag as usize]))
    }
}

/// Where a thread goes on that throws. Read by [`super::throw`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Landing {
    pub(crate) pc: usize,
    pub(crate) sp: usize,
    pub(crate) fp: usize,
    /// The exception.
    pub(crate) payload: usize,
}

/// Finds the innermost handler of an exception, from the call that returns to `pc` in the frame at `fp`
/// outwards. Without one, the exception stays in the store for whoever called wasm.
///
/// # Safety
/// * The store is exclusively borrowed by whoever entered wasm, and not otherwise used.
/// * `fp` is a frame of the store's innermost activation, which has called what called this.
/// * `exception`, if it is not null, is a reference to an exception of the store.
pub(crate) unsafe fn find_handler(
    store: NonNull<StoreCore<'static>>,
    exception: RawRef,
    mut pc: usize,
    mut fp: usize,
) -> Option<NonNull<Landing>> {
    // SAFETY: nobody else uses the store.
    let core = unsafe { &mut *store.as_ptr() };
    let exception = match core.exceptions.find(exception) {
        Some(exception) => exception,
        // Its root was what kept it alive. From here on, nothing collects before a handler takes it.
        None => core.thrown.take()?.0,
    };
    // SAFETY: the exception lives.
    let tag = unsafe { exception.as_ref() }.tag;
    let entry_fp = core.entry_fp();
    while fp < entry_fp {
        // SAFETY: the store is alive.
        let code = unsafe { StoreCore::find_code(NonNull::from(&mut *core), pc) };
        let Some((artifact, call)) = code else { break };
        let handlers = match artifact.handlers_of(call) {
            Ok(handlers) => handlers,
            Err(lost) => {
                core.note_lost(lost);
                return None;
            }
        };
        for handler in handlers {
            let sp = fp - handler.frame.get() as usize;
            let at = sp + handler.vmctx.get() as usize;
            // SAFETY: compiled code has put the vmctx of the frame's function there before the call. The
            // artifact is trusted to say where; validation keeps it inside of the frame.
            let vmctx = unsafe { std::ptr::with_exposed_provenance::<*mut VmContext>(at).read() };
            let matches = match handler.tag.get() {
                NONE => true,
                index => {
                    // SAFETY: it is the vmctx of an instance of this store.
                    let instance = unsafe { (*vmctx).instance } as usize;
                    let own = core.instances[instance].tags[index as usize];
                    std::ptr::eq(&raw const *core.tags[own as usize], tag)
                }
            };
            if matches {
                core.landing = Landing {
                    pc: artifact.text().as_ptr().addr() + handler.handler.get() as usize,
                    sp,
                    fp,
                    payload: exception.as_ptr().addr(),
                };
                return Some(NonNull::from(&mut core.landing));
            }
        }
        let frame = std::ptr::with_exposed_provenance::<[usize; 2]>(fp);
        // SAFETY: `fp` is the frame pointer of a live frame, at which are the caller's and the return address.
        let [caller_fp, return_address] = unsafe { frame.read() };
        if caller_fp <= fp {
            break;
        }
        (pc, fp) = (return_address, caller_fp);
    }
    let root = core.exceptions.root(exception)?;
    core.thrown = Some((exception, root));
    None
}
