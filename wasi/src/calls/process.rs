//! The process: its end, its turn, its random bytes.

use super::Call;
use crate::stdio::lock;
use crate::table::Handle;
use crate::types::{Errno, Signal};

/// The guest ended itself by `proc_exit`. Its host function returns this as an
/// error, so that the call into the guest ends; it is found there by
/// downcasting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest exited with status {0}")]
pub struct ProcExit(pub u32);

/// A signal ended the guest: it raised one by `proc_raise`, or wrote to a stream
/// of the host that nobody reads any more. Like [`ProcExit`], an error that the
/// call into the guest fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest was ended by {0}")]
pub struct Signaled(pub Signal);

impl Call<'_> {
    /// Ends the guest. What its output streams hold back is passed on.
    #[must_use]
    pub fn proc_exit(&mut self, status: u32) -> ProcExit {
        self.flush_streams();
        ProcExit(status)
    }

    /// Sends the guest a signal. A guest has no handlers, so that what the signal
    /// does by itself is done: it ends the guest, or nothing happens.
    pub fn proc_raise(&mut self, signal: u32) -> Result<(), Errno> {
        if signal == 0 {
            return Ok(());
        }
        let signal = Signal::from_guest(signal)?;
        if signal.stops() {
            // Nobody could let it go on.
            return Err(Errno::NotSup);
        }
        if signal.ends() {
            self.signal = Some(signal);
        }
        Ok(())
    }

    /// Lets others run.
    pub fn sched_yield(&mut self) -> Result<(), Errno> {
        std::thread::yield_now();
        Ok(())
    }

    /// Fills a buffer with random bytes.
    pub fn random_get(&mut self, buf: u32, len: u32) -> Result<(), Errno> {
        let mut random = lock(&self.ctx.random);
        self.memory.fill(buf, len, |bytes| random.fill(bytes))
    }

    fn flush_streams(&self) {
        for fd in [1, 2] {
            if let Ok(descriptor) = self.ctx.table.get(fd)
                && let Handle::Output(output) = &descriptor.handle
            {
                // The guest is past hearing of errors.
                let _ = output.flush();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ProcExit, Signaled};
    use crate::calls::testing::{DATA, Guest};
    use crate::ctx::Random;
    use crate::types::{Errno, Signal};
    use std::io::{BufWriter, Write};
    use std::sync::{Arc, Mutex};

    #[test]
    fn random_bytes_fill_the_buffer_and_no_more() {
        let mut guest = Guest::new();
        guest.call().random_get(DATA, 1000).unwrap();
        assert!(guest.bytes(DATA, 1000).chunks(100).all(|part| part.iter().any(|&byte| byte != 0)));
        assert_eq!(guest.bytes(DATA + 1000, 8), [0; 8]);
        assert_eq!(guest.call().random_get(65536 - 10, 11), Err(Errno::Fault));
        assert_eq!(guest.call().random_get(65536, 0), Ok(()));

        struct Sevens;
        impl Random for Sevens {
            fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Errno> {
                bytes.fill(7);
                Ok(())
            }
        }
        let mut guest = Guest::with(|builder, _| {
            builder.random(Sevens);
        });
        guest.call().random_get(DATA, 2).unwrap();
        assert_eq!(guest.bytes(DATA, 3), [7, 7, 0]);
    }

    #[test]
    fn a_signal_does_what_it_does_by_itself() {
        let mut guest = Guest::new();
        let mut raise = |signal| {
            let mut call = guest.call();
            let result = call.proc_raise(signal);
            call.finish(result).map_err(|error| *error.downcast::<Signaled>().unwrap())
        };
        assert_eq!(raise(0), Ok(0));
        assert_eq!(raise(6), Err(Signaled(Signal::ABRT)));
        assert_eq!(raise(9), Err(Signaled(Signal::KILL)));
        assert_eq!(raise(30), Err(Signaled(Signal::SYS)));
        // SIGCHLD, SIGCONT, SIGURG and SIGWINCH are ignored.
        assert_eq!([16, 17, 22, 27].map(&mut raise), [Ok(0); 4]);
        let not_supported = i32::from(Errno::NotSup.code());
        assert_eq!([18, 19, 20, 21].map(&mut raise), [Ok(not_supported); 4]);
        let invalid = i32::from(Errno::Inval.code());
        assert_eq!([31, 256, u32::MAX].map(&mut raise), [Ok(invalid); 3]);
        assert_eq!(Signaled(Signal::PIPE).to_string(), "the guest was ended by SIGPIPE");
    }

    #[test]
    fn leaving_flushes_the_streams() {
        #[derive(Clone, Default)]
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let shared = Shared::default();
        let mut guest = Guest::with(|builder, _| {
            builder.stdout(BufWriter::new(shared.clone()));
        });
        guest.write(1, "kept").unwrap();
        assert!(shared.0.lock().unwrap().is_empty());
        assert_eq!(guest.call().proc_exit(3), ProcExit(3));
        assert_eq!(*shared.0.lock().unwrap(), b"kept");
    }
}
