//! Reading and writing.
//!
//! Bytes go straight between the memory of the guest and the file: the system
//! reads into and writes from that memory.

use super::Call;
use crate::stdio;
use crate::sys;
use crate::table::Handle;
use crate::types::{Errno, Rights, Signal};

impl Call<'_> {
    /// Reads into the buffers of the guest and writes how much was read.
    pub fn fd_read(&mut self, fd: u32, iovs: u32, count: u32, read: u32) -> Result<(), Errno> {
        self.memory.check(read, 4)?;
        let descriptor = self.ctx.table.get(fd)?;
        if matches!(descriptor.handle, Handle::Dir(_)) {
            return Err(Errno::IsDir);
        }
        descriptor.require(Rights::FD_READ)?;
        let len = self.memory.read_in(iovs, count, |buffers| match &descriptor.handle {
            Handle::File(file) => Ok(sys::read(file, buffers)?),
            Handle::Input(input) => stdio::read(&**input, buffers, descriptor.waits()),
            Handle::Socket(socket) => Ok(sys::read(&socket.fd, buffers)?),
            Handle::Output(_) | Handle::Dir(_) => Err(Errno::BadF),
        })?;
        self.memory.write_size(read, len)
    }

    /// Reads at an offset, without moving that of the file.
    pub fn fd_pread(
        &mut self,
        fd: u32,
        iovs: u32,
        count: u32,
        offset: u64,
        read: u32,
    ) -> Result<(), Errno> {
        self.memory.check(read, 4)?;
        let descriptor = self.ctx.table.get(fd)?;
        let file = descriptor.as_file(Rights::FD_READ | Rights::FD_SEEK)?;
        let len =
            self.memory.read_in(iovs, count, |buffers| sys::read_at(file, buffers, offset))?;
        self.memory.write_size(read, len)
    }

    /// Writes out the buffers of the guest and writes how much was written.
    pub fn fd_write(&mut self, fd: u32, iovs: u32, count: u32, written: u32) -> Result<(), Errno> {
        self.memory.check(written, 4)?;
        let descriptor = self.ctx.table.get(fd)?;
        if matches!(descriptor.handle, Handle::Dir(_)) {
            return Err(Errno::IsDir);
        }
        descriptor.require(Rights::FD_WRITE)?;
        let result = self.memory.write_out(iovs, count, |buffers| match &descriptor.handle {
            Handle::File(file) => Ok(sys::write(file, buffers)?),
            Handle::Output(output) => stdio::write(&**output, buffers, descriptor.waits()),
            Handle::Socket(socket) => sys::send(&socket.fd, buffers),
            Handle::Input(_) | Handle::Dir(_) => Err(Errno::BadF),
        });
        if let (Err(Errno::Pipe), Handle::Output(output)) = (result, &descriptor.handle)
            && output.ends_guest_when_broken()
        {
            self.signal = Some(Signal::PIPE);
        }
        self.memory.write_size(written, result?)
    }

    /// Writes at an offset, without moving that of the file. A file that is
    /// open to append grows, as it does on Linux.
    pub fn fd_pwrite(
        &mut self,
        fd: u32,
        iovs: u32,
        count: u32,
        offset: u64,
        written: u32,
    ) -> Result<(), Errno> {
        self.memory.check(written, 4)?;
        let descriptor = self.ctx.table.get(fd)?;
        let file = descriptor.as_file(Rights::FD_WRITE | Rights::FD_SEEK)?;
        let len =
            self.memory.write_out(iovs, count, |buffers| sys::write_at(file, buffers, offset))?;
        self.memory.write_size(written, len)
    }
}

#[cfg(test)]
mod tests {
    use crate::calls::testing::{DATA, Guest, IOV, OUT, ROOT};
    use crate::types::Errno;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[test]
    fn vectored_calls_move_all_buffers() {
        let mut guest = Guest::new();
        let fd = guest.create("file");
        guest.put(DATA, "hello, world");
        let iovs = [DATA + 7, 5, DATA + 5, 2, DATA, 5].map(u32::to_le_bytes).concat();
        guest.put(IOV, &iovs);
        guest.call().fd_write(fd, IOV, 3, OUT).unwrap();
        assert_eq!(guest.u32_at(OUT), 12);
        assert_eq!(guest.host_file("file"), "world, hello");
        guest.call().fd_seek(fd, 0, 0, OUT).unwrap();
        guest.call().fd_read(fd, IOV, 3, OUT).unwrap();
        assert_eq!(guest.u32_at(OUT), 12);
        assert_eq!(guest.bytes(DATA, 12), b"hello, world");
    }

    #[test]
    fn offsets_have_64_bits_and_leave_the_file_where_it_stands() {
        let mut guest = Guest::new();
        let fd = guest.create("file");
        let far = (1 << 32) + 3;
        guest.put(DATA, "far");
        let (iov, count) = guest.iov(DATA, 3);
        guest.call().fd_pwrite(fd, iov, count, far, OUT).unwrap();
        guest.call().fd_filestat_get(fd, OUT).unwrap();
        assert_eq!(guest.u64_at(OUT + 32), far + 3);
        guest.put(DATA, "\0\0\0");
        guest.call().fd_pread(fd, iov, count, far + 1, OUT).unwrap();
        assert_eq!((guest.u32_at(OUT), guest.bytes(DATA, 3)), (2, &b"ar\0"[..]));
        guest.call().fd_tell(fd, OUT).unwrap();
        assert_eq!(guest.u64_at(OUT), 0);
        let beyond = guest.call().fd_pread(fd, iov, count, u64::MAX, OUT);
        assert_eq!(beyond, Err(Errno::Inval));
    }

    #[test]
    fn a_result_out_of_memory_has_no_effect() {
        let mut guest = Guest::new();
        let fd = guest.create("file");
        guest.put(DATA, "x");
        let (iov, count) = guest.iov(DATA, 1);
        assert_eq!(guest.call().fd_write(fd, iov, count, u32::MAX - 1), Err(Errno::Fault));
        assert_eq!(guest.call().fd_write(fd, u32::MAX - 7, 1, OUT), Err(Errno::Fault));
        assert_eq!(guest.call().fd_write(fd, iov, u32::MAX, OUT), Err(Errno::Fault));
        assert_eq!(guest.host_file("file"), "");
        assert_eq!(guest.read(ROOT, 1), Err(Errno::IsDir));
        assert_eq!(guest.write(ROOT, "x"), Err(Errno::IsDir));
    }

    #[test]
    fn streams_go_where_the_embedder_says() {
        struct Broken;
        impl io::Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let captured = Arc::new(Mutex::new(Vec::new()));
        let mut guest = Guest::with(|builder, _| {
            builder.stdin_bytes("input").capture_stdout(Arc::clone(&captured)).stderr(Broken);
        });
        assert_eq!(guest.read(0, 3), Ok("inp".into()));
        assert_eq!(guest.read(0, 9), Ok("ut".into()));
        assert_eq!(guest.read(0, 9), Ok(String::new()));
        assert_eq!(guest.write(1, "out"), Ok(3));
        assert_eq!(guest.write(2, "err"), Err(Errno::Pipe));
        assert_eq!(*captured.lock().unwrap(), b"out");
        assert_eq!(guest.write(0, "x"), Err(Errno::NotCapable));
        assert_eq!(guest.read(1, 1), Err(Errno::NotCapable));
    }
}
