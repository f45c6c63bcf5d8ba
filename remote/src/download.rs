//! Bringing a blob: in pieces, within a limit, from where it stopped when it stops.

use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use crate::backend::Backend;
use crate::document::{BlobDigest, Descriptor};
use crate::error::{Error, Failure};
use crate::retry::{conclude, pause, within};
use crate::{Options, Progress};

/// A download that got so much further since it failed the last time is not stuck.
const PROGRESS: usize = 256 << 10;

/// The bytes of a blob, which are those that its descriptor asks for.
pub(crate) async fn blob(
    backend: &Backend,
    what: &str,
    descriptor: &Descriptor,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<u8>, Error> {
    let (bytes, limit) = (descriptor.size, options.max_bytes);
    if bytes > limit {
        return Err(Error::TooLarge { what: what.to_owned(), bytes, limit });
    }
    progress.start(bytes);
    let mut download =
        Download { descriptor, bytes: Vec::new(), hash: Sha256::new(), told: 0, progress };
    let mut failed = 0;
    loop {
        let before = download.bytes.len();
        match download.attempt(backend, options).await {
            Ok(()) => return download.finish(what),
            Err(Failure::Transient(cause)) => {
                let now = download.bytes.len();
                failed = if now >= before + PROGRESS { 1 } else { failed + 1 };
                tracing::debug!(what, failed, bytes = now, %cause, "a download stopped");
                if failed >= options.attempts {
                    let failure = Failure::Transient(cause);
                    return Err(conclude(what, backend.looked(), failed, failure));
                }
                if now == before {
                    // Perhaps the store cannot begin in the middle: do without.
                    download.restart();
                }
                pause(options, failed).await;
            }
            Err(failure) => return Err(conclude(what, backend.looked(), failed + 1, failure)),
        }
    }
}

struct Download<'a> {
    descriptor: &'a Descriptor,
    bytes: Vec<u8>,
    hash: Sha256,
    /// How much the progress was told.
    told: u64,
    progress: &'a dyn Progress,
}

impl Download<'_> {
    /// Reads on from where it stopped. There is an end to it: nobody sends more than the descriptor says.
    async fn attempt(&mut self, backend: &Backend, options: &Options) -> Result<(), Failure> {
        let from = self.bytes.len() as u64;
        let opened = within(options.timeout, backend.blob(self.descriptor, from));
        let (start, mut stream) = opened.await?;
        if start != from {
            self.restart();
        }
        loop {
            let next = within(options.timeout, async { Ok(stream.next().await) }).await?;
            let have = self.bytes.len() as u64;
            match next {
                Some(Ok(part)) => {
                    self.add(&part);
                    if self.bytes.len() as u64 > self.descriptor.size {
                        return Ok(());
                    }
                }
                // Once all is there, the digest decides, and not how the connection ended.
                _ if have == self.descriptor.size => return Ok(()),
                Some(Err(problem)) => {
                    return Err(Failure::transient(format_args!(
                        "the connection ended after {have} of {} bytes: {problem}",
                        self.descriptor.size
                    )));
                }
                None => {
                    return Err(Failure::transient(format_args!(
                        "it ended after {have} of {} bytes",
                        self.descriptor.size
                    )));
                }
            }
        }
    }

    fn add(&mut self, part: &[u8]) {
        self.hash.update(part);
        self.bytes.extend_from_slice(part);
        let have = self.bytes.len() as u64;
        self.progress.advance(have.saturating_sub(self.told));
        self.told = self.told.max(have);
    }

    fn restart(&mut self) {
        self.bytes.clear();
        self.hash = Sha256::new();
    }

    fn finish(self, what: &str) -> Result<Vec<u8>, Error> {
        let wanted = self.descriptor.digest;
        let found = BlobDigest(self.hash.finalize().into());
        let problem = if self.bytes.len() as u64 > self.descriptor.size {
            format!("they go on behind the end, after {} bytes", self.descriptor.size)
        } else if found != wanted {
            format!("their digest is {found}")
        } else {
            return Ok(self.bytes);
        };
        Err(Error::WrongBytes { what: what.to_owned(), wanted, problem })
    }
}
