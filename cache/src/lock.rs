//! One compiles, the others wait.
//!
//! The lock is that of an open file (`flock`), so the system releases it when its holder ends,
//! however it ends. There are 256 lock files, which are never removed: two
//! entries may share one, which costs a wait and nothing else. Nobody waits
//! forever: after a time, who waits compiles too. Both then publish the same bytes.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use cwasm_artifact::hex::Hex;

use crate::key::Key;
use crate::layer::Layer;

/// How waiting ended.
#[derive(Debug)]
pub(crate) enum Waited<T> {
    /// The lock is held until the file is closed.
    Locked(#[expect(dead_code, reason = "closing it releases the lock")] File),
    /// Somebody else made what was waited for.
    Appeared(T),
    /// It takes too long, or locks do not work here.
    GaveUp,
}

/// Waits for the lock of an entry, or until `look` finds it, at most for `limit`.
pub(crate) fn wait<T, E>(
    layer: &Layer,
    key: &Key,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Waited<T>, E> {
    let path = layer.entries.join("locks").join(Hex(&key.0[..1]).to_string());
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let Ok(file) = file else { return Ok(Waited::GaveUp) };
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match file.try_lock() {
            Ok(()) => {
                // The previous holder may have made it since the caller looked.
                return Ok(match look()? {
                    Some(found) => Waited::Appeared(found),
                    None => Waited::Locked(file),
                });
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(_)) => return Ok(Waited::GaveUp),
        }
        if let Some(found) = look()? {
            return Ok(Waited::Appeared(found));
        }
        if start.elapsed() >= limit {
            return Ok(Waited::GaveUp);
        }
        std::thread::sleep(pause.min(limit));
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
