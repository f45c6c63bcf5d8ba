//! Error numbers: what a call returns to the guest.
//!
//! Errors of the host arrive here as `std::io::Error` or `rustix::io::Errno`
//! and leave as the preview 1 number of the same meaning.

use rustix::io::Errno as Host;
use std::io;

macro_rules! errnos {
    ($($name:ident = $code:literal, $message:literal;)*) => {
        /// A preview 1 error number. Success is the absence of one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum Errno {
            $(
                #[doc = $message]
                #[error($message)]
                $name = $code,
            )*
        }

        impl Errno {
            /// Every error number, in the order of the codes.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

errnos! {
    TooBig = 1, "argument list too long";
    Acces = 2, "permission denied";
    AddrInUse = 3, "address in use";
    AddrNotAvail = 4, "address not available";
    AfNoSupport = 5, "address family not supported";
    Again = 6, "resource unavailable, or operation would block";
    Already = 7, "connection already in progress";
    BadF = 8, "bad file descriptor";
    BadMsg = 9, "bad message";
    Busy = 10, "device or resource busy";
    Canceled = 11, "operation canceled";
    Child = 12, "no child processes";
    ConnAborted = 13, "connection aborted";
    ConnRefused = 14, "connection refused";
    ConnReset = 15, "connection reset";
    Deadlk = 16, "resource deadlock would occur";
    DestAddrReq = 17, "destination address required";
    Dom = 18, "argument out of the domain of the function";
    DQuot = 19, "disk quota exceeded";
    Exist = 20, "file exists";
    Fault = 21, "bad address";
    FBig = 22, "file too large";
    HostUnreach = 23, "host is unreachable";
    IdRm = 24, "identifier removed";
    IlSeq = 25, "illegal byte sequence";
    InProgress = 26, "operation in progress";
    Intr = 27, "interrupted";
    Inval = 28, "invalid argument";
    Io = 29, "input or output error";
    IsConn = 30, "socket is connected";
    IsDir = 31, "is a directory";
    Loop = 32, "too many levels of symbolic links";
    MFile = 33, "file descriptor table is full";
    MLink = 34, "too many links";
    MsgSize = 35, "message too large";
    Multihop = 36, "multihop attempted";
    NameTooLong = 37, "file name too long";
    NetDown = 38, "network is down";
    NetReset = 39, "connection aborted by the network";
    NetUnreach = 40, "network unreachable";
    NFile = 41, "too many files open in the system";
    NoBufs = 42, "no buffer space available";
    NoDev = 43, "no such device";
    NoEnt = 44, "no such file or directory";
    NoExec = 45, "executable file format error";
    NoLck = 46, "no locks available";
    NoLink = 47, "link has been severed";
    NoMem = 48, "not enough space";
    NoMsg = 49, "no message of the desired type";
    NoProtoOpt = 50, "protocol not available";
    NoSpc = 51, "no space left on device";
    NoSys = 52, "function not supported";
    NotConn = 53, "the socket is not connected";
    NotDir = 54, "not a directory";
    NotEmpty = 55, "directory not empty";
    NotRecoverable = 56, "state not recoverable";
    NotSock = 57, "not a socket";
    NotSup = 58, "not supported";
    NotTy = 59, "not a terminal";
    NxIo = 60, "no such device or address";
    Overflow = 61, "value too large to be stored";
    OwnerDead = 62, "previous owner died";
    Perm = 63, "operation not permitted";
    Pipe = 64, "broken pipe";
    Proto = 65, "protocol error";
    ProtoNoSupport = 66, "protocol not supported";
    Prototype = 67, "protocol of the wrong type for the socket";
    Range = 68, "result too large";
    RoFs = 69, "read-only file system";
    SPipe = 70, "invalid seek";
    Srch = 71, "no such process";
    Stale = 72, "stale file handle";
    TimedOut = 73, "connection timed out";
    TxtBsy = 74, "text file busy";
    XDev = 75, "cross-device link";
    NotCapable = 76, "the descriptor lacks the right";
}

impl Errno {
    /// The number that the guest sees.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// What a finished call returns to the guest: zero, or the number.
    #[must_use]
    pub fn of(result: Result<(), Self>) -> i32 {
        result.map_or_else(|errno| i32::from(errno.code()), |()| 0)
    }
}

impl From<Host> for Errno {
    fn from(host: Host) -> Self {
        match host {
            Host::TOOBIG => Self::TooBig,
            Host::ACCESS => Self::Acces,
            Host::AGAIN => Self::Again,
            Host::BADF => Self::BadF,
            Host::BUSY => Self::Busy,
            Host::CANCELED => Self::Canceled,
            Host::DEADLK => Self::Deadlk,
            Host::DQUOT => Self::DQuot,
            Host::EXIST => Self::Exist,
            Host::FAULT => Self::Fault,
            Host::FBIG => Self::FBig,
            Host::ILSEQ => Self::IlSeq,
            Host::INTR => Self::Intr,
            Host::INVAL => Self::Inval,
            Host::ISDIR => Self::IsDir,
            Host::LOOP => Self::Loop,
            Host::MFILE => Self::MFile,
            Host::MLINK => Self::MLink,
            Host::NAMETOOLONG => Self::NameTooLong,
            Host::NFILE => Self::NFile,
            Host::NODEV => Self::NoDev,
            Host::NOENT => Self::NoEnt,
            Host::NOLCK => Self::NoLck,
            Host::NOLINK => Self::NoLink,
            Host::NOMEM => Self::NoMem,
            Host::NOSPC => Self::NoSpc,
            Host::NOSYS => Self::NoSys,
            Host::NOTDIR => Self::NotDir,
            Host::NOTEMPTY => Self::NotEmpty,
            Host::NOTSUP => Self::NotSup,
            Host::NOTTY => Self::NotTy,
            Host::NXIO => Self::NxIo,
            Host::OVERFLOW => Self::Overflow,
            Host::PERM => Self::Perm,
            Host::PIPE => Self::Pipe,
            Host::RANGE => Self::Range,
            Host::ROFS => Self::RoFs,
            Host::SPIPE => Self::SPipe,
            Host::SRCH => Self::Srch,
            Host::STALE => Self::Stale,
            Host::TIMEDOUT => Self::TimedOut,
            Host::TXTBSY => Self::TxtBsy,
            Host::XDEV => Self::XDev,
            _ => Self::Io,
        }
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        if let Some(host) = Host::from_io_error(&error) {
            return host.into();
        }
        // Errors without a number of the host: those of cap-std (which reports
        // a path that leaves its directory as `PermissionDenied`), of `std`,
        // and of the readers and writers that an embedder supplies.
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Perm,
            io::ErrorKind::NotFound => Self::NoEnt,
            io::ErrorKind::AlreadyExists => Self::Exist,
            io::ErrorKind::WouldBlock => Self::Again,
            io::ErrorKind::InvalidInput => Self::Inval,
            io::ErrorKind::InvalidData => Self::IlSeq,
            io::ErrorKind::Interrupted => Self::Intr,
            io::ErrorKind::BrokenPipe => Self::Pipe,
            io::ErrorKind::OutOfMemory => Self::NoMem,
            io::ErrorKind::StorageFull => Self::NoSpc,
            io::ErrorKind::ReadOnlyFilesystem => Self::RoFs,
            io::ErrorKind::NotADirectory => Self::NotDir,
            io::ErrorKind::IsADirectory => Self::IsDir,
            io::ErrorKind::DirectoryNotEmpty => Self::NotEmpty,
            io::ErrorKind::NotSeekable => Self::SPipe,
            io::ErrorKind::FileTooLarge => Self::FBig,
            io::ErrorKind::Unsupported => Self::NotSup,
            _ => Self::Io,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_dense_and_end_with_notcapable() {
        for (index, errno) in Errno::ALL.iter().enumerate() {
            assert_eq!(usize::from(errno.code()), index + 1);
        }
        assert_eq!(Errno::NotCapable.code(), 76);
        assert_eq!(Errno::ALL.len(), 76);
    }

    #[test]
    fn errors_of_the_host_keep_their_meaning() {
        let broken = io::Error::from(Host::PIPE);
        assert_eq!(Errno::from(broken), Errno::Pipe);
        let escape = io::Error::new(io::ErrorKind::PermissionDenied, "outside");
        assert_eq!(Errno::from(escape), Errno::Perm);
        assert_eq!(Errno::of(Ok(())), 0);
        assert_eq!(Errno::of(Err(Errno::BadF)), 8);
    }
}
