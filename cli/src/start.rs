//! Where the process begins: at C's `main`, and not at the standard library's.
//!
//! Before it calls a program's `main`, the standard library opens `/dev/null` for standard streams that are closed, lets writes to
//! a pipe that nobody reads fail, and prepares to say so when a thread's stack overflows. The last of these reads the list of the
//! process's mappings, which takes 3% of the time that a short program takes. Here, the first two are done. When the stack of this
//! command itself overflows, which is a fault of the command's, the process ends by a signal without a message. Guests have limits of their own.

use std::fs::OpenOptions;
use std::mem;
use std::os::fd::AsRawFd as _;
use std::panic;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGPIPE;

/// What the C library calls. The standard library has the arguments from elsewhere.
// SAFETY: there is no other function of this name in the executable, as `no_main` says, and a program's `main` may ignore its arguments.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main() -> std::ffi::c_int {
    // This also writes what waits in the buffer of the standard output.
    std::process::exit(run())
}

/// Does what the standard library would do first, and then what the command is to do. Returns the exit code.
pub(crate) fn run() -> i32 {
    let code = panic::catch_unwind(|| {
        open_standard_streams();
        survive_broken_pipes();
        crate::execute()
    });
    // The hook of panics has said what happened.
    code.map_or(101, i32::from)
}

/// Opens `/dev/null` in place of standard streams that are closed. The next files that are opened would be taken for them.
fn open_standard_streams() {
    for number in 0..=2 {
        if Path::new(&format!("/proc/self/fd/{number}")).symlink_metadata().is_ok() {
            continue;
        }
        // A new file gets the lowest number that is free.
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        // Another number would mean that only that list of open files is missing.
        if let Ok(null) = null
            && null.as_raw_fd() == number
        {
            // It stays open as long as the process.
            mem::forget(null);
        }
    }
}

/// From now on a write to a pipe that nobody reads is an error of that write, as for [`crate::file_size::survive_limit`].
fn survive_broken_pipes() {
    let _ = signal_hook::flag::register(SIGPIPE, Arc::new(AtomicBool::new(false)));
}
