//! Sockets. A guest makes none: it has those that it was given, and the
//! connections that these accept.

use super::Call;
use crate::sys;
use crate::table::Descriptor;
use crate::types::{Errno, FdFlags, Rights};

/// Look at what is there, and leave it to the next call.
const PEEK: u32 = 1 << 0;
/// Wait until the buffers are full.
const WAIT_ALL: u32 = 1 << 1;
/// What was received was cut off where the buffers end.
const TRUNCATED: u16 = 1 << 0;
/// Nothing more will be received.
const NO_MORE_READING: u32 = 1 << 0;
/// Nothing more will be sent.
const NO_MORE_WRITING: u32 = 1 << 1;

impl Call<'_> {
    /// Accepts a connection and writes its descriptor. Of the flags, only
    /// `NONBLOCK` means something to a connection.
    pub fn sock_accept(&mut self, fd: u32, flags: u32, accepted: u32) -> Result<(), Errno> {
        let flags = FdFlags::from_guest(flags)?;
        if !(flags - FdFlags::NONBLOCK).is_empty() {
            return Err(Errno::Inval);
        }
        self.memory.check(accepted, 4)?;
        let descriptor = self.ctx.table.get(fd)?;
        let socket = descriptor.as_socket(Rights::empty())?;
        if !socket.listens {
            return Err(Errno::Inval);
        }
        descriptor.require(Rights::SOCK_ACCEPT)?;
        self.ctx.table.check_room()?;
        let connection = sys::accept(&socket.fd, flags.contains(FdFlags::NONBLOCK))?;
        let connection = Descriptor::socket(connection, false, flags);
        connection.restrict(connection.base() & descriptor.inheriting(), Rights::empty())?;
        let new = self.ctx.table.insert(connection)?;
        self.memory.write_u32(accepted, new)
    }

    /// Receives into the buffers of the guest, and writes how much and whether
    /// that was all of a message.
    pub fn sock_recv(
        &mut self,
        fd: u32,
        buffers: u32,
        count: u32,
        flags: u32,
        received: u32,
        message_flags: u32,
    ) -> Result<(), Errno> {
        if flags & !(PEEK | WAIT_ALL) != 0 {
            return Err(Errno::Inval);
        }
        self.memory.check(received, 4)?;
        self.memory.check(message_flags, 2)?;
        let descriptor = self.ctx.table.get(fd)?;
        let socket = descriptor.as_socket(Rights::FD_READ)?;
        let mut truncated = false;
        let len = self.memory.read_in(buffers, count, |buffers| {
            let (peek, all) = (flags & PEEK != 0, flags & WAIT_ALL != 0);
            let (len, cut) = sys::receive(&socket.fd, buffers, peek, all)?;
            truncated = cut;
            Ok(len)
        })?;
        self.memory.write_size(received, len)?;
        let message = if truncated { TRUNCATED } else { 0 };
        self.memory.write(message_flags, &message.to_le_bytes())
    }

    /// Sends the buffers of the guest and writes how much was sent. There are no
    /// flags.
    pub fn sock_send(
        &mut self,
        fd: u32,
        buffers: u32,
        count: u32,
        flags: u32,
        sent: u32,
    ) -> Result<(), Errno> {
        if flags != 0 {
            return Err(Errno::Inval);
        }
        self.memory.check(sent, 4)?;
        let descriptor = self.ctx.table.get(fd)?;
        let socket = descriptor.as_socket(Rights::FD_WRITE)?;
        let len =
            self.memory.write_out(buffers, count, |buffers| sys::send(&socket.fd, buffers))?;
        self.memory.write_size(sent, len)
    }

    /// Ends one direction of a connection, or both.
    pub fn sock_shutdown(&mut self, fd: u32, how: u32) -> Result<(), Errno> {
        let descriptor = self.ctx.table.get(fd)?;
        let socket = descriptor.as_socket(Rights::SOCK_SHUTDOWN)?;
        if how & !(NO_MORE_READING | NO_MORE_WRITING) != 0 {
            return Err(Errno::Inval);
        }
        sys::shutdown(&socket.fd, how & NO_MORE_READING != 0, how & NO_MORE_WRITING != 0)
    }
}

#[cfg(test)]
mod tests {
    use crate::calls::testing::{DATA, Guest, OUT, PATH, ROOT};
    use crate::types::{Errno, FdFlags, Rights};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// A guest with a listening socket after its directory, and its peer.
    fn guest() -> (Guest, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let guest = Guest::with(|builder, _| {
            builder.listener(listener);
        });
        (guest, peer)
    }

    const LISTENER: u32 = ROOT + 1;
    const MESSAGE_FLAGS: u32 = OUT + 8;

    fn accept(guest: &mut Guest) -> u32 {
        guest.call().sock_accept(LISTENER, 0, OUT).unwrap();
        guest.u32_at(OUT)
    }

    fn receive(guest: &mut Guest, fd: u32, len: u32, flags: u32) -> Result<String, Errno> {
        let (iov, count) = guest.iov(DATA, len);
        guest.call().sock_recv(fd, iov, count, flags, OUT, MESSAGE_FLAGS)?;
        Ok(String::from_utf8(guest.bytes(DATA, guest.u32_at(OUT)).to_vec()).unwrap())
    }

    #[test]
    fn a_connection_is_accepted_read_and_written_in_both_ways() {
        let (mut guest, mut peer) = guest();
        let fd = accept(&mut guest);
        assert_eq!(fd, LISTENER + 1);
        peer.write_all(b"one two three").unwrap();
        // Peeking takes nothing away.
        assert_eq!(receive(&mut guest, fd, 3, super::PEEK), Ok("one".into()));
        assert_eq!(receive(&mut guest, fd, 4, super::WAIT_ALL), Ok("one ".into()));
        assert_eq!(guest.read(fd, 4), Ok("two ".into()));
        assert_eq!(receive(&mut guest, fd, 99, 0), Ok("three".into()));
        guest.put(DATA, "sent");
        let (iov, count) = guest.iov(DATA, 4);
        guest.call().sock_send(fd, iov, count, 0, OUT).unwrap();
        assert_eq!(guest.write(fd, " written"), Ok(8));
        guest.call().sock_shutdown(fd, super::NO_MORE_WRITING).unwrap();
        let mut text = String::new();
        peer.read_to_string(&mut text).unwrap();
        assert_eq!(text, "sent written");
        // The other direction is still open, until its end.
        peer.write_all(b"bye").unwrap();
        drop(peer);
        assert_eq!(receive(&mut guest, fd, 99, super::WAIT_ALL), Ok("bye".into()));
        assert_eq!(receive(&mut guest, fd, 99, 0), Ok(String::new()));
        assert_eq!(guest.write(fd, "x"), Err(Errno::Pipe));
        guest.call().fd_close(fd).unwrap();
        assert_eq!(receive(&mut guest, fd, 1, 0), Err(Errno::BadF));
    }

    #[test]
    fn a_call_that_would_wait_fails_if_the_guest_says_so() {
        let (mut guest, peer) = guest();
        let nonblock = u32::from(FdFlags::NONBLOCK.bits());
        guest.call().sock_accept(LISTENER, nonblock, OUT).unwrap();
        let fd = guest.u32_at(OUT);
        assert_eq!(receive(&mut guest, fd, 1, 0), Err(Errno::Again));
        assert_eq!(guest.read(fd, 1), Err(Errno::Again));
        guest.call().fd_fdstat_get(fd, OUT).unwrap();
        assert_eq!((guest.bytes(OUT, 1)[0], guest.bytes(OUT + 2, 1)[0]), (6, 4));
        guest.call().fd_fdstat_set_flags(LISTENER, nonblock).unwrap();
        assert_eq!(guest.call().sock_accept(LISTENER, 0, OUT), Err(Errno::Again));
        // A peer that reads nothing: sending fills the buffers, and no more.
        let mut sent = 0;
        let full = loop {
            match guest.write(fd, &"x".repeat(40_000)) {
                Ok(len) => sent += len,
                Err(errno) => break errno,
            }
        };
        assert_eq!(full, Errno::Again);
        assert!(sent > 0);
        drop(peer);
    }

    #[test]
    fn a_connection_has_the_rights_that_the_listener_passes_on() {
        let (mut guest, _peer) = guest();
        let less = (Rights::CONNECTION - Rights::FD_WRITE).bits();
        guest.call().fd_fdstat_set_rights(LISTENER, Rights::LISTENER.bits(), less).unwrap();
        let fd = accept(&mut guest);
        assert_eq!(guest.write(fd, "x"), Err(Errno::NotCapable));
        guest.call().fd_fdstat_set_rights(LISTENER, 0, 0).unwrap();
        assert_eq!(guest.call().sock_accept(LISTENER, 0, OUT), Err(Errno::NotCapable));
    }

    #[test]
    fn what_is_not_a_socket_or_not_a_flag_is_refused() {
        let (mut guest, _peer) = guest();
        let fd = accept(&mut guest);
        let file = guest.create("file");
        let mut call = guest.call();
        for not in [0, 1, ROOT, file] {
            assert_eq!(call.sock_accept(not, 0, 0), Err(Errno::NotSock));
            assert_eq!(call.sock_recv(not, 0, 0, 0, 0, 0), Err(Errno::NotSock));
            assert_eq!(call.sock_send(not, 0, 0, 0, 0), Err(Errno::NotSock));
            assert_eq!(call.sock_shutdown(not, 1), Err(Errno::NotSock));
        }
        assert_eq!(call.sock_shutdown(99, 0), Err(Errno::BadF));
        assert_eq!(call.sock_accept(fd, 0, 0), Err(Errno::Inval));
        assert_eq!(call.sock_accept(LISTENER, 1, 0), Err(Errno::Inval));
        assert_eq!(call.sock_accept(LISTENER, 0, u32::MAX), Err(Errno::Fault));
        assert_eq!(call.sock_recv(fd, 0, 0, 4, 0, 0), Err(Errno::Inval));
        assert_eq!(call.sock_recv(fd, 0, 0, 0, 65533, 0), Err(Errno::Fault));
        assert_eq!(call.sock_recv(fd, 0, 0, 0, 0, 65535), Err(Errno::Fault));
        assert_eq!(call.sock_send(fd, 0, 0, 1, 0), Err(Errno::Inval));
        assert_eq!(call.sock_shutdown(fd, 0), Err(Errno::Inval));
        assert_eq!(call.sock_shutdown(fd, 4), Err(Errno::Inval));
        assert_eq!(call.sock_recv(LISTENER, 0, 0, 0, 0, 0), Err(Errno::NotCapable));
        assert_eq!(call.fd_seek(fd, 0, 0, 0), Err(Errno::SPipe));
        // A socket is no directory: neither is it preopened, nor can it be used as one.
        assert_eq!(call.fd_prestat_get(LISTENER, 0), Err(Errno::BadF));
        assert_eq!(call.path_filestat_get(LISTENER, 0, PATH, 1, 0), Err(Errno::NotDir));
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = crate::WasiCtx::builder().connection(file).build().unwrap_err();
        assert_eq!(error.to_string(), "what was given as a socket is none");
    }
}
