//! Walking the frames of wasm.
//!
//! Compiled code keeps frame pointers: at a frame pointer is the caller's, and
//! above it the return address. The chain is followed from the place
//! where wasm stopped, or called the host, to the frame of the entry trampoline.

use super::layout::VmExit;

/// How many program counters a backtrace holds. A runaway recursion has many
/// more frames; the innermost ones tell the story.
pub(crate) const MAX_FRAMES: usize = 100;

/// Program counters of wasm frames, innermost first. Filled by a signal
/// handler, hence of fixed size.
#[derive(Debug)]
pub(crate) struct Frames {
    pcs: [usize; MAX_FRAMES],
    count: usize,
    /// Frames that found no room.
    omitted: usize,
}

impl Frames {
    pub(crate) const fn new() -> Self {
        Self { pcs: [0; MAX_FRAMES], count: 0, omitted: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.count = 0;
        self.omitted = 0;
    }

    pub(crate) fn push(&mut self, pc: usize) {
        match self.pcs.get_mut(self.count) {
            Some(slot) => {
                *slot = pc;
                self.count += 1;
            }
            None => self.omitted += 1,
        }
    }

    pub(crate) fn pcs(&self) -> &[usize] {
        &self.pcs[..self.count]
    }

    pub(crate) fn omitted(&self) -> usize {
        self.omitted
    }

    /// Adds the frames of wasm from the one that called the host, inclusive, to the one at `entry_fp`, exclusive.
    ///
    /// # Safety
    /// `exit` is where wasm was left, and the host has not returned to it; `entry_fp` is as for [`Self::walk`].
    pub(crate) unsafe fn walk_from_exit(&mut self, exit: VmExit, entry_fp: usize) {
        // SAFETY: by the caller's promise.
        unsafe {
            self.push(exit.return_address());
            self.walk(exit.fp, entry_fp);
        }
    }

    /// Adds the return addresses of the frames from the one at `fp`, inclusive,
    /// to the one at `entry_fp`, exclusive, but for the one that leads there, which is no frame of wasm.
    ///
    /// # Safety
    /// `fp` and `entry_fp` must be frame pointers of live frames of this
    /// thread, with only frames of compiled code from one to the other.
    pub(crate) unsafe fn walk(&mut self, mut fp: usize, entry_fp: usize) {
        while fp != 0 && fp < entry_fp {
            let frame = fp as *const [usize; 2];
            // SAFETY: `fp` is the frame pointer of a live frame, by the
            // caller's promise or because it was read from such a frame; the
            // two words at a frame pointer are the saved frame pointer
            // and the return address on every supported architecture.
            let [caller_fp, return_address] = unsafe { *frame };
            if caller_fp == entry_fp {
                break;
            }
            self.push(return_address);
            if caller_fp <= fp {
                break;
            }
            fp = caller_fp;
        }
    }
}
