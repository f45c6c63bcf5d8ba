//! `poll_oneoff`: waiting for times, for data and for room.

use super::Call;
use crate::ctx::Clocks;
use crate::stdio::lock;
use crate::sys::{self, Waiting};
use crate::table::{Descriptor, Handle};
use crate::types::{
    ClockId, Errno, Event, EventKind, FileType, Rights, Subscription, SubscriptionKind,
};
use core::time::Duration;
use std::io::Seek;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// How many subscriptions a call takes: more than a guest has descriptors, and
/// few enough for the host to keep.
const MAX_SUBSCRIPTIONS: u32 = 16_384;

/// A subscription while `poll_oneoff` runs.
enum State<'fd> {
    /// It is over in this many nanoseconds.
    Timer(u64),
    /// It depends on a descriptor of the host, for reading or for writing.
    Host(Waiting<'fd>),
    /// It has happened.
    Done(Result<EventKind, Errno>),
}

impl Call<'_> {
    /// Waits until at least one of `count` subscriptions happens, then writes
    /// an event for each that did, and how many these are.
    pub fn poll_oneoff(
        &mut self,
        subscriptions: u32,
        events: u32,
        count: u32,
        happened: u32,
    ) -> Result<(), Errno> {
        if count == 0 {
            return Err(Errno::Inval);
        }
        self.memory.check(happened, 4)?;
        let array = |size: usize| {
            let size = u64::try_from(size).map_err(|_| Errno::Fault)?;
            u32::try_from(u64::from(count) * size).map_err(|_| Errno::Fault)
        };
        let size = Subscription::size_in(self.snapshot);
        let records_len = array(size)?;
        let events_len = array(Event::SIZE)?;
        self.memory
            .check(subscriptions, usize::try_from(records_len).map_err(|_| Errno::Fault)?)?;
        self.memory.check(events, usize::try_from(events_len).map_err(|_| Errno::Fault)?)?;
        if count > MAX_SUBSCRIPTIONS {
            return Err(Errno::Inval);
        }
        let records = self.memory.read(subscriptions, records_len)?;
        let subscriptions = records
            .chunks_exact(size)
            .map(|record| Subscription::decode(self.snapshot, record))
            .collect::<Result<Vec<_>, _>>()?;
        drop(records);

        // The descriptors stay open for as long as they are waited for.
        let descriptors: Vec<_> = subscriptions
            .iter()
            .map(|subscription| match subscription.kind {
                SubscriptionKind::Clock { .. } => Err(Errno::BadF),
                SubscriptionKind::FdRead(fd) | SubscriptionKind::FdWrite(fd) => {
                    self.ctx.table.get(fd)
                }
            })
            .collect();
        let mut states = Vec::with_capacity(subscriptions.len());
        for (subscription, descriptor) in subscriptions.iter().zip(&descriptors) {
            let state = match subscription.kind {
                SubscriptionKind::Clock { id, timeout, absolute } => {
                    time_left(&self.ctx.clocks, id, timeout, absolute).map(State::Timer)
                }
                SubscriptionKind::FdRead(_) => begin(descriptor, false),
                SubscriptionKind::FdWrite(_) => begin(descriptor, true),
            };
            states.push(state.unwrap_or_else(|errno| State::Done(Err(errno))));
        }
        let waited = wait(&mut states)?;

        let mut written = 0;
        for (subscription, state) in subscriptions.iter().zip(states) {
            let Some(result) = state.finish(waited) else { continue };
            let (kind, error) = match result {
                Ok(kind) => (kind, None),
                Err(errno) => (failed(subscription.kind), Some(errno)),
            };
            let event = Event { userdata: subscription.userdata, error, kind };
            let offset = u32::try_from(written * Event::SIZE).map_err(|_| Errno::Fault)?;
            // In bounds, as was checked.
            self.memory.write(events.wrapping_add(offset), &event.encode())?;
            written += 1;
        }
        self.memory.write_size(happened, written)
    }
}

/// How long it is until a clock shows a time, in nanoseconds.
fn time_left(
    clocks: &Mutex<Box<dyn Clocks>>,
    id: u32,
    timeout: u64,
    absolute: bool,
) -> Result<u64, Errno> {
    let id = ClockId::from_guest(id)?;
    if matches!(id, ClockId::ProcessCpuTime | ClockId::ThreadCpuTime) {
        // These stand still while the guest waits for them.
        return Err(Errno::NotSup);
    }
    if absolute { Ok(timeout.saturating_sub(lock(clocks).time(id)?)) } else { Ok(timeout) }
}

/// Begins to wait for a descriptor.
fn begin(descriptor: &Result<Arc<Descriptor>, Errno>, write: bool) -> Result<State<'_>, Errno> {
    let descriptor = descriptor.as_ref().map_err(|errno| *errno)?;
    descriptor.require(Rights::POLL_FD_READWRITE)?;
    let host = match (&descriptor.handle, write) {
        (Handle::Input(input), false) => match input.available() {
            Some(bytes) => return Ok(readable(bytes)),
            None => input.fd(),
        },
        (Handle::Output(output), true) => output.fd(),
        // A file never waits, not even at its end. Pipes and devices may.
        (Handle::File(file), _) if descriptor.filetype == FileType::RegularFile => {
            if write {
                return Ok(writable());
            }
            let position = (&mut &*file).stream_position()?;
            return Ok(readable(file.metadata()?.len().saturating_sub(position)));
        }
        (Handle::File(file), _) => Some(file.as_fd()),
        (Handle::Socket(socket), _) if !(socket.listens && write) => Some(socket.fd.as_fd()),
        _ => return Err(Errno::BadF),
    };
    Ok(match host {
        Some(fd) => State::Host(Waiting::new(fd, write)),
        // A stream without a descriptor never keeps anybody waiting.
        None if write => writable(),
        None => readable(1),
    })
}

fn readable(bytes: u64) -> State<'static> {
    State::Done(Ok(EventKind::FdRead { bytes, hangup: false }))
}

fn writable() -> State<'static> {
    State::Done(Ok(EventKind::FdWrite { hangup: false }))
}

/// The kind of the event that reports a failure.
fn failed(kind: SubscriptionKind) -> EventKind {
    match kind {
        SubscriptionKind::Clock { .. } => EventKind::Clock,
        SubscriptionKind::FdRead(_) => EventKind::FdRead { bytes: 0, hangup: false },
        SubscriptionKind::FdWrite(_) => EventKind::FdWrite { hangup: false },
    }
}

/// Waits until one of the states is over and returns how long that took, in
/// nanoseconds; the time of a timer that was waited for counts in full.
fn wait(states: &mut [State<'_>]) -> Result<u64, Errno> {
    let done = states.iter().any(|state| matches!(state, State::Done(_)));
    let timers = states.iter().filter_map(|state| match state {
        State::Timer(left) => Some(*left),
        _ => None,
    });
    let shortest = if done { Some(0) } else { timers.min() };
    let mut hosts: Vec<&mut State<'_>> =
        states.iter_mut().filter(|state| matches!(state, State::Host(_))).collect();
    if hosts.is_empty() {
        let left = shortest.unwrap_or(0);
        if left > 0 {
            std::thread::sleep(Duration::from_nanos(left));
        }
        return Ok(left);
    }

    let began = Instant::now();
    let mut waiting: Vec<Waiting<'_>> = hosts
        .iter()
        .filter_map(|state| match state {
            State::Host(waiting) => Some(waiting.again()),
            _ => None,
        })
        .collect();
    let waited = loop {
        let spent = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let left = shortest.map(|shortest| shortest.saturating_sub(spent));
        sys::wait(&mut waiting, left.map(Duration::from_nanos))?;
        let spent = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if waiting.iter().any(|one| one.ready) || shortest.is_some_and(|shortest| spent >= shortest)
        {
            break spent;
        }
    };
    for (state, seen) in hosts.iter_mut().zip(waiting) {
        **state = State::Host(seen);
    }
    Ok(waited)
}

impl State<'_> {
    /// What happened, if anything did after `waited` nanoseconds.
    fn finish(self, waited: u64) -> Option<Result<EventKind, Errno>> {
        match self {
            Self::Done(result) => Some(result),
            Self::Timer(left) => (left <= waited).then_some(Ok(EventKind::Clock)),
            Self::Host(seen) if !seen.ready => None,
            Self::Host(seen) if seen.is_write() => {
                Some(Ok(EventKind::FdWrite { hangup: seen.hangup }))
            }
            Self::Host(seen) => {
                let bytes = sys::readable_bytes(seen.fd());
                Some(Ok(EventKind::FdRead { bytes, hangup: seen.hangup }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::calls::testing::{Guest, OUT, ROOT};
    use crate::types::{Errno, FdFlags, OFlags, Snapshot};
    use std::time::{Duration, Instant};

    const SUBSCRIPTIONS: u32 = 1024;
    const EVENTS: u32 = 4096;

    fn clock(userdata: u8, id: u32, timeout: u64, absolute: bool) -> [u8; 48] {
        let mut record = [0; 48];
        record[0] = userdata;
        record[16..20].copy_from_slice(&id.to_le_bytes());
        record[24..32].copy_from_slice(&timeout.to_le_bytes());
        record[40] = u8::from(absolute);
        record
    }

    fn fd(userdata: u8, tag: u8, fd: u32) -> [u8; 48] {
        let mut record = [0; 48];
        record[0] = userdata;
        record[8] = tag;
        record[16..20].copy_from_slice(&fd.to_le_bytes());
        record
    }

    /// The events as (user value, error, kind, bytes).
    fn poll(guest: &mut Guest, all: &[[u8; 48]]) -> Result<Vec<(u8, u8, u8, u64)>, Errno> {
        guest.put(SUBSCRIPTIONS, all.concat());
        let count = u32::try_from(all.len()).unwrap();
        guest.call().poll_oneoff(SUBSCRIPTIONS, EVENTS, count, OUT)?;
        let events = (0..guest.u32_at(OUT)).map(|index| {
            let at = EVENTS + index * 32;
            let head = guest.bytes(at, 32);
            (head[0], head[8], head[10], guest.u64_at(at + 16))
        });
        Ok(events.collect())
    }

    #[test]
    fn timers_wait_and_the_shortest_wins() {
        let mut guest = Guest::new();
        let began = Instant::now();
        let events =
            poll(&mut guest, &[clock(1, 1, 60_000_000_000, false), clock(2, 0, 2_000_000, false)]);
        assert_eq!(events, Ok(vec![(2, 0, 0, 0)]));
        assert!(began.elapsed() >= Duration::from_millis(2));
        // A time that has passed, and two at once.
        let events = poll(&mut guest, &[clock(1, 0, 5, true), clock(2, 1, 0, false)]);
        assert_eq!(events, Ok(vec![(1, 0, 0, 0), (2, 0, 0, 0)]));
        guest.call().clock_time_get(1, 0, OUT).unwrap();
        let soon = guest.u64_at(OUT) + 3_000_000;
        assert_eq!(poll(&mut guest, &[clock(3, 1, soon, true)]), Ok(vec![(3, 0, 0, 0)]));
        guest.call().clock_time_get(1, 0, OUT).unwrap();
        assert!(guest.u64_at(OUT) >= soon);
    }

    #[test]
    fn files_and_streams_in_memory_are_ready() {
        let mut guest = Guest::with(|builder, _| {
            builder.stdin_bytes("abc");
        });
        let file = guest.create("file");
        guest.write(file, "12345").unwrap();
        guest.call().fd_seek(file, 1, 0, OUT).unwrap();
        let timer = clock(9, 1, 60_000_000_000, false);
        let events = poll(&mut guest, &[timer, fd(1, 1, 0), fd(2, 2, 1), fd(3, 1, file)]);
        assert_eq!(events, Ok(vec![(1, 0, 1, 3), (2, 0, 2, 0), (3, 0, 1, 4)]));
    }

    #[test]
    fn a_bad_subscription_is_an_event_and_a_bad_record_an_error() {
        let mut guest = Guest::new();
        let badf = u8::try_from(Errno::BadF.code()).unwrap();
        let events = poll(&mut guest, &[fd(1, 1, 77), fd(2, 2, 0), fd(3, 1, ROOT)]);
        assert_eq!(events, Ok(vec![(1, badf, 1, 0), (2, badf, 2, 0), (3, badf, 1, 0)]));
        assert_eq!(poll(&mut guest, &[fd(1, 7, 0)]), Err(Errno::Inval));
        assert_eq!(poll(&mut guest, &[]), Err(Errno::Inval));
        guest.memory = vec![0; 48 << 15];
        let many = guest.call().poll_oneoff(0, 0, super::MAX_SUBSCRIPTIONS + 1, OUT);
        assert_eq!(many, Err(Errno::Inval));
        guest.memory.truncate(65536);
        let mut call = guest.call();
        assert_eq!(call.poll_oneoff(0, 0, u32::MAX, OUT), Err(Errno::Fault));
        assert_eq!(call.poll_oneoff(SUBSCRIPTIONS, 65536 - 31, 1, OUT), Err(Errno::Fault));
    }

    #[test]
    fn a_pipe_is_waited_for_in_the_host() {
        let mut guest = Guest::new();
        let path = guest.host.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let pipe = guest.open("pipe", OFlags::empty(), FdFlags::NONBLOCK, false).unwrap();
        let timer = clock(1, 1, 1_000_000, false);
        assert_eq!(poll(&mut guest, &[fd(2, 1, pipe), timer]), Ok(vec![(1, 0, 0, 0)]));
        let mut writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::io::Write::write_all(&mut writer, b"four").unwrap();
        let timer = clock(1, 1, 60_000_000_000, false);
        assert_eq!(poll(&mut guest, &[fd(2, 1, pipe), timer]), Ok(vec![(2, 0, 1, 4)]));
        assert_eq!(guest.read(pipe, 9), Ok("four".into()));
        assert_eq!(guest.read(pipe, 9), Err(Errno::Again));
    }

    #[test]
    fn a_socket_and_a_stream_of_the_application_are_waited_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        struct Piped(std::io::PipeReader);
        impl crate::InputStream for Piped {
            fn read(&self, buffers: &mut [std::io::IoSliceMut<'_>]) -> std::io::Result<usize> {
                std::io::Read::read_vectored(&mut &self.0, buffers)
            }
            fn available(&self) -> Option<u64> {
                None
            }
            fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
                Some(std::os::fd::AsFd::as_fd(&self.0))
            }
        }
        let mut guest = Guest::with(|builder, _| {
            builder.stdin_stream(Piped(reader)).listener(listener);
        });
        let listener = ROOT + 1;
        let soon = clock(9, 1, 1_000_000, false);
        let late = clock(9, 1, 60_000_000_000, false);
        assert_eq!(poll(&mut guest, &[fd(1, 1, 0), fd(2, 1, listener), soon]).unwrap().len(), 1);
        let nonblock = u32::from(FdFlags::NONBLOCK.bits());
        guest.call().fd_fdstat_set_flags(0, nonblock).unwrap();
        assert_eq!(guest.read(0, 9), Err(Errno::Again));

        // Something happens while the guest waits.
        let peer = std::thread::scope(|scope| {
            let peer = scope.spawn(|| std::net::TcpStream::connect(address).unwrap());
            let events = poll(&mut guest, &[fd(1, 1, 0), fd(2, 1, listener), late]);
            assert_eq!(events, Ok(vec![(2, 0, 1, 1)]));
            peer.join().unwrap()
        });
        guest.call().sock_accept(listener, 0, OUT).unwrap();
        let socket = guest.u32_at(OUT);
        let both = [fd(1, 1, socket), fd(2, 2, socket), late];
        assert_eq!(poll(&mut guest, &both), Ok(vec![(2, 0, 2, 0)]));
        std::io::Write::write_all(&mut (&peer), b"abc").unwrap();
        while poll(&mut guest, &[fd(1, 1, socket), soon]).unwrap()[0].0 != 1 {}
        assert_eq!(poll(&mut guest, &[fd(1, 1, socket)]), Ok(vec![(1, 0, 1, 3)]));
        assert_eq!(poll(&mut guest, &[fd(1, 2, listener)]).unwrap()[0].1, 8);

        std::thread::scope(|scope| {
            scope.spawn(|| std::io::Write::write_all(&mut writer, b"12345").unwrap());
            assert_eq!(poll(&mut guest, &[fd(1, 1, 0), late]), Ok(vec![(1, 0, 1, 5)]));
        });
        assert_eq!(guest.read(0, 9), Ok("12345".into()));
        drop(writer);
        assert_eq!(poll(&mut guest, &[fd(1, 1, 0), late]), Ok(vec![(1, 0, 1, 0)]));
        assert_eq!(guest.read(0, 9), Ok(String::new()));
    }

    #[test]
    fn the_first_snapshot_has_longer_records() {
        let mut guest = Guest::new();
        guest.snapshot = Snapshot::Preview0;
        let mut record = [0; 56];
        record[0] = 6;
        record[24] = 1;
        record[32] = 1;
        guest.put(SUBSCRIPTIONS, record);
        guest.call().poll_oneoff(SUBSCRIPTIONS, EVENTS, 1, OUT).unwrap();
        assert_eq!((guest.u32_at(OUT), guest.u64_at(EVENTS)), (1, 6));
    }
}
