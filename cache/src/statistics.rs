//! Counters: of this process, and in the directory the sums over all processes.
//!
//! A process counts in memory, and adds to the file when it drops its cache. The file has a
//! fixed length and is written in one piece, under a lock that nobody holds for longer than that.
//! What a process counted that is killed is lost.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// What happened in a cache.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Statistics {
            $($(#[doc = $doc])+ pub $name: u64,)*
        }

        impl Statistics {
            /// Names and values.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }

            fn set(&mut self, name: &str, value: u64) {
                match name {
                    $(stringify!($name) => self.$name = value,)*
                    _ => {}
                }
            }
        }

        /// Counters that threads share.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            /// The counts until now.
            pub(crate) fn get(&self) -> Statistics {
                Statistics { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl core::ops::Add for Statistics {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self { $($name: self.$name.saturating_add(other.$name),)* }
            }
        }
    };
}

counters! {
    /// Artifacts that were found.
    hits,
    /// Of these, artifacts that this process had loaded already and gave out again.
    shared_hits,
    /// Of these, artifacts that somebody else compiled while this process waited.
    waited,
    /// Artifacts that were not found.
    misses,
    /// Modules that were compiled.
    compiled,
    /// Artifacts that could not be written, and ran from memory.
    unwritten,
    /// Entries that were not what had been put there, and were set aside.
    corrupt,
    /// Entries that were removed to make room.
    pruned,
    /// Functions whose code was found.
    functions_reused,
    /// Functions that were compiled.
    functions_compiled,
    /// Artifacts that a level behind the directories had.
    level_hits,
    /// Artifacts that it had not.
    level_misses,
    /// Times that it could not be asked, or written to.
    level_failures,
    /// Artifacts that it had, and that were not trusted or were not those that were asked for.
    level_refused,
    /// Artifacts that were put there.
    level_written,
    /// About how many bytes the entries take.
    bytes,
}

/// Adds one to a counter.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How long a line is, so that writing over it replaces it.
const LINE: usize = 48;

fn parse(text: &str) -> Statistics {
    let mut statistics = Statistics::default();
    for line in text.lines() {
        if let Some((name, value)) = line.trim_end().split_once(' ') {
            statistics.set(name, value.trim_start().parse().unwrap_or(0));
        }
    }
    statistics
}

fn show(statistics: &Statistics) -> String {
    let named = statistics.named();
    named
        .iter()
        .map(|(name, value)| format!("{name:24}{value:>width$}\n", width = LINE - 25))
        .collect()
}

/// The sums in a file. Nothing, if it cannot be read.
pub(crate) fn read(path: &Path) -> Statistics {
    std::fs::read_to_string(path).map_or_else(|_| Statistics::default(), |text| parse(&text))
}

/// Changes the sums in a file. Returns what they are then; `None` if the file cannot be changed.
pub(crate) fn change(
    path: &Path,
    how: impl FnOnce(Statistics) -> Statistics,
) -> Option<Statistics> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).ok()?;
    // It is held for the time of one read and one write, unless its holder was stopped.
    let free = |_: &u32| match file.try_lock() {
        Ok(()) => true,
        Err(_) => {
            std::thread::sleep(Duration::from_millis(1));
            false
        }
    };
    (0..20).find(free)?;
    let mut text = vec![0; LINE * 64];
    let length = file.read_at(&mut text, 0).ok()?;
    text.truncate(length);
    let changed = how(parse(&String::from_utf8_lossy(&text)));
    file.write_all_at(show(&changed).as_bytes(), 0).ok()?;
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_kept_and_damage_counts_as_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("statistics");
        let some = Statistics { hits: 3, corrupt: u64::MAX, ..Statistics::default() };
        change(&path, |sums| sums + some).unwrap();
        change(&path, |sums| sums + some).unwrap();
        assert_eq!(read(&path), Statistics { hits: 6, corrupt: u64::MAX, ..some });
        std::fs::write(&path, b"hits\n\xff\xff nothing 7\nmisses 5\n").unwrap();
        let sums = change(&path, |sums| sums).unwrap();
        assert_eq!(sums, Statistics { misses: 5, ..Statistics::default() });
    }

    #[test]
    fn lines_have_one_length() {
        let full = Statistics { functions_compiled: u64::MAX, ..Statistics::default() };
        assert!(show(&full).lines().all(|line| line.len() == LINE - 1));
    }
}
