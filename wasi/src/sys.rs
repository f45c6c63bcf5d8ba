//! What this crate asks of the operating system besides cap-std: reads and
//! writes at an offset, hints, times, flags, listings, sockets, waiting, the
//! clocks.
//!
//! Every function works on a descriptor that is already open. None takes a
//! path, so that none can leave a preopened directory.

use crate::types::{ClockId, Errno, FdFlags, FileStat, FileType};
use cap_std::fs::{Metadata, MetadataExt};
use core::time::Duration;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Advice, FallocateFlags, OFlags, RawDir, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, Shutdown,
    SocketFlags,
};
use rustix::time::ClockId as HostClock;
use std::ffi::CStr;
use std::io::{self, IoSlice, IoSliceMut, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const NANOS: u64 = 1_000_000_000;

/// Reads from where the descriptor stands.
pub(crate) fn read(fd: impl AsFd, buffers: &mut [IoSliceMut<'_>]) -> rustix::io::Result<usize> {
    retry_on_intr(|| rustix::io::readv(&fd, buffers))
}

/// Writes to where the descriptor stands.
pub(crate) fn write(fd: impl AsFd, buffers: &[IoSlice<'_>]) -> rustix::io::Result<usize> {
    retry_on_intr(|| rustix::io::writev(&fd, buffers))
}

/// Reads at an offset.
pub(crate) fn read_at(
    fd: impl AsFd,
    buffers: &mut [IoSliceMut<'_>],
    offset: u64,
) -> Result<usize, Errno> {
    Ok(retry_on_intr(|| rustix::io::preadv(&fd, buffers, offset))?)
}

/// Writes at an offset.
pub(crate) fn write_at(
    fd: impl AsFd,
    buffers: &[IoSlice<'_>],
    offset: u64,
) -> Result<usize, Errno> {
    Ok(retry_on_intr(|| rustix::io::pwritev(&fd, buffers, offset))?)
}

/// Makes sure that a range of a file has storage.
pub(crate) fn allocate(fd: impl AsFd, offset: u64, len: u64) -> Result<(), Errno> {
    Ok(retry_on_intr(|| rustix::fs::fallocate(&fd, FallocateFlags::empty(), offset, len))?)
}

/// Says how a range of a file will be used. `advice` is preview 1's number.
pub(crate) fn advise(fd: impl AsFd, offset: u64, len: u64, advice: u32) -> Result<(), Errno> {
    let advice = match advice {
        0 => Advice::Normal,
        1 => Advice::Sequential,
        2 => Advice::Random,
        3 => Advice::WillNeed,
        4 => Advice::DontNeed,
        5 => Advice::NoReuse,
        _ => return Err(Errno::Inval),
    };
    if i64::try_from(offset).is_err() || i64::try_from(len).is_err() {
        return Err(Errno::Inval);
    }
    Ok(rustix::fs::fadvise(fd, offset, core::num::NonZeroU64::new(len), advice)?)
}

/// Stores what was written to a file or directory.
pub(crate) fn sync(fd: impl AsFd) -> Result<(), Errno> {
    Ok(rustix::fs::fsync(fd)?)
}

/// Sets the flags that can change while a file is open.
pub(crate) fn set_flags(fd: impl AsFd, flags: FdFlags) -> Result<(), Errno> {
    let mut host = OFlags::empty();
    host.set(OFlags::APPEND, flags.contains(FdFlags::APPEND));
    host.set(OFlags::NONBLOCK, flags.contains(FdFlags::NONBLOCK));
    Ok(rustix::fs::fcntl_setfl(fd, host)?)
}

/// A time to give to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewTime {
    /// The time stays.
    Keep,
    /// The current time.
    Now,
    /// Nanoseconds since 1970.
    At(u64),
}

/// Sets the times of the last access and of the last change of an open file.
pub(crate) fn set_times(fd: impl AsFd, accessed: NewTime, modified: NewTime) -> Result<(), Errno> {
    let host = |time| -> Result<Timespec, Errno> {
        Ok(match time {
            NewTime::Keep => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            NewTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
            NewTime::At(nanos) => timespec(nanos)?,
        })
    };
    let times = Timestamps { last_access: host(accessed)?, last_modification: host(modified)? };
    Ok(rustix::fs::futimens(fd, &times)?)
}

fn timespec(nanos: u64) -> Result<Timespec, Errno> {
    Ok(Timespec {
        tv_sec: i64::try_from(nanos / NANOS).map_err(|_| Errno::Overflow)?,
        tv_nsec: i64::try_from(nanos % NANOS).map_err(|_| Errno::Overflow)?,
    })
}

/// What the attributes of a file say in preview 1.
pub(crate) fn filestat(metadata: &Metadata) -> FileStat {
    FileStat {
        device: metadata.dev(),
        inode: metadata.ino(),
        filetype: metadata.file_type().into(),
        links: metadata.nlink(),
        size: metadata.len(),
        accessed: nanos(metadata.atime(), metadata.atime_nsec()),
        modified: nanos(metadata.mtime(), metadata.mtime_nsec()),
        changed: nanos(metadata.ctime(), metadata.ctime_nsec()),
    }
}

/// Seconds and nanoseconds as nanoseconds; a time before 1970 is 1970.
fn nanos(seconds: i64, nanos: i64) -> u64 {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    seconds.saturating_mul(NANOS).saturating_add(u64::try_from(nanos).unwrap_or(0))
}

/// Whether a descriptor is a terminal.
pub(crate) fn is_terminal(fd: impl AsFd) -> bool {
    fd.as_fd().is_terminal()
}

/// How many bytes can be read without waiting, as far as is known.
pub(crate) fn readable_bytes(fd: impl AsFd) -> u64 {
    rustix::io::ioctl_fionread(fd).unwrap_or(1)
}

/// The entries of a directory that `buffer` holds, from the place that `cookie`
/// stands for; 0 is the first. `each` gets them until it returns `false`.
/// Returns whether the end of the directory was reached.
pub(crate) fn list(
    dir: impl AsFd,
    cookie: u64,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(HostEntry<'_>) -> Result<bool, Errno>,
) -> Result<bool, Errno> {
    rustix::fs::seek(&dir, rustix::fs::SeekFrom::Start(cookie))?;
    let mut entries = RawDir::new(&dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let filetype = match entry.file_type() {
            rustix::fs::FileType::Unknown => filetype_of(&dir, entry.file_name()),
            known => known.into(),
        };
        let (inode, next) = (entry.ino(), entry.next_entry_cookie());
        if !each(HostEntry { next, inode, filetype, name })? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// An entry of a directory of the host.
pub(crate) struct HostEntry<'a> {
    /// Where the next entry is.
    pub(crate) next: u64,
    pub(crate) inode: u64,
    pub(crate) filetype: FileType,
    pub(crate) name: &'a [u8],
}

/// The kind of an entry, on a file system that does not tell it in the listing.
/// The name is a single one, so that it leads nowhere else.
fn filetype_of(dir: impl AsFd, name: &CStr) -> FileType {
    let stat = rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
    stat.map_or(FileType::Unknown, |stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).into())
}

impl From<rustix::fs::FileType> for FileType {
    fn from(host: rustix::fs::FileType) -> Self {
        use rustix::fs::FileType as Host;
        match host {
            Host::RegularFile => Self::RegularFile,
            Host::Directory => Self::Directory,
            Host::Symlink => Self::SymbolicLink,
            Host::CharacterDevice => Self::CharacterDevice,
            Host::BlockDevice => Self::BlockDevice,
            Host::Socket => Self::SocketStream,
            Host::Fifo | Host::Unknown => Self::Unknown,
        }
    }
}

/// The flags of what an application says is a socket; fails if it is none.
pub(crate) fn socket_flags(fd: impl AsFd) -> io::Result<FdFlags> {
    rustix::net::sockopt::socket_type(&fd)?;
    let mut flags = FdFlags::empty();
    flags.set(FdFlags::NONBLOCK, rustix::fs::fcntl_getfl(&fd)?.contains(OFlags::NONBLOCK));
    Ok(flags)
}

/// Accepts a connection.
pub(crate) fn accept(fd: impl AsFd, nonblocking: bool) -> Result<OwnedFd, Errno> {
    let mut flags = SocketFlags::CLOEXEC;
    flags.set(SocketFlags::NONBLOCK, nonblocking);
    Ok(retry_on_intr(|| rustix::net::accept_with(&fd, flags))?)
}

/// Receives from a connection; returns how much, and whether more of the
/// message was there.
pub(crate) fn receive(
    fd: impl AsFd,
    buffers: &mut [IoSliceMut<'_>],
    peek: bool,
    all: bool,
) -> Result<(usize, bool), Errno> {
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    flags.set(RecvFlags::PEEK, peek);
    flags.set(RecvFlags::WAITALL, all);
    let received = retry_on_intr(|| {
        rustix::net::recvmsg(&fd, buffers, &mut RecvAncillaryBuffer::default(), flags)
    })?;
    Ok((received.bytes, received.flags.contains(ReturnFlags::TRUNC)))
}

/// Sends over a connection. One that is broken raises no signal.
pub(crate) fn send(fd: impl AsFd, buffers: &[IoSlice<'_>]) -> Result<usize, Errno> {
    let flags = SendFlags::NOSIGNAL;
    let send = || rustix::net::sendmsg(&fd, buffers, &mut SendAncillaryBuffer::default(), flags);
    Ok(retry_on_intr(send)?)
}

/// Ends one or both directions of a connection.
pub(crate) fn shutdown(fd: impl AsFd, read: bool, write: bool) -> Result<(), Errno> {
    let how = match (read, write) {
        (true, true) => Shutdown::Both,
        (true, false) => Shutdown::Read,
        (false, true) => Shutdown::Write,
        (false, false) => return Err(Errno::Inval),
    };
    Ok(rustix::net::shutdown(fd, how)?)
}

/// Whether a read, or a write, would not wait.
pub(crate) fn is_ready(fd: BorrowedFd<'_>, write: bool) -> Result<bool, Errno> {
    let mut waiting = [Waiting::new(fd, write)];
    wait(&mut waiting, Some(Duration::ZERO))?;
    Ok(waiting[0].ready)
}

/// What [`wait`] waits for and what it saw.
pub(crate) struct Waiting<'fd> {
    fd: BorrowedFd<'fd>,
    write: bool,
    /// Whether the call that was waited for would not wait.
    pub(crate) ready: bool,
    /// Whether the other side has gone.
    pub(crate) hangup: bool,
}

impl<'fd> Waiting<'fd> {
    /// Waits for room to write, or for data to read.
    pub(crate) fn new(fd: BorrowedFd<'fd>, write: bool) -> Self {
        Self { fd, write, ready: false, hangup: false }
    }

    /// The same, before anything was seen.
    pub(crate) fn again(&self) -> Self {
        Self::new(self.fd, self.write)
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'fd> {
        self.fd
    }

    /// Whether it waits for room to write.
    pub(crate) fn is_write(&self) -> bool {
        self.write
    }
}

/// Waits until one of `all` is ready or `timeout` is over; `None` is forever.
/// A signal ends the wait early.
pub(crate) fn wait(all: &mut [Waiting<'_>], timeout: Option<Duration>) -> Result<(), Errno> {
    let mut fds: Vec<PollFd<'_>> = all
        .iter()
        .map(|one| {
            let events = if one.write { PollFlags::OUT } else { PollFlags::IN };
            PollFd::from_borrowed_fd(one.fd, events)
        })
        .collect();
    // More than the system accepts is as good as forever.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    for (one, fd) in all.iter_mut().zip(&fds) {
        let seen = fd.revents();
        one.ready = !seen.is_empty();
        one.hangup = seen.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
    }
    Ok(())
}

/// The time of a clock of the host.
pub(crate) fn clock_time(id: ClockId) -> u64 {
    let time = rustix::time::clock_gettime(host_clock(id));
    nanos(time.tv_sec, time.tv_nsec)
}

/// The smallest step of a clock of the host.
pub(crate) fn clock_resolution(id: ClockId) -> u64 {
    let step = rustix::time::clock_getres(host_clock(id));
    nanos(step.tv_sec, step.tv_nsec)
}

fn host_clock(id: ClockId) -> HostClock {
    match id {
        ClockId::Realtime => HostClock::Realtime,
        ClockId::Monotonic => HostClock::Monotonic,
        ClockId::ProcessCpuTime => HostClock::ProcessCPUTime,
        ClockId::ThreadCpuTime => HostClock::ThreadCPUTime,
    }
}
