//! Trying again: with pauses that grow, and that chance shortens, so that a fleet which failed together
//! does not come back together.

use std::time::Duration;

use crate::Options;
use crate::error::{Error, Failure};

/// No pause is longer.
const LONGEST: Duration = Duration::from_secs(10);

/// Waits before attempt `failed + 1`.
pub(crate) async fn pause(options: &Options, failed: u32) {
    let doubled = options.backoff.saturating_mul(1 << failed.saturating_sub(1).min(16));
    let longest = doubled.min(LONGEST);
    let chance = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
    tokio::time::sleep(longest.mul_f64(1.0 - chance / 2.0)).await;
}

/// Gives one attempt its time.
pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(Failure::transient(format_args!("no answer for {limit:?}"))))
}

/// What a failure is to the caller, once it is not tried again.
pub(crate) fn conclude(what: &str, looked: &str, attempts: u32, failure: Failure) -> Error {
    let what = what.to_owned();
    match failure {
        Failure::NotFound => Error::NotFound { what },
        Failure::Unauthorized => Error::Unauthorized { what, looked: looked.to_owned() },
        Failure::Conflict => Error::Changed { what, attempts },
        Failure::TooLarge(bytes) => {
            Error::TooLarge { what, bytes, limit: crate::document::MAX_DOCUMENT }
        }
        Failure::Wrong { wanted, found } => {
            Error::WrongBytes { what, wanted, problem: format!("their digest is {found}") }
        }
        Failure::Transient(source) => Error::Unreachable { what, attempts, source },
        Failure::Permanent(source) => Error::Store { what, source },
    }
}

/// Tries until it works, or until it makes no sense to try again.
pub(crate) async fn retry<T>(
    options: &Options,
    limit: Duration,
    what: &str,
    looked: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, Failure>,
) -> Result<T, Error> {
    let mut failed = 0;
    loop {
        match within(limit, attempt()).await {
            Ok(value) => return Ok(value),
            Err(Failure::Transient(cause)) => {
                failed += 1;
                tracing::debug!(what, failed, %cause, "an attempt failed");
                if failed >= options.attempts {
                    return Err(conclude(what, looked, failed, Failure::Transient(cause)));
                }
                pause(options, failed).await;
            }
            Err(failure) => return Err(conclude(what, looked, failed + 1, failure)),
        }
    }
}
