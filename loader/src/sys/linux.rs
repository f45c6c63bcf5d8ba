//! Linux: `mmap`, `mprotect`, signals on an alternate stack.

use std::cell::Cell;
use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr;
use std::sync::{Once, OnceLock};

use rustix::mm::MprotectFlags;

use super::Reservation;

/// The size of a page of memory in bytes.
pub(crate) fn page_size() -> usize {
    rustix::param::page_size()
}

/// How large this process may make a file, in bytes.
pub(super) fn file_size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid during the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) } != 0 {
        return 0;
    }
    limit.rlim_cur
}

/// Makes a range of a read-only mapping readable and executable.
///
/// # Safety
/// `map[pages]` must start at a page boundary of a private mapping that is not
/// writable and that stays mapped as it is for as long as its code can run.
pub(crate) unsafe fn protect_code(map: &[u8], pages: Range<usize>) -> io::Result<()> {
    let code = &map[pages];
    if code.is_empty() {
        return Ok(());
    }
    let start = code.as_ptr().cast::<c_void>().cast_mut();
    // SAFETY: the range is mapped (it is a slice), page-aligned by the
    // caller's promise, and only gains the permission to execute.
    unsafe { rustix::mm::mprotect(start, code.len(), MprotectFlags::READ | MprotectFlags::EXEC) }?;
    Ok(())
}

/// Takes all access to a range of a mapping away, until [`install`] puts something there.
///
/// # Safety
/// `map[pages]` must be whole pages (the last may be the last of the mapping, in part) of a private mapping that stays as long as anybody may use it, and nobody reads them
/// but through what is installed.
pub(crate) unsafe fn protect_absent(map: &[u8], pages: Range<usize>) -> io::Result<()> {
    let absent = &map[pages];
    if absent.is_empty() {
        return Ok(());
    }
    let start = absent.as_ptr().cast::<c_void>().cast_mut();
    // SAFETY: the range is mapped, page-aligned by the caller's promise, and nobody reads it.
    unsafe { rustix::mm::mprotect(start, absent.len(), MprotectFlags::empty()) }?;
    Ok(())
}

/// What may be done with pages that are installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Execute,
}

/// Puts pages into a mapping, in one step: threads find there what was before, or all of the new contents, ready to use. `fill`
/// gets `length` bytes of memory that nobody else sees, and that are writable until then, and never after. The pages at `kept` of
/// them are moved to `target`.
///
/// Makes only system calls that a signal handler may make, if `fill` does.
///
/// # Errors
/// What `fill` fails with, or the system; then nothing has changed.
///
/// # Safety
/// `target` points to as many bytes as `kept` has, whole pages, of a private mapping that stays as long as anybody
/// may use them. What is there is no longer used, and nobody else writes to it. `kept` begins at a page and lies within `length`.
pub(crate) unsafe fn install<E: From<rustix::io::Errno>>(
    target: *mut u8,
    kept: Range<usize>,
    length: usize,
    access: Access,
    fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    use rustix::mm::{self, MapFlags, MremapFlags, ProtFlags};
    let access = match access {
        Access::Read => MprotectFlags::READ,
        Access::Execute => MprotectFlags::READ | MprotectFlags::EXEC,
    };
    let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
    let writable = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
    let pages = unsafe { mm::mmap_anonymous(ptr::null_mut(), length, writable, flags) }?;
    // SAFETY: the mapping was just made, is writable, begins as zeros, and is known to nobody else.
    let bytes = unsafe { std::slice::from_raw_parts_mut(pages.cast::<u8>(), length) };
    let moved = kept.len();
    let result = fill(bytes).and_then(|()| {
        // SAFETY: the pages are ours, and nobody uses `bytes` any more. They are moved over the target, which the caller
        // gives up; the kernel exchanges the one for the other while no thread can look.
        unsafe {
            let first = pages.byte_add(kept.start);
            mm::mprotect(first, moved, access)?;
            mm::mremap_fixed(first, moved, moved, MremapFlags::MAYMOVE, target.cast())?;
        }
        Ok(())
    });
    // Where the moved pages were, there may be something else by now.
    let left = match &result {
        Ok(()) => [0..kept.start, kept.end.next_multiple_of(page_size())..length],
        Err(_) => [0..length, 0..0],
    };
    for range in left.into_iter().filter(|range| !range.is_empty()) {
        // SAFETY: these pages of ours were not moved, and nobody uses them.
        let _ = unsafe { mm::munmap(pages.byte_add(range.start), range.len()) };
    }
    result
}

/// A fault of the current thread, as the handler sees it and may change it.
pub(crate) struct Fault<'a> {
    context: &'a mut libc::ucontext_t,
    /// The address that could not be accessed, if that is what is wrong.
    address: Option<usize>,
}

impl Fault<'_> {
    /// The address that could not be read or executed, if that is what is wrong.
    pub(crate) fn unreadable(&self) -> Option<usize> {
        self.address.filter(|_| !self.is_write())
    }

    /// The address that could not be accessed, if that is what is wrong.
    pub(crate) fn address(&self) -> Option<usize> {
        self.address
    }
}

#[cfg(target_arch = "x86_64")]
impl Fault<'_> {
    #[expect(clippy::cast_possible_truncation, reason = "registers hold addresses")]
    fn register(&self, register: libc::c_int) -> usize {
        self.context.uc_mcontext.gregs[register as usize] as usize
    }

    fn set_register(&mut self, register: libc::c_int, value: usize) {
        self.context.uc_mcontext.gregs[register as usize] = value as i64;
    }

    /// Address of the instruction that faulted.
    pub(crate) fn pc(&self) -> usize {
        self.register(libc::REG_RIP)
    }

    /// Frame pointer of the code that faulted.
    pub(crate) fn fp(&self) -> usize {
        self.register(libc::REG_RBP)
    }

    fn is_write(&self) -> bool {
        // Bit 1 of the error code of a page fault.
        self.register(libc::REG_ERR) & 2 != 0
    }

    /// Lets the thread go on at `pc` with these stack and frame pointers.
    pub(crate) fn resume_at(&mut self, pc: usize, sp: usize, fp: usize) {
        self.set_register(libc::REG_RIP, pc);
        self.set_register(libc::REG_RSP, sp);
        self.set_register(libc::REG_RBP, fp);
    }
}

#[cfg(target_arch = "aarch64")]
impl Fault<'_> {
    /// Address of the instruction that faulted.
    pub(crate) fn pc(&self) -> usize {
        self.context.uc_mcontext.pc as usize
    }

    /// Frame pointer of the code that faulted.
    pub(crate) fn fp(&self) -> usize {
        self.context.uc_mcontext.regs[29] as usize
    }

    fn is_write(&self) -> bool {
        // Only code is asked about, which nothing writes to.
        false
    }

    /// Lets the thread go on at `pc` with these stack and frame pointers.
    pub(crate) fn resume_at(&mut self, pc: usize, sp: usize, fp: usize) {
        self.context.uc_mcontext.pc = pc as u64;
        self.context.uc_mcontext.sp = sp as u64;
        self.context.uc_mcontext.regs[29] = fp as u64;
    }
}

/// The signals by which faults of compiled code arrive.
const SIGNALS: [libc::c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

/// The actions that were in place before ours, for faults that are not ours.
static PREVIOUS: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();

/// What decides whether a fault is ours; set once, before the first signal
/// can call it.
static HANDLER: OnceLock<fn(&mut Fault<'_>) -> bool> = OnceLock::new();

/// Installs `handler` for the faults of this process, once. It returns whether
/// the fault was its own; other faults go to the handler that was there before.
///
/// `handler` runs as a signal handler: it must not allocate, lock or panic.
pub(crate) fn install_fault_handler(handler: fn(&mut Fault<'_>) -> bool) {
    HANDLER.get_or_init(|| handler);
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // The previous actions are known before the first signal can need them.
        let _ = PREVIOUS.set(SIGNALS.map(|signal| {
            // SAFETY: `sigaction` is a plain structure for which zero is a valid value.
            let mut previous: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
            // SAFETY: a null new action only asks for the current one, which is
            // written to valid memory.
            unsafe { libc::sigaction(signal, ptr::null(), &mut previous) };
            previous
        }));
        for signal in SIGNALS {
            // SAFETY: zero is a valid value, as above; the pointer is to a valid
            // structure. `on_signal` has the signature that SA_SIGINFO asks for and is
            // safe to run at any point. The calls cannot fail for these signals.
            unsafe {
                let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
                // The signal is blocked while it is handled: ones that are sent faster than they are
                // handled wait, and do not pile up on the stack.
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                action.sa_sigaction = on_signal as *const () as usize;
                libc::sigemptyset(&mut action.sa_mask);
                libc::sigaction(signal, &action, ptr::null_mut());
            }
        }
    });
}

/// The signal handler.
///
/// # Safety
/// Called by the kernel only, with the arguments that SA_SIGINFO specifies.
unsafe extern "C" fn on_signal(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    // A signal that was sent arrives at any instruction, also at one that may trap.
    //
    // SAFETY: for SA_SIGINFO handlers the kernel passes a valid structure.
    let sent = unsafe { (*info).si_code } <= 0;
    let ours = !sent
        && HANDLER.get().is_some_and(|handler| {
            // SAFETY: for SA_SIGINFO handlers the kernel passes a `ucontext_t`,
            // which belongs to this invocation of the handler alone.
            let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
            // SAFETY: the kernel passes a valid structure, in which this field has a meaning for this signal.
            let address = (signal == libc::SIGSEGV).then(|| unsafe { (*info).si_addr() }.addr());
            handler(&mut Fault { context, address })
        });
    if !ours {
        // SAFETY: these are the arguments that the kernel passed.
        unsafe { forward(signal, info, context, sent) };
    }
}

/// Whether a fault of this thread comes to our handler first: it is installed, nobody has put another in its place, and the thread does not
/// block the signal.
pub(crate) fn catches_faults() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    let mut blocked = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: a null new action and a null new set only ask for the current ones, which are written to valid memory; zero is a valid
    // value of both structures.
    unsafe {
        libc::sigaction(libc::SIGSEGV, ptr::null(), action.as_mut_ptr()) == 0
            && libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), blocked.as_mut_ptr()) == 0
            && (*action.as_ptr()).sa_sigaction == on_signal as *const () as usize
            && libc::sigismember(blocked.as_ptr(), libc::SIGSEGV) == 0
    }
}

/// Whether the system will not refuse to make pages of a reservation writable, as far as is known: it promises more memory than it has, and sets this process
/// no limit for its data. Found out once, when it is first asked.
pub(crate) fn promises_pages() -> bool {
    static PROMISES: OnceLock<bool> = OnceLock::new();
    *PROMISES.get_or_init(|| {
        use rustix::process::{Resource, getrlimit};
        /// `vm.overcommit_memory`: every page that may be written counts.
        const NEVER: &str = "2";
        let policy = std::fs::read_to_string("/proc/sys/vm/overcommit_memory");
        policy.is_ok_and(|policy| policy.trim() != NEVER)
            && getrlimit(Resource::Data).current.is_none()
    })
}

/// Hands a signal to the action that was in place before ours.
///
/// # Safety
/// The arguments must be those of the kernel's call of a signal handler.
unsafe fn forward(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
    sent: bool,
) {
    let previous = PREVIOUS
        .get()
        .and_then(|all| Some(&all[SIGNALS.iter().position(|known| *known == signal)?]));
    match previous {
        Some(action) if action.sa_flags & libc::SA_SIGINFO != 0 => {
            block_for(action, signal);
            // SAFETY: an action with SA_SIGINFO holds a function of this type,
            // and gets the kernel's own arguments.
            unsafe {
                let function: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) =
                    std::mem::transmute(action.sa_sigaction);
                function(signal, info, context);
            }
        }
        Some(action)
            if action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN =>
        {
            block_for(action, signal);
            // SAFETY: an action without SA_SIGINFO that is neither default nor
            // ignored holds a function of this type.
            unsafe {
                let function: extern "C" fn(libc::c_int) = std::mem::transmute(action.sa_sigaction);
                function(signal);
            }
        }
        // Only a signal that was sent can be ignored; a fault ends the process anyway.
        Some(action) if action.sa_sigaction == libc::SIG_IGN && sent => {}
        _ => {
            // The default action of these signals ends the process. Restore it
            // and return: the instruction faults again. What was sent must be sent again.
            //
            // SAFETY: as in `install_fault_handler`; SIG_DFL is always valid.
            unsafe {
                let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &action, ptr::null_mut());
                if sent {
                    libc::raise(signal);
                }
            }
        }
    }
}

/// Blocks the signals that the kernel would have blocked for this action, beside `signal`, which is
/// blocked already and which the action may want to have unblocked. The end of our handler
/// undoes it.
fn block_for(action: &libc::sigaction, signal: libc::c_int) {
    // SAFETY: the sets are valid during the calls, which a handler may make; they change which signals
    // this thread takes, as the application asked for with its action. They cannot fail.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &action.sa_mask, ptr::null_mut());
        if action.sa_flags & libc::SA_NODEFER != 0 {
            let mut only = MaybeUninit::<libc::sigset_t>::zeroed();
            libc::sigemptyset(only.as_mut_ptr());
            libc::sigaddset(only.as_mut_ptr(), signal);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, only.as_ptr(), ptr::null_mut());
        }
    }
}

/// The size of the stack that signal handlers run on. The standard library's have 8 KiB, and
/// the kernel alone may put more than 3 KiB there per signal (the registers of AVX-512): too little for
/// handlers of the application that ours hands a signal to, which
/// may not expect to run on an alternate stack at all.
const SIGNAL_STACK_SIZE: usize = 64 << 10;

/// A thread's alternate signal stack, with an inaccessible page below it.
struct SignalStack {
    memory: Reservation,
}

impl SignalStack {
    fn new() -> io::Result<Self> {
        Ok(Self { memory: Reservation::stack(page_size(), SIGNAL_STACK_SIZE)? })
    }

    fn start(&self) -> *mut c_void {
        self.memory.start().as_ptr().wrapping_add(page_size()).cast()
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        // Somebody may have put another one in its place.
        if signal_stack().ss_sp != self.start() {
            return;
        }
        let disable = libc::stack_t {
            ss_sp: ptr::null_mut(),
            ss_flags: libc::SS_DISABLE,
            ss_size: SIGNAL_STACK_SIZE,
        };
        // SAFETY: the structure is valid. The thread is ending, and no handler of it runs now, so
        // the memory can be unmapped once it is disabled.
        unsafe { libc::sigaltstack(&disable, ptr::null_mut()) };
    }
}

/// The current thread's alternate signal stack.
fn signal_stack() -> libc::stack_t {
    let mut current = MaybeUninit::<libc::stack_t>::zeroed();
    // SAFETY: a null new stack only asks for the current one, which is written
    // to valid memory; zero is a valid value of the structure.
    unsafe {
        libc::sigaltstack(ptr::null(), current.as_mut_ptr());
        current.assume_init()
    }
}

thread_local! {
    static SIGNAL_STACK: Cell<Option<SignalStack>> = const { Cell::new(None) };
    static HAS_SIGNAL_STACK: Cell<bool> = const { Cell::new(false) };
    static STACK: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Makes sure that the current thread has an alternate stack for signal
/// handlers that is large enough.
pub(crate) fn ensure_signal_stack() -> io::Result<()> {
    if HAS_SIGNAL_STACK.get() {
        return Ok(());
    }
    let current = signal_stack();
    // The stack that this thread runs on, in a handler, cannot be replaced now.
    if current.ss_flags & libc::SS_ONSTACK != 0 {
        return Ok(());
    }
    if current.ss_flags & libc::SS_DISABLE != 0 || current.ss_size < SIGNAL_STACK_SIZE {
        let own = SignalStack::new()?;
        let stack = libc::stack_t { ss_sp: own.start(), ss_flags: 0, ss_size: SIGNAL_STACK_SIZE };
        // SAFETY: the stack is valid memory of this size, which is unmapped only
        // after the stack has been disabled when the thread ends.
        if unsafe { libc::sigaltstack(&stack, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        SIGNAL_STACK.set(Some(own));
    }
    HAS_SIGNAL_STACK.set(true);
    Ok(())
}

/// The addresses of the current thread's stack that may be touched. Empty if
/// they cannot be found out.
#[inline]
pub(crate) fn thread_stack() -> Range<usize> {
    match STACK.get() {
        (_, 0) => find_thread_stack(),
        (start, end) => start..end,
    }
}

#[cold]
fn find_thread_stack() -> Range<usize> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut start = ptr::null_mut();
    let mut size = 0;
    let mut guard = 0;
    // SAFETY: `pthread_getattr_np` initialises the attributes if it returns
    // zero; the getters write to valid memory; the attributes are destroyed once.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return 0..0;
        }
        libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut size);
        libc::pthread_attr_getguardsize(attributes.as_ptr(), &mut guard);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
    // Some C libraries count the guard as a part of the stack.
    let stack = start as usize + guard..start as usize + size.max(guard);
    STACK.set((stack.start, stack.end));
    stack
}
