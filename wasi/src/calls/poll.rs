//! `poll_oneoff`: waiting for times, for data and for room.

use super::Call;
use crate::ctx::{Clocks, WasiCtx};
use crate::guest;
use crate::stdio::HostStreams;
use crate::sys::{self, Waiting};
use crate::table::{Descriptor, FdTable, Handle};
use crate::types::{ClockId, Errno, Event, EventKind, FileType, Subscription, SubscriptionKind};
use core::time::Duration;
use std::io::Seek;
use std::os::fd::AsFd;
use std::time::Instant;

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
        guest::check(self.memory, happened, 4)?;
        let array = |size: usize| {
            let size = u64::try_from(size).map_err(|_| Errno::Fault)?;
            u32::try_from(u64::from(count) * size).map_err(|_| Errno::Fault)
        };
        let size = Subscription::size_in(self.snapshot);
        let records = guest::bytes(self.memory, subscriptions, array(size)?)?;
        let events_len = array(Event::SIZE)?;
        guest::bytes(self.memory, events, events_len)?;
        let subscriptions = records
            .chunks_exact(size)
            .map(|record| Subscription::decode(self.snapshot, record))
            .collect::<Result<Vec<_>, _>>()?;

        let WasiCtx { table, clocks, .. } = &mut *self.ctx;
        let streams = HostStreams::new();
        let mut states = Vec::with_capacity(subscriptions.len());
        for subscription in &subscriptions {
            states.push(match subscription.kind {
                SubscriptionKind::Clock { id, timeout, absolute } => {
                    match time_left(clocks, id, timeout, absolute) {
                        Ok(left) => State::Timer(left),
                        Err(errno) => State::Done(Err(errno)),
                    }
                }
                SubscriptionKind::FdRead(fd) => begin(table, &streams, fd, false),
                SubscriptionKind::FdWrite(fd) => begin(table, &streams, fd, true),
            });
        }
        let waited = wait(&mut states)?;

        let buffer = guest::bytes_mut(self.memory, events, events_len)?;
        let mut written = 0;
        for (subscription, state) in subscriptions.iter().zip(states) {
            let Some(result) = state.finish(waited) else { continue };
            let (kind, error) = match result {
                Ok(kind) => (kind, None),
                Err(errno) => (failed(subscription.kind), Some(errno)),
            };
            let event = Event { userdata: subscription.userdata, error, kind };
            let start = written * Event::SIZE;
            buffer[start..start + Event::SIZE].copy_from_slice(&event.encode());
            written += 1;
        }
        guest::write_size(self.memory, happened, written)
    }
}

/// How long it is until a clock shows a time, in nanoseconds.
fn time_left(
    clocks: &mut Box<dyn Clocks>,
    id: u32,
    timeout: u64,
    absolute: bool,
) -> Result<u64, Errno> {
    let id = ClockId::from_guest(id)?;
    if matches!(id, ClockId::ProcessCpuTime | ClockId::ThreadCpuTime) {
        // These stand still while the guest waits for them.
        return Err(Errno::NotSup);
    }
    if absolute { Ok(timeout.saturating_sub(clocks.time(id)?)) } else { Ok(timeout) }
}

/// Begins to wait for a descriptor.
fn begin<'fd>(table: &'fd FdTable, streams: &'fd HostStreams, fd: u32, write: bool) -> State<'fd> {
    match table.get(fd).and_then(|descriptor| begin_on(descriptor, streams, write)) {
        Ok(state) => state,
        Err(errno) => State::Done(Err(errno)),
    }
}

fn begin_on<'fd>(
    descriptor: &'fd Descriptor,
    streams: &'fd HostStreams,
    write: bool,
) -> Result<State<'fd>, Errno> {
    let host = match (&descriptor.handle, write) {
        (Handle::Input(input), false) => match input.readable() {
            Some(bytes) => return Ok(readable(bytes)),
            None => streams.of_input(input),
        },
        (Handle::Output(output), true) => streams.of_output(output),
        // A file never waits, not even at its end. Pipes and devices may.
        (Handle::File(file), _) if descriptor.filetype == FileType::RegularFile => {
            if write {
                return Ok(writable());
            }
            let position = (&mut &*file).stream_position()?;
            return Ok(readable(file.metadata()?.len().saturating_sub(position)));
        }
        (Handle::File(file), _) => Some(file.as_fd()),
        _ => return Err(Errno::BadF),
    };
    Ok(match host {
        Some(fd) => State::Host(Waiting::new(fd, write)),
        None => writable(),
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
