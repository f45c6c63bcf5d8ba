//! Entering wasm, and leaving it by a return or a trap.
//!
//! [`enter`] pushes an [`Activation`] on a list that the thread holds, and
//! calls an entry trampoline. The trampoline notes in the store context where
//! it can be resumed. When compiled code faults, the signal handler looks up the
//! faulting instruction in the artifacts of the innermost activation's store.
//! If it is one that may trap, the handler notes the trap and the backtrace,
//! and lets the thread go on in the trampoline, which returns 0. No frame of
//! Rust is ever skipped: host functions and builtins return before their
//! caller traps.

use std::cell::Cell;
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::{self, NonNull};

use cwasm_artifact::abi::traps::Trap as TrapKind;
use cwasm_artifact::abi::vmctx::host_context;
use cwasm_artifact::abi::vmctx::store_context::BELOW_LIMIT;

use super::backtrace::Frames;
use super::exception::{Landing, find_handler};
use super::layout::{
    EntryTrampoline, VmContext, VmExit, VmFuncRef, VmHostContext, VmStoreContext, VmValue,
};
use super::lazy::Lost;
use crate::store::{Pending, StoreCore};
use crate::sys::{self, Fault};

/// What wasm may use below its limit, and what an exit trampoline and the loader use between wasm and the body of a host function. On
/// top of the reserve, so that the body has all of that.
const WAY_TO_HOST: usize = BELOW_LIMIT as usize + (4 << 10);

/// A stay of this thread in the wasm of a store.
#[derive(Debug)]
pub(crate) struct Activation {
    previous: *const Activation,
    store: NonNull<StoreCore<'static>>,
    /// What ended it.
    end: Cell<End>,
    /// Where the store was when this activation began, if it was in wasm then.
    outer: Option<Outer>,
}

/// Wasm of a store that waits for a host function, which has entered wasm of the same store again.
#[derive(Clone, Copy, Debug)]
struct Outer {
    /// The frame of its entry trampoline. It has one, so that to have no such wasm is a single zero to write.
    entry_fp: NonZeroUsize,
    exit: VmExit,
    /// Its activation, on whatever thread.
    activation: *const Activation,
}

thread_local! {
    /// The innermost activation of this thread, or null. Constant initialisation
    /// and no destructor: a signal handler may read it.
    static CURRENT: Cell<*const Activation> = const { Cell::new(ptr::null()) };
    /// The lowest address of this thread's stack that wasm may use, for the reserve that follows. At first for one that
    /// no store has: where it is known, the thread has been prepared.
    static LOWEST: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    /// Whether `prepare` has done its work on this thread.
    static PREPARED: Cell<bool> = const { Cell::new(false) };
}

/// How a host function ended that did not return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostFailure {
    /// With an error or a panic, which the store holds.
    Failed,
    /// With an exception, which the store holds.
    Threw,
}

/// What ended an activation, beside a return.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Nothing yet.
    None,
    Trap(TrapKind),
    /// Code that it needed is gone, or bytes of a memory, or there is no room for late ones.
    Lost(Lost),
}

/// How a call ended that did not return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unwound {
    /// A trap; the store holds its frames.
    Trap(TrapKind),
    /// A host function failed; the store holds the error or panic.
    Host,
    /// An exception was not caught; the store holds it and its frames.
    Exception,
    /// The thread could not be prepared for traps, and nothing was called; the store holds the error.
    Unprepared,
    /// Code, or bytes of a memory, that were to be had when they are needed cannot be; the store holds the frames.
    Lost(Lost),
}

/// Calls a function of the store with its parameters in `values`, which is
/// overwritten with the results.
///
/// What is rare is a call in the last position, so that nothing need be saved for it.
///
/// # Safety
/// * `store` is exclusively borrowed by the caller, who uses no reference into it
///   during the call.
/// * `func` belongs to the store.
/// * `values` has as many slots as the function's type has parameters, and as
///   it has results; the first hold parameters of the right types.
pub(crate) unsafe fn enter(
    store: NonNull<StoreCore<'_>>,
    func: NonNull<VmFuncRef>,
    values: *mut VmValue,
) -> Result<(), Unwound> {
    // SAFETY: a function of the store lives as long as the store.
    let VmFuncRef { code, vmctx, entry, .. } = unsafe { func.read() };
    let store = store.cast::<StoreCore<'static>>();
    let context = StoreCore::context(store);
    let lowest = known_lowest(StoreCore::host_stack(store));
    // SAFETY: the context is a part of the live store.
    let outermost = unsafe { (*context).entry_fp == 0 };
    let (Some(entry), Some(lowest), true) = (entry, lowest, outermost) else {
        // SAFETY: the caller promises the same.
        return unsafe { enter_otherwise(store, func, values) };
    };
    // SAFETY: as above. No reference to the context exists, so that compiled code may write to it.
    unsafe { (*context).stack_limit = stack_limit(store, lowest) };
    let activation =
        Activation { previous: CURRENT.get(), store, end: Cell::new(End::None), outer: None };
    // SAFETY: the caller promises what this asks for.
    let returned = unsafe { run(&activation, &Callee { vmctx, code, entry }, values) };
    StoreCore::set_activation(store, ptr::null());
    // Without an entry frame, nobody reads the rest.
    //
    // SAFETY: as above.
    unsafe { (*context).entry_fp = 0 };
    if returned { Ok(()) } else { activation.unwound() }
}

/// What is called to enter wasm.
struct Callee {
    vmctx: *mut VmContext,
    code: *const c_void,
    entry: EntryTrampoline,
}

/// Calls a function through its trampoline, as the innermost activation. Whether it returned. The store
/// still has the activation then.
///
/// # Safety
/// As for [`enter`], of the activation's store; the callee is a function of the store.
#[inline(always)]
unsafe fn run(activation: &Activation, callee: &Callee, values: *mut VmValue) -> bool {
    let store = activation.store;
    CURRENT.set(activation);
    StoreCore::set_activation(store, activation);
    let context = StoreCore::context(store);
    // SAFETY: the entry trampoline belongs to the function, whose code and vmctx
    // are passed; the values are as its signature wants them; the signal
    // handler finds the activation just set. Compiled code is trusted to keep to the ABI: the
    // artifact was loaded for a reason to trust it.
    let returned = unsafe { (callee.entry)(callee.vmctx, callee.code, values, context) };
    CURRENT.set(activation.previous);
    returned != 0
}

impl Activation {
    /// How it ended, which was not by a return.
    #[cold]
    #[inline(never)]
    fn unwound(&self) -> Result<(), Unwound> {
        Err(match self.end.get() {
            End::Trap(TrapKind::HostError) | End::None => Unwound::Host,
            End::Trap(TrapKind::UncaughtException) => Unwound::Exception,
            End::Trap(trap) => Unwound::Trap(trap),
            End::Lost(lost) => Unwound::Lost(lost),
        })
    }
}

/// The calls that [`enter`] leaves to others.
///
/// # Safety
/// As for [`enter`].
#[cold]
#[inline(never)]
unsafe fn enter_otherwise(
    store: NonNull<StoreCore<'static>>,
    func: NonNull<VmFuncRef>,
    values: *mut VmValue,
) -> Result<(), Unwound> {
    if let Err(error) = prepare() {
        // SAFETY: the store is alive, and exclusively borrowed.
        unsafe { &mut *store.as_ptr() }.pending = Some(Pending::Thread(error));
        return Err(Unwound::Unprepared);
    }
    // SAFETY: a function of the store lives as long as the store.
    let VmFuncRef { code, vmctx, entry, .. } = unsafe { func.read() };
    let Some(entry) = entry else {
        // SAFETY: a function reference without an entry trampoline has a host
        // context for its vmctx; the caller promises the rest.
        return unsafe { call_host(store, vmctx.cast(), values) };
    };
    // SAFETY: the context is a part of the live store.
    if unsafe { (*StoreCore::context(store)).entry_fp != 0 } {
        // SAFETY: the caller promises what this asks for.
        return unsafe { enter_again(store, &Callee { vmctx, code, entry }, values) };
    }
    // Now it is known.
    lowest_for_wasm(StoreCore::host_stack(store));
    // SAFETY: the caller promises the same.
    unsafe { enter(store, func, values) }
}

/// Enters wasm of a store that is in wasm already: a host function calls back.
///
/// # Safety
/// As for [`run`], of this store.
#[inline(never)]
unsafe fn enter_again(
    store: NonNull<StoreCore<'static>>,
    callee: &Callee,
    values: *mut VmValue,
) -> Result<(), Unwound> {
    let context = StoreCore::context(store);
    // SAFETY: the context is a part of the live store.
    let outer = unsafe { context.read() };
    // A host function may lend its store to another thread, which has another stack.
    if innermost_of(store).is_none() {
        let lowest = lowest_for_wasm(StoreCore::host_stack(store));
        // SAFETY: as above.
        unsafe { (*context).stack_limit = stack_limit(store, lowest) };
    }
    let outer_activation = StoreCore::activation(store);
    let activation = Activation {
        previous: CURRENT.get(),
        store,
        end: Cell::new(End::None),
        outer: NonZeroUsize::new(outer.entry_fp).map(|entry_fp| Outer {
            entry_fp,
            exit: outer.exit,
            activation: outer_activation,
        }),
    };
    // SAFETY: the caller promises what this asks for.
    let returned = unsafe { run(&activation, callee, values) };
    StoreCore::set_activation(store, outer_activation);
    // SAFETY: as above.
    unsafe {
        (*context).entry_fp = outer.entry_fp;
        (*context).entry_sp = outer.entry_sp;
        (*context).entry_handler = outer.entry_handler;
        (*context).exit = outer.exit;
        (*context).stack_limit = outer.stack_limit;
    }
    if returned { Ok(()) } else { activation.unwound() }
}

/// Calls a host function: no wasm to enter, and none that would check the stack if
/// host functions call each other without end.
///
/// # Safety
/// As for [`enter`]; `context` is the host function's.
#[inline(never)]
unsafe fn call_host(
    store: NonNull<StoreCore<'static>>,
    context: *mut VmHostContext,
    values: *mut VmValue,
) -> Result<(), Unwound> {
    if stack_pointer() < lowest_for_wasm(StoreCore::host_stack(store)) {
        // SAFETY: the store is alive, and not otherwise used.
        unsafe { note_host_frames(store) };
        return Err(Unwound::Trap(TrapKind::StackOverflow));
    }
    // SAFETY: the values are as the function expects them.
    let returned = unsafe { ((*context).call)(context, values) };
    match returned {
        host_context::FAILED => Err(Unwound::Host),
        host_context::THREW => {
            // SAFETY: the store is alive, and not otherwise used.
            unsafe { note_host_frames(store) };
            Err(Unwound::Exception)
        }
        _ => Ok(()),
    }
}

/// The stack limit for wasm that is entered here, where the stack has a lowest address that wasm may use.
#[inline(always)]
fn stack_limit(store: NonNull<StoreCore<'static>>, lowest: usize) -> usize {
    stack_pointer().saturating_sub(StoreCore::max_wasm_stack(store)).max(lowest)
}

/// Where the stack ends now.
#[inline(always)]
fn stack_pointer() -> usize {
    let here: usize;
    // SAFETY: copies a register; touches neither memory, nor the stack, nor flags.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("mov {}, rsp", out(reg) here, options(nomem, nostack, preserves_flags));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("mov {}, sp", out(reg) here, options(nomem, nostack, preserves_flags));
    }
    here
}

/// How many bytes of this thread's stack are left below its stack pointer.
#[inline]
pub(crate) fn stack_left() -> usize {
    stack_pointer().saturating_sub(sys::thread_stack().start)
}

/// The lowest address of this thread's stack that wasm may use, if host functions are to have
/// `reserve` bytes; on a small stack, half of it. It is known from then on.
fn lowest_for_wasm(reserve: usize) -> usize {
    let stack = sys::thread_stack();
    let lowest =
        stack.start.saturating_add(reserve.saturating_add(WAY_TO_HOST).min(stack.len() / 2));
    LOWEST.set((lowest, reserve));
    lowest
}

/// The same, if it was asked for last. Almost all stores have the same reserve.
#[inline(always)]
fn known_lowest(reserve: usize) -> Option<usize> {
    let (lowest, known) = LOWEST.get();
    (known == reserve).then_some(lowest)
}

/// Notes the wasm that is running as the frames of a trap or exception of the host.
///
/// # Safety
/// The store is alive, and nobody else uses its frame buffer.
#[cold]
pub(crate) unsafe fn note_host_frames(store: NonNull<StoreCore<'static>>) {
    let context = StoreCore::context(store);
    // SAFETY: both are parts of the live store. If it has an entry, wasm of it
    // runs below that and has left by the exit frame.
    unsafe {
        let frames = &mut *StoreCore::trap_frames(store);
        frames.clear();
        // No instruction of wasm trapped.
        frames.push(0);
        let VmStoreContext { entry_fp, exit, .. } = *context;
        if entry_fp != 0 {
            frames.walk_from_exit(exit, entry_fp);
        }
        walk_outer(frames, innermost_of(store));
    }
}

/// Ends the innermost activation of a store after a host function that wasm called has failed, or has thrown the exception
/// that the store holds. Where the thread goes on: in the entry trampoline, or where the exception is caught.
///
/// # Safety
/// The store is alive and not otherwise used. Wasm of it called the host function directly, which is about to end.
#[cold]
pub(crate) unsafe fn land(
    store: NonNull<StoreCore<'static>>,
    failed: HostFailure,
) -> NonNull<Landing> {
    // SAFETY: the context is a part of the live store.
    let context = unsafe { StoreCore::context(store).read() };
    let trap = match failed {
        HostFailure::Failed => TrapKind::HostError,
        HostFailure::Threw => {
            // SAFETY: the host function has not returned. The store is not otherwise used.
            let handler = unsafe {
                let pc = context.exit.return_address();
                find_handler(store, ptr::null_mut(), pc, context.exit.fp)
            };
            if let Some(landing) = handler {
                return landing;
            }
            TrapKind::UncaughtException
        }
    };
    // SAFETY: the store is alive and not otherwise used; the activation, too, since wasm called.
    unsafe {
        note_host_frames(store);
        (*StoreCore::activation(store)).end.set(End::Trap(trap));
        let landing = &raw mut (*store.as_ptr()).landing;
        *landing = Landing {
            pc: context.entry_handler,
            sp: context.entry_sp,
            fp: context.entry_fp,
            payload: 0,
        };
        NonNull::new_unchecked(landing)
    }
}

/// Prepares this process and thread for traps. Cheap after the first time.
pub(crate) fn prepare() -> std::io::Result<()> {
    if PREPARED.get() {
        return Ok(());
    }
    sys::install_fault_handler(on_fault);
    sys::ensure_signal_stack()?;
    PREPARED.set(true);
    Ok(())
}

/// Decides whether a fault is a trap of wasm, and ends the activation if so. Or whether it is about code, or bytes of a memory,
/// that are loaded when they are needed or are late, and makes them present.
///
/// Runs in a signal handler: it allocates nothing, takes no lock, and reads
/// only what the faulting thread owns.
fn on_fault(fault: &mut Fault<'_>) -> bool {
    let activation = CURRENT.get();
    if activation.is_null() {
        return false;
    }
    // SAFETY: an activation that is on the list is alive: `enter` takes it off
    // before it returns.
    let activation = unsafe { &*activation };
    let store = activation.store;
    let context = StoreCore::context(store);
    // SAFETY: the store is alive during the activation, and its list of code is
    // published atomically.
    let Some((artifact, offset)) = (unsafe { StoreCore::find_code(store, fault.pc()) }) else {
        return false;
    };
    let code = fault.unreadable().and_then(|address| artifact.load_code_at(address));
    // SAFETY: the thread was in compiled code of the store (its program counter says so).
    let loaded = code.or_else(|| unsafe { StoreCore::load_address(store, fault.address()?) });
    let end = match loaded {
        // It is there now: go on.
        Some(Ok(())) => return true,
        Some(Err(lost)) => End::Lost(lost),
        None => match artifact.sites().map(|sites| sites.trap_at(offset)) {
            Ok(site) => {
                let Some(trap) = site.and_then(|site| TrapKind::from_code(site.trap)) else {
                    return false;
                };
                End::Trap(trap)
            }
            // Some trap: which, nobody can tell. An entry trampoline has none.
            Err(_) if artifact.in_entry_trampoline(offset) => return false,
            Err(lost) => End::Lost(lost),
        },
    };
    // SAFETY: the context and the frame buffer are parts of the live store. The
    // thread was in compiled code (its program counter says so), hence not
    // in code that uses them.
    unsafe {
        let frames = &mut *StoreCore::trap_frames(store);
        frames.clear();
        frames.push(fault.pc());
        frames.walk(fault.fp(), (*context).entry_fp);
        walk_outer(frames, Some(activation));
        activation.end.set(end);
        let VmStoreContext { entry_handler, entry_sp, entry_fp, .. } = *context;
        fault.resume_at(entry_handler, entry_sp, entry_fp);
    }
    true
}

/// The stack between the wasm frames of a store, from the innermost outwards: ranges of addresses.
/// `innermost` is the stack pointer of the innermost frame, if wasm is running there, and not the host.
///
/// # Safety
/// The context is that of a live store, and `activation` its innermost activation or null.
pub(crate) unsafe fn wasm_stack(
    context: &VmStoreContext,
    mut activation: *const Activation,
    innermost: Option<usize>,
) -> Vec<(usize, usize)> {
    let mut ranges = vec![(innermost.unwrap_or(context.exit.return_at), context.entry_fp)];
    while !activation.is_null() {
        // SAFETY: the activations of a store are alive while it knows them, and outer ones outlive inner ones.
        let Some(outer) = (unsafe { (*activation).outer }) else { break };
        ranges.push((outer.exit.return_at, outer.entry_fp.get()));
        activation = outer.activation;
    }
    // Where the host entered no wasm, there is none.
    ranges.retain(|(_, entry_fp)| *entry_fp != 0);
    ranges
}

/// Adds the frames of the wasm outside of an activation, of the same store.
///
/// # Safety
/// The activation is on the list of this thread.
unsafe fn walk_outer(frames: &mut Frames, mut activation: Option<&Activation>) {
    while let Some(inner) = activation {
        if let Some(Outer { entry_fp, exit, .. }) = inner.outer {
            // SAFETY: these were the frame pointers of the store when the
            // activation began; whoever they belong to waits for its end.
            unsafe { frames.walk_from_exit(exit, entry_fp.get()) };
        }
        activation = find(inner.previous, inner.store);
    }
}

/// The innermost activation of a store on this thread.
fn innermost_of<'a>(store: NonNull<StoreCore<'static>>) -> Option<&'a Activation> {
    find(CURRENT.get(), store)
}

/// The first activation of a store, from `next` outwards.
fn find<'a>(
    mut next: *const Activation,
    store: NonNull<StoreCore<'static>>,
) -> Option<&'a Activation> {
    while !next.is_null() {
        // SAFETY: activations on the list are alive, and outer ones outlive
        // inner ones. Callers keep the result no longer than its activation.
        let activation = unsafe { &*next };
        if activation.store == store {
            return Some(activation);
        }
        next = activation.previous;
    }
    None
}
