//! Why an artifact is refused: everything that is wrong with it, at once.
//!
//! A [`Report`] lists [`Problem`]s. Each says what was found, what was wanted,
//! and what to do about it. Problems that only mean "made for something else"
//! are told apart from damage by [`Report::is_miss`], so that a cache knows
//! when to compile again and when to sound an alarm.

use core::fmt;
use core::ops::Range;

use crate::abi::Fingerprint;
use crate::cpu::CpuFeatures;
use crate::digest::Digest;
use crate::signature::KeyId;

/// What a file that is no artifact seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resemblance {
    /// It has no bytes.
    Empty,
    /// A WebAssembly module.
    WasmModule,
    /// A WebAssembly component.
    WasmComponent,
    /// Text.
    Text,
    /// An artifact of Wasmtime, which uses the same suffix.
    Wasmtime,
    /// Some other ELF file.
    Elf,
    /// None of these.
    Unknown,
}

impl Resemblance {
    /// What a file seems to be, by its first bytes.
    #[must_use]
    pub fn of(file: &[u8]) -> Self {
        const WASMTIME_SECTION: &[u8] = b".wasmtime.engine";
        if file.is_empty() {
            Self::Empty
        } else if file.starts_with(b"\0asm") {
            // Version 1 is a core module; components have a layer number.
            if file.get(6..8) == Some(&[1, 0]) { Self::WasmComponent } else { Self::WasmModule }
        } else if file.starts_with(b"\x7fELF") {
            if file.windows(WASMTIME_SECTION.len()).any(|window| window == WASMTIME_SECTION) {
                Self::Wasmtime
            } else {
                Self::Elf
            }
        } else if core::str::from_utf8(&file[..file.len().min(512)])
            .map_or_else(|error| error.error_len().is_none(), |_| true)
            && !file[..file.len().min(512)].contains(&0)
        {
            Self::Text
        } else {
            Self::Unknown
        }
    }
}

impl fmt::Display for Resemblance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the file is empty",
            Self::WasmModule => "it is a WebAssembly module: compile it with `cwasm compile`",
            Self::WasmComponent => {
                "it is a WebAssembly component: extract its core modules and compile those"
            }
            Self::Text => "it is text: if it is a .wat module, compile it with `cwasm compile`",
            Self::Wasmtime => {
                "it is an artifact of Wasmtime: compile the wasm it was made from with `cwasm compile`"
            }
            Self::Elf => "it is an ELF file without a cwasm header: check the path",
            Self::Unknown => "its first bytes are not those of any known file: check the path",
        })
    }
}

/// One thing that is wrong with an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The file is something else.
    NotAnArtifact(Resemblance),
    /// The file ends too early.
    Truncated {
        /// How long it is, in bytes.
        length: u64,
        /// How long it should be.
        wanted: u64,
    },
    /// The file goes on behind its end.
    TrailingBytes {
        /// How long it is, in bytes.
        length: u64,
        /// How long it should be.
        wanted: u64,
    },
    /// The format has another version.
    FormatVersion {
        /// The version of the file.
        found: u32,
        /// The version that this loader reads.
        wanted: u32,
        /// The version of the compiler that wrote the file.
        compiler: String,
    },
    /// The code was compiled for another ABI.
    Abi {
        /// The fingerprint in the file.
        found: Fingerprint,
        /// The fingerprint of this loader.
        wanted: Fingerprint,
        /// The version of the compiler that wrote the file.
        compiler: String,
    },
    /// The code was compiled for another machine.
    OtherTarget {
        /// The target triple in the file.
        found: String,
        /// The target triple of this process.
        wanted: String,
    },
    /// This CPU lacks instructions that the code uses.
    MissingCpuFeatures {
        /// What it lacks.
        missing: CpuFeatures,
    },
    /// A setting that this loader does not know.
    UnknownSettings {
        /// The bits without a meaning.
        bits: u64,
    },
    /// The front of the file does not match its root digest.
    CorruptFront,
    /// A chunk of the file does not match its leaf of the digest.
    CorruptChunk {
        /// The file offsets that the leaf covers.
        range: Range<u64>,
        /// The sections that it touches.
        sections: Vec<&'static str>,
    },
    /// The digest is right, and what it covers makes no sense.
    Invalid {
        /// The section.
        section: &'static str,
        /// The record in it.
        record: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The signature area is not as it was written.
    CorruptSignatures,
    /// The signature area is as it was written, and no list of signatures.
    InvalidSignatures {
        /// What is wrong.
        what: &'static str,
    },
    /// The file is another artifact than the one that is trusted.
    Untrusted {
        /// Its digest.
        found: Digest,
        /// The digest that was asked for.
        wanted: Digest,
    },
    /// The file has no signature: nobody signed it, or somebody removed the signatures.
    Unsigned {
        /// The keys that are trusted.
        wanted: Vec<KeyId>,
    },
    /// Only keys that are not trusted signed the file.
    UntrustedSigners {
        /// The keys that are said to have signed it.
        found: Vec<KeyId>,
        /// The keys that are trusted.
        wanted: Vec<KeyId>,
    },
    /// A signature says that it is by a trusted key, and is not one of this artifact.
    BadSignature {
        /// The trusted key.
        key: KeyId,
    },
}

impl Problem {
    /// Whether the file is intact and merely made for another loader or host.
    #[must_use]
    pub fn is_miss(&self) -> bool {
        matches!(
            self,
            Self::FormatVersion { .. }
                | Self::Abi { .. }
                | Self::OtherTarget { .. }
                | Self::MissingCpuFeatures { .. }
                | Self::UnknownSettings { .. }
        )
    }

    /// One word for the kind of problem, for programs that read reports.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotAnArtifact(_) => "not-an-artifact",
            Self::Truncated { .. } => "truncated",
            Self::TrailingBytes { .. } => "trailing-bytes",
            Self::FormatVersion { .. } | Self::Abi { .. } | Self::UnknownSettings { .. } => "stale",
            Self::OtherTarget { .. } => "other-target",
            Self::MissingCpuFeatures { .. } => "missing-cpu-features",
            Self::CorruptFront | Self::CorruptChunk { .. } | Self::CorruptSignatures => "corrupt",
            Self::Invalid { .. } | Self::InvalidSignatures { .. } => "invalid",
            Self::Untrusted { .. } | Self::UntrustedSigners { .. } => "untrusted",
            Self::Unsigned { .. } => "unsigned",
            Self::BadSignature { .. } => "bad-signature",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotAnArtifact(_) => "load a file that `cwasm compile` wrote",
            Self::Truncated { .. } | Self::TrailingBytes { .. } => {
                "copy the file again, or recompile with `cwasm compile`"
            }
            Self::FormatVersion { .. } | Self::Abi { .. } | Self::UnknownSettings { .. } => {
                "recompile with the `cwasm compile` that belongs to this loader"
            }
            Self::OtherTarget { .. } => "recompile with `cwasm compile --target` for this host",
            Self::MissingCpuFeatures { .. } => {
                "recompile with a lower `cwasm compile --cpu`, or run on a newer CPU"
            }
            Self::CorruptFront | Self::CorruptChunk { .. } | Self::CorruptSignatures => {
                "restore the file from its source, or recompile with `cwasm compile`; do not run it"
            }
            Self::Invalid { .. } => {
                "do not run it: its maker is broken or hostile; recompile with `cwasm compile`"
            }
            Self::InvalidSignatures { .. } => {
                "restore the file from its source, or use the `cwasm` that belongs to its maker's"
            }
            Self::Untrusted { .. } => {
                "find out where the file came from before you trust its digest"
            }
            Self::Unsigned { .. } => {
                "get the signed file from its maker, or sign it with `cwasm sign` if you are"
            }
            Self::UntrustedSigners { .. } => {
                "find out whose keys these are before you trust one with `--key`"
            }
            Self::BadSignature { .. } => {
                "do not run it: get the file and its signature from its maker again"
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnArtifact(resemblance) => write!(f, "not a cwasm artifact: {resemblance}"),
            Self::Truncated { length, wanted } => {
                write!(f, "truncated: it has {length} of {wanted} bytes")
            }
            Self::TrailingBytes { length, wanted } => {
                write!(f, "it has {length} bytes and should end after {wanted}")
            }
            Self::FormatVersion { found, wanted, compiler } => write!(
                f,
                "built by cwasm {compiler} in format {found}, and this loader reads format {wanted}"
            ),
            Self::Abi { found, wanted, compiler } => write!(
                f,
                "built by cwasm {compiler} for ABI {found}, and this loader has ABI {wanted}"
            ),
            Self::OtherTarget { found, wanted } => {
                write!(f, "built for {found}, and this host is {wanted}")
            }
            Self::MissingCpuFeatures { missing } => {
                write!(f, "its code needs CPU features that this host lacks: {missing}")
            }
            Self::UnknownSettings { bits } => {
                write!(f, "built with settings that this loader does not know ({bits:#x})")
            }
            Self::CorruptFront => f.write_str(
                "corrupt: the header or the digests behind it (file offset 0 up to the first section) do not match the root digest",
            ),
            Self::CorruptChunk { range, sections } => write!(
                f,
                "corrupt: bytes {:#x} to {:#x} do not match their digest ({})",
                range.start,
                range.end,
                if sections.is_empty() { "symbols or section headers".to_owned() } else { sections.join(", ") }
            ),
            Self::Invalid { section, record, what } => {
                write!(f, "invalid: record {record} of {section}: {what}")
            }
            Self::CorruptSignatures => f.write_str(
                "corrupt: the signature area (file offset 0x340) does not match its checksum",
            ),
            Self::InvalidSignatures { what } => {
                write!(f, "invalid: the signature area (file offset 0x340): {what}")
            }
            Self::Untrusted { found, wanted } => {
                write!(f, "untrusted: its digest is {found}, and {wanted} was asked for")
            }
            Self::Unsigned { wanted } => {
                write!(f, "unsigned: a signature by {} was asked for", Keys(wanted))
            }
            Self::UntrustedSigners { found, wanted } => write!(
                f,
                "untrusted: it is signed by {}, and a signature by {} was asked for",
                Keys(found),
                Keys(wanted)
            ),
            Self::BadSignature { key } => write!(
                f,
                "bad signature: the one by the key {key} is not of this artifact; it was taken from another, or somebody changed it"
            ),
        }
    }
}

impl core::error::Error for Problem {}

/// Ids of keys in a sentence.
struct Keys<'a>(&'a [KeyId]);

impl fmt::Display for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("no key at all"),
            [key] => write!(f, "the key {key}"),
            [first, rest @ ..] => {
                write!(f, "the keys {first}")?;
                rest.iter().try_for_each(|key| write!(f, ", {key}"))
            }
        }
    }
}

/// Why an artifact is refused. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    problems: Vec<Problem>,
}

impl Report {
    /// A report, if there is anything to report.
    #[must_use]
    pub fn new(problems: Vec<Problem>) -> Option<Self> {
        (!problems.is_empty()).then_some(Self { problems })
    }

    /// Everything that is wrong.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether the file is intact and merely made for another loader or host:
    /// for a cache, a miss and not a failure.
    #[must_use]
    pub fn is_miss(&self) -> bool {
        self.problems.iter().all(Problem::is_miss)
    }

    /// This report with one more problem.
    #[must_use]
    pub fn with(mut self, problem: Problem) -> Self {
        self.problems.push(problem);
        self
    }
}

impl From<Problem> for Report {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for Report {
    /// One line per problem, each with its remedy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}; {}", problem.remedy())?;
        }
        Ok(())
    }
}

impl core::error::Error for Report {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_recognised() {
        for (file, wanted) in [
            (&b""[..], Resemblance::Empty),
            (b"\0asm\x01\0\0\0", Resemblance::WasmModule),
            (b"\0asm\x0d\0\x01\0", Resemblance::WasmComponent),
            (b"(module)", Resemblance::Text),
            (b"\x7fELF....", Resemblance::Elf),
            (b"\x7fELF....\0.wasmtime.engine\0", Resemblance::Wasmtime),
            (b"\xff\xfe\0\0", Resemblance::Unknown),
        ] {
            assert_eq!(Resemblance::of(file), wanted);
        }
    }

    #[test]
    fn only_what_is_made_for_something_else_is_a_miss() {
        let other = Problem::OtherTarget { found: "a".into(), wanted: "b".into() };
        assert!(Report::from(other.clone()).is_miss());
        assert!(!Report::from(other).with(Problem::CorruptFront).is_miss());
    }
}
