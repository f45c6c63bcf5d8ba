//! Signals: how `proc_raise` and the host end a guest.

use super::Errno;
use core::fmt;

/// A signal that ends a guest, or that it raises.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(u8);

/// Names in the order of preview 1's numbers, from 1. From 16 on, numbers are
/// one less than those of Linux, which has a signal of its own there.
const NAMES: [&str; 30] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "POLL", "PWR", "SYS",
];

impl Signal {
    /// The guest ended itself by `abort`.
    pub const ABRT: Self = Self(6);
    /// The guest was killed.
    pub const KILL: Self = Self(9);
    /// The guest wrote to a pipe that nobody reads.
    pub const PIPE: Self = Self(13);
    /// The guest called something that it should not have.
    pub const SYS: Self = Self(30);

    /// The meaning of a `signal` argument that is not 0.
    pub(crate) fn from_guest(number: u32) -> Result<Self, Errno> {
        let number = u8::try_from(number).map_err(|_| Errno::Inval)?;
        if number == 0 || usize::from(number) > NAMES.len() {
            return Err(Errno::Inval);
        }
        Ok(Self(number))
    }

    /// The name without `SIG`, such as `PIPE`.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0) - 1]
    }

    /// The number of the signal on Linux. A shell shows a program that it ended
    /// as one with the exit status of 128 and this number.
    #[must_use]
    pub fn linux_number(self) -> u8 {
        if self.0 < 16 { self.0 } else { self.0 + 1 }
    }

    /// Whether it stops a program until another signal lets it go on.
    pub(crate) fn stops(self) -> bool {
        matches!(self.name(), "STOP" | "TSTP" | "TTIN" | "TTOU")
    }

    /// Whether it ends a program that does not handle it.
    pub(crate) fn ends(self) -> bool {
        !self.stops() && !matches!(self.name(), "CHLD" | "CONT" | "URG" | "WINCH")
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIG{}", self.name())
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
