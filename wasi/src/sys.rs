//! What this crate asks of the operating system besides cap-std: reads and
//! writes at an offset, hints, times, flags, waiting, the clocks.
//!
//! Every function works on a descriptor that is already open. None takes a
//! path, so that none can leave a preopened directory.

use crate::types::{ClockId, Errno, FdFlags, FileStat};
use cap_std::fs::{Metadata, MetadataExt};
use core::time::Duration;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Advice, FallocateFlags, OFlags, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::retry_on_intr;
use rustix::time::ClockId as HostClock;
use std::io::{IoSlice, IoSliceMut, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};

const NANOS: u64 = 1_000_000_000;

/// Reads from where the descriptor stands.
pub(crate) fn read(fd: impl AsFd, buffers: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
    Ok(retry_on_intr(|| rustix::io::readv(&fd, buffers))?)
}

/// Writes to where the descriptor stands.
pub(crate) fn write(fd: impl AsFd, buffers: &[IoSlice<'_>]) -> Result<usize, Errno> {
    Ok(retry_on_intr(|| rustix::io::writev(&fd, buffers))?)
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
