//! What can go wrong with a store, worded for who must act. Nothing here repeats a credential, nor
//! the query of an address, which may hold one.

use std::fmt;
use std::time::Duration;

use cwasm_artifact::report::Report;

use crate::document::BlobDigest;
use crate::reference::Reference;

/// What another library said.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why something could not be pushed or pulled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What the environment says about the store cannot be used.
    #[error("cannot use the store of {what}")]
    Setup {
        /// What was asked for.
        what: String,
        /// What is wrong.
        #[source]
        source: Cause,
    },
    /// There is nothing of that name.
    #[error("there is no {what}: push it, or look for a typing mistake")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The store wants other credentials, or some.
    #[error("not allowed to use {what}; {looked}")]
    Unauthorized {
        /// What was asked for.
        what: String,
        /// Where credentials were looked for, and whether there were some.
        looked: String,
    },
    /// Of what is there, nothing runs on the host, or has the digest that was asked for.
    #[error("{what} has nothing for {wanted}; it has {}", list(there))]
    NothingForHost {
        /// What was asked for.
        what: String,
        /// The host, or the digest.
        wanted: String,
        /// What there is: targets, and CPU levels.
        there: Vec<String>,
    },
    /// The store gave other bytes than those that were asked for by their digest.
    #[error(
        "{what} is refused: the store gave other bytes than {wanted}, which were asked for: {problem}"
    )]
    WrongBytes {
        /// What was asked for.
        what: String,
        /// The name of the bytes.
        wanted: BlobDigest,
        /// How they differ.
        problem: String,
    },
    /// It is larger than this process is willing to read.
    #[error(
        "{what} is refused: it has {bytes} bytes, and at most {limit} are read; raise the limit if that is right"
    )]
    TooLarge {
        /// What was asked for.
        what: String,
        /// How large it is, or says to be.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A document in the store is none of those that belong there.
    #[error("{what} is not in the form of a store of artifacts: {problem}")]
    Malformed {
        /// What was asked for.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// It did not work often enough in a row.
    #[error("{what} cannot be reached: {attempts} attempts failed, the last one because of this")]
    Unreachable {
        /// What was asked for.
        what: String,
        /// How often it was tried.
        attempts: u32,
        /// Why the last attempt failed.
        #[source]
        source: Cause,
    },
    /// The whole took too long.
    #[error("{what} was given up after {limit:?}")]
    Timeout {
        /// What was asked for.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// The store refuses what trying again does not change.
    #[error("{what}: the store refuses")]
    Store {
        /// What was asked for.
        what: String,
        /// What it said.
        #[source]
        source: Cause,
    },
    /// Others pushed to the same name at the same time, again and again.
    #[error(
        "{what} was changed by others each time that it was to be written, {attempts} times: push again"
    )]
    Changed {
        /// What was asked for.
        what: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// Only tags can be pushed to.
    #[error("{what} names what is there by its digest, which cannot be replaced: push to a tag")]
    Fixed {
        /// What was asked for.
        what: String,
    },
    /// Two artifacts are to be pushed for the same target, CPU and ABI.
    #[error("two artifacts are for {needs}: push one of them, or use two tags")]
    Twice {
        /// For what.
        needs: String,
    },
    /// The artifact is not intact, or there is no reason to trust it, or it is not for the host.
    #[error("{what} is refused")]
    Refused {
        /// What was asked for.
        what: String,
        /// Everything that is wrong with it.
        #[source]
        source: Report,
    },
}

fn list(there: &[String]) -> String {
    if there.is_empty() { "no artifact of cwasm at all".to_owned() } else { there.join(", ") }
}

impl Error {
    pub(crate) fn setup(reference: &Reference, source: impl Into<Cause>) -> Self {
        Self::Setup { what: reference.to_string(), source: source.into() }
    }
}

/// What one attempt came to.
#[derive(Debug)]
pub(crate) enum Failure {
    NotFound,
    Unauthorized,
    /// Somebody else wrote meanwhile.
    Conflict,
    TooLarge(u64),
    /// Other bytes than those that were asked for.
    Wrong {
        wanted: BlobDigest,
        found: BlobDigest,
    },
    /// May go well the next time.
    Transient(Cause),
    Permanent(Cause),
}

impl Failure {
    /// A failure that may go well the next time.
    pub(crate) fn transient(problem: impl fmt::Display) -> Self {
        Self::Transient(without_queries(&problem.to_string()).into())
    }

    /// One that will not.
    pub(crate) fn permanent(problem: impl fmt::Display) -> Self {
        Self::Permanent(without_queries(&problem.to_string()).into())
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some repeat their cause.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Text without the queries and users of the addresses in it: both may be secret. And not longer than what
/// a person reads, since servers write some of it.
pub(crate) fn without_queries(text: &str) -> String {
    let mut out = String::new();
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 {
            out.push(' ');
        }
        match word.split_once("://") {
            Some((scheme, rest)) => {
                let end = rest.find(['?', '#']).unwrap_or(rest.len());
                let shown = &rest[..end];
                let host = shown.split('/').next().unwrap_or_default();
                let shown = host.rfind('@').map_or(shown, |at| &shown[at + 1..]);
                out.extend([scheme, "://", shown]);
                if end < rest.len() {
                    out.push_str("?...");
                }
            }
            None => out.push_str(word),
        }
    }
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = out.chars().take(400).map(shown).collect();
    if short.len() < out.len() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_in_an_address_is_left_out() {
        let text = "GET https://me:pw@host/a/b?sig=secret&x=1: status 403 (http://other/c)";
        let wanted = "GET https://host/a/b?... status 403 (http://other/c)";
        assert_eq!(without_queries(text), wanted);
        assert!(without_queries(&"x\n".repeat(1000)).len() < 500);
    }
}
