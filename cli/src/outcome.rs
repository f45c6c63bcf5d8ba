//! How a command ended, and the exit code that says so.

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It did what was asked for.
    Done,
    /// Something that was given is wrong; the user has been told what.
    Failed,
    /// The program that was run ended itself with a status.
    Exited(u32),
    /// A signal ended the program that was run, as it would a native one.
    Signaled(u8),
    /// The program that was run trapped; the user has been told where.
    Trapped,
}

/// The exit code of a trap: that of a process which is ended by `SIGABRT`.
pub(crate) const TRAPPED: u8 = 134;

/// A mistake in the command line that only shows once it is understood. It is
/// reported like those that the parser finds, with the same exit code.
pub(crate) fn usage(message: impl std::fmt::Display) -> anyhow::Error {
    clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, format!("{message}\n")).into()
}

impl Outcome {
    /// The exit code of this process.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            // A parent sees eight bits. A failure must not look like a success in them.
            Self::Exited(status) => match u8::try_from(status & 0xff) {
                Ok(0) if status != 0 => 1,
                Ok(status) => status,
                Err(_) => 1,
            },
            // As a shell shows a process that a signal ended.
            Self::Signaled(number) => number.saturating_add(128),
            Self::Trapped => TRAPPED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_never_looks_like_a_success() {
        let code = |status| Outcome::Exited(status).exit_code();
        assert_eq!([0, 7, 0x107, 256].map(code), [0, 7, 7, 1]);
    }
}
