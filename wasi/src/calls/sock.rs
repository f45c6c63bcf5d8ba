//! Sockets. No descriptor of a guest is one, so that each call says so.

use super::Call;
use crate::types::Errno;

impl Call<'_> {
    /// Accepts a connection.
    pub fn sock_accept(&mut self, fd: u32, _flags: u32, _accepted: u32) -> Result<(), Errno> {
        self.no_socket(fd)
    }

    /// Receives a message.
    pub fn sock_recv(
        &mut self,
        fd: u32,
        _buffers: u32,
        _count: u32,
        _flags: u32,
        _received: u32,
        _message_flags: u32,
    ) -> Result<(), Errno> {
        self.no_socket(fd)
    }

    /// Sends a message.
    pub fn sock_send(
        &mut self,
        fd: u32,
        _buffers: u32,
        _count: u32,
        _flags: u32,
        _sent: u32,
    ) -> Result<(), Errno> {
        self.no_socket(fd)
    }

    /// Ends a direction of a connection.
    pub fn sock_shutdown(&mut self, fd: u32, _how: u32) -> Result<(), Errno> {
        self.no_socket(fd)
    }

    fn no_socket(&self, fd: u32) -> Result<(), Errno> {
        self.ctx.table.get(fd)?;
        Err(Errno::NotSock)
    }
}

#[cfg(test)]
mod tests {
    use crate::calls::testing::{Guest, ROOT};
    use crate::types::Errno;

    #[test]
    fn no_descriptor_is_a_socket() {
        let mut guest = Guest::new();
        let mut call = guest.call();
        assert_eq!(call.sock_accept(ROOT, 0, 0), Err(Errno::NotSock));
        assert_eq!(call.sock_recv(0, 0, 0, 0, 0, 0), Err(Errno::NotSock));
        assert_eq!(call.sock_send(1, 0, 0, 0, 0), Err(Errno::NotSock));
        assert_eq!(call.sock_shutdown(4, 0), Err(Errno::BadF));
    }
}
