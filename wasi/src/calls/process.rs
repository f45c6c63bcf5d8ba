//! The process: its end, its turn, its random bytes.

use super::Call;
use crate::guest;
use crate::table::Handle;
use crate::types::Errno;

/// The guest ended itself by `proc_exit`. Its host function returns this as an
/// error, so that the call into the guest ends; it is found there by
/// downcasting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest exited with status {0}")]
pub struct ProcExit(pub u32);

impl Call<'_> {
    /// Ends the guest. What its output streams hold back is passed on.
    #[must_use]
    pub fn proc_exit(&mut self, status: u32) -> ProcExit {
        for fd in [1, 2] {
            if let Ok(descriptor) = self.ctx.table.get_mut(fd)
                && let Handle::Output(output) = &mut descriptor.handle
            {
                // The guest is past hearing of errors.
                let _ = output.flush();
            }
        }
        ProcExit(status)
    }

    /// Sends the guest a signal, of which it has none.
    pub fn proc_raise(&mut self, _signal: u32) -> Result<(), Errno> {
        Err(Errno::NotSup)
    }

    /// Lets others run.
    pub fn sched_yield(&mut self) -> Result<(), Errno> {
        std::thread::yield_now();
        Ok(())
    }

    /// Fills a buffer with random bytes.
    pub fn random_get(&mut self, buf: u32, len: u32) -> Result<(), Errno> {
        let buffer = guest::bytes_mut(self.memory, buf, len)?;
        self.ctx.random.fill(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::ProcExit;
    use crate::calls::testing::{DATA, Guest};
    use crate::ctx::Random;
    use crate::types::Errno;
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
