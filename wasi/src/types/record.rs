//! Records that a call writes to or reads from guest memory.

use super::{Errno, FdFlags, FileType, Rights, Snapshot};

/// Copies `bytes` to `offset` of a record under construction.
fn put<const N: usize>(record: &mut [u8], offset: usize, bytes: [u8; N]) {
    record[offset..offset + N].copy_from_slice(&bytes);
}

/// The `N` bytes at `offset` of a record.
fn get<const N: usize>(record: &[u8], offset: usize) -> [u8; N] {
    core::array::from_fn(|index| record[offset + index])
}

/// What `fd_fdstat_get` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FdStat {
    /// The kind of file.
    pub(crate) filetype: FileType,
    /// How it reads and writes.
    pub(crate) flags: FdFlags,
    /// What may be done with it.
    pub(crate) base: Rights,
    /// What may be done with what is opened through it.
    pub(crate) inheriting: Rights,
}

impl FdStat {
    /// The size of the record.
    pub(crate) const SIZE: usize = 24;

    /// The record in memory.
    #[must_use]
    pub(crate) fn encode(&self) -> [u8; Self::SIZE] {
        let mut record = [0; Self::SIZE];
        record[0] = self.filetype as u8;
        put(&mut record, 2, self.flags.bits().to_le_bytes());
        put(&mut record, 8, self.base.bits().to_le_bytes());
        put(&mut record, 16, self.inheriting.bits().to_le_bytes());
        record
    }
}

/// What `fd_filestat_get` and `path_filestat_get` tell. Times are in
/// nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileStat {
    /// The device that holds the file.
    pub(crate) device: u64,
    /// Its number on that device.
    pub(crate) inode: u64,
    /// Its kind.
    pub(crate) filetype: FileType,
    /// How many names it has.
    pub(crate) links: u64,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// The time of the last access.
    pub(crate) accessed: u64,
    /// The time of the last change of its contents.
    pub(crate) modified: u64,
    /// The time of the last change of its attributes.
    pub(crate) changed: u64,
}

impl FileStat {
    /// The size of the record in a snapshot.
    #[must_use]
    pub(crate) const fn size_in(snapshot: Snapshot) -> usize {
        match snapshot {
            Snapshot::Preview0 => 56,
            Snapshot::Preview1 => 64,
        }
    }

    /// The record in memory; the first [`FileStat::size_in`] bytes count.
    #[must_use]
    pub(crate) fn encode(&self, snapshot: Snapshot) -> [u8; 64] {
        let mut record = [0; 64];
        put(&mut record, 0, self.device.to_le_bytes());
        put(&mut record, 8, self.inode.to_le_bytes());
        record[16] = self.filetype as u8;
        // `linkcount` became 64 bits wide between the snapshots.
        let tail = match snapshot {
            Snapshot::Preview0 => {
                let links = u32::try_from(self.links).unwrap_or(u32::MAX);
                put(&mut record, 20, links.to_le_bytes());
                24
            }
            Snapshot::Preview1 => {
                put(&mut record, 24, self.links.to_le_bytes());
                32
            }
        };
        put(&mut record, tail, self.size.to_le_bytes());
        put(&mut record, tail + 8, self.accessed.to_le_bytes());
        put(&mut record, tail + 16, self.modified.to_le_bytes());
        put(&mut record, tail + 24, self.changed.to_le_bytes());
        record
    }
}

/// The head of a directory entry; the name follows it without a terminator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dirent {
    /// The cookie of the entry after this one.
    pub(crate) next: u64,
    /// The number of the file.
    pub(crate) inode: u64,
    /// The length of the name.
    pub(crate) name_len: u32,
    /// The kind of file.
    pub(crate) filetype: FileType,
}

impl Dirent {
    /// The size of the record.
    pub(crate) const SIZE: usize = 24;

    /// The record in memory.
    #[must_use]
    pub(crate) fn encode(&self) -> [u8; Self::SIZE] {
        let mut record = [0; Self::SIZE];
        put(&mut record, 0, self.next.to_le_bytes());
        put(&mut record, 8, self.inode.to_le_bytes());
        put(&mut record, 16, self.name_len.to_le_bytes());
        record[20] = self.filetype as u8;
        record
    }
}

/// What `fd_prestat_get` tells of a preopened directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prestat {
    /// The length of the name under which the guest knows it.
    pub(crate) name_len: u32,
}

impl Prestat {
    /// The size of the record.
    pub(crate) const SIZE: usize = 8;

    /// The record in memory. Its tag is `preopentype::dir`, the only one.
    #[must_use]
    pub(crate) fn encode(&self) -> [u8; Self::SIZE] {
        let mut record = [0; Self::SIZE];
        put(&mut record, 4, self.name_len.to_le_bytes());
        record
    }
}

/// Something that `poll_oneoff` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// A value that the event carries back.
    pub(crate) userdata: u64,
    /// What is waited for.
    pub(crate) kind: SubscriptionKind,
}

/// What a subscription waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubscriptionKind {
    /// A time.
    Clock {
        /// The number of the clock, not yet checked.
        id: u32,
        /// The time, in nanoseconds.
        timeout: u64,
        /// Whether `timeout` is a time of the clock rather than a duration.
        absolute: bool,
    },
    /// Data to read.
    FdRead(u32),
    /// Room to write.
    FdWrite(u32),
}

impl Subscription {
    /// The size of the record in a snapshot.
    #[must_use]
    pub(crate) const fn size_in(snapshot: Snapshot) -> usize {
        match snapshot {
            Snapshot::Preview0 => 56,
            Snapshot::Preview1 => 48,
        }
    }

    /// Reads a record of [`Subscription::size_in`] bytes.
    pub(crate) fn decode(snapshot: Snapshot, record: &[u8]) -> Result<Self, Errno> {
        if record.len() < Self::size_in(snapshot) {
            return Err(Errno::Fault);
        }
        let fd = u32::from_le_bytes(get(record, 16));
        let kind = match record[8] {
            0 => {
                // The first snapshot had a second user value before the clock.
                let (id, timeout, flags) = match snapshot {
                    Snapshot::Preview0 => (24, 32, 48),
                    Snapshot::Preview1 => (16, 24, 40),
                };
                let flags = u16::from_le_bytes(get(record, flags));
                if flags > 1 {
                    return Err(Errno::Inval);
                }
                SubscriptionKind::Clock {
                    id: u32::from_le_bytes(get(record, id)),
                    timeout: u64::from_le_bytes(get(record, timeout)),
                    absolute: flags == 1,
                }
            }
            1 => SubscriptionKind::FdRead(fd),
            2 => SubscriptionKind::FdWrite(fd),
            _ => return Err(Errno::Inval),
        };
        Ok(Self { userdata: u64::from_le_bytes(get(record, 0)), kind })
    }
}

/// Something that `poll_oneoff` saw happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// The value of the subscription.
    pub(crate) userdata: u64,
    /// Why the subscription failed, if it did.
    pub(crate) error: Option<Errno>,
    /// What happened.
    pub(crate) kind: EventKind,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// The time came.
    Clock,
    /// There is data to read.
    FdRead {
        /// How many bytes, as far as is known.
        bytes: u64,
        /// Whether the other side has gone.
        hangup: bool,
    },
    /// There is room to write.
    FdWrite {
        /// Whether the other side has gone.
        hangup: bool,
    },
}

impl Event {
    /// The size of the record.
    pub(crate) const SIZE: usize = 32;

    /// The record in memory.
    #[must_use]
    pub(crate) fn encode(&self) -> [u8; Self::SIZE] {
        let mut record = [0; Self::SIZE];
        put(&mut record, 0, self.userdata.to_le_bytes());
        put(&mut record, 8, self.error.map_or(0, Errno::code).to_le_bytes());
        let (tag, bytes, hangup) = match self.kind {
            EventKind::Clock => (0, 0, false),
            EventKind::FdRead { bytes, hangup } => (1, bytes, hangup),
            EventKind::FdWrite { hangup } => (2, 0, hangup),
        };
        record[10] = tag;
        put(&mut record, 16, bytes.to_le_bytes());
        put(&mut record, 24, u16::from(hangup).to_le_bytes());
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filestat_places_its_fields_by_snapshot() {
        let stat = FileStat { links: 3, size: 7, changed: 9, ..FileStat::default() };
        let one = stat.encode(Snapshot::Preview1);
        assert_eq!((one[24], one[32], one[56]), (3, 7, 9));
        let zero = stat.encode(Snapshot::Preview0);
        assert_eq!((zero[20], zero[24], zero[48]), (3, 7, 9));
        assert!(zero[FileStat::size_in(Snapshot::Preview0)..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn subscriptions_are_read_by_snapshot() {
        let mut record = [0; 56];
        record[0] = 5;
        put(&mut record, 16, 1_u32.to_le_bytes());
        put(&mut record, 24, 77_u64.to_le_bytes());
        put(&mut record, 40, 1_u16.to_le_bytes());
        let clock = SubscriptionKind::Clock { id: 1, timeout: 77, absolute: true };
        let read = Subscription::decode(Snapshot::Preview1, &record[..48]);
        assert_eq!(read, Ok(Subscription { userdata: 5, kind: clock }));

        // In the first snapshot the same bytes mean something else.
        put(&mut record, 32, 78_u64.to_le_bytes());
        let clock = SubscriptionKind::Clock { id: 77, timeout: 78, absolute: false };
        let read = Subscription::decode(Snapshot::Preview0, &record).map(|s| s.kind);
        assert_eq!(read, Ok(clock));

        assert_eq!(Subscription::decode(Snapshot::Preview1, &record[..47]), Err(Errno::Fault));
        record[8] = 3;
        assert_eq!(Subscription::decode(Snapshot::Preview1, &record), Err(Errno::Inval));
        record[8] = 2;
        let read = Subscription::decode(Snapshot::Preview1, &record).map(|s| s.kind);
        assert_eq!(read, Ok(SubscriptionKind::FdWrite(1)));
    }

    #[test]
    fn events_carry_error_and_kind() {
        let kind = EventKind::FdRead { bytes: 12, hangup: true };
        let record = Event { userdata: 1, error: Some(Errno::BadF), kind }.encode();
        assert_eq!((record[0], record[8], record[10], record[16], record[24]), (1, 8, 1, 12, 1));
    }
}
