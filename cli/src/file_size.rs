//! Living on when a file would exceed the limit on the size of files (`ulimit -f`).
//!
//! The system sends SIGXFSZ to whoever writes beyond the limit, and its default action ends the process:
//! without a message, and with temporary files left. To a process that handles the signal, the write
//! fails with `EFBIG`, which is an error like that of a full disk. A guest sees it as `FBIG`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGXFSZ;

/// From now on a write beyond the limit is an error of that write.
///
/// The signal is handled, and not ignored: what is ignored stays ignored in programs that
/// the process starts, what is handled does not.
pub(crate) fn survive_limit() {
    // Nobody reads the flag, since every write tells its own result. If the signal cannot be handled,
    // the limit does what it does to other programs.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}
