//! Choosing one artifact of several: the best that a host can load.
//!
//! A module may exist for several targets, CPUs and ABIs. Where they are kept, in a bundle or in a
//! store, what each needs is known before it is read. The choice is no reason to trust
//! anything: what was chosen is checked like any other artifact.

use core::fmt;

use crate::abi::Fingerprint;
use crate::check::Host;
use crate::cpu::{Arch, CpuFeatures, CpuLevel};
use crate::header::{FORMAT_VERSION, Header, MAGIC, padded_text};

/// What an artifact asks of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The version of the file format.
    pub format: u32,
    /// The ABI.
    pub abi: Fingerprint,
    /// The target triple.
    pub target: String,
    /// The features that its code uses.
    pub cpu_features: CpuFeatures,
    /// The level that it was compiled for, whose features it need not all use.
    pub cpu_level: String,
}

impl Needs {
    /// What the header at the front of a file says; `None` if there is no header of this format.
    #[must_use]
    pub fn stated_in(front: &[u8]) -> Option<Self> {
        let header = Header::of(front)?;
        if header.prefix.magic != MAGIC || header.prefix.format_version.get() != FORMAT_VERSION {
            return None;
        }
        Some(Self {
            format: FORMAT_VERSION,
            abi: Fingerprint(header.prefix.abi),
            target: padded_text(&header.prefix.target),
            cpu_features: CpuFeatures::from_bits(header.cpu_features.get()),
            cpu_level: padded_text(&header.cpu_level),
        })
    }

    /// Whether a host has all of it.
    #[must_use]
    pub fn are_met_by(&self, host: &Host) -> bool {
        self.format == FORMAT_VERSION
            && self.abi == host.abi
            && self.target == host.target
            && host.cpu_features.contains(self.cpu_features)
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The header calls the baseline by its name on x86-64, whatever the target.
        let other = self.cpu_level == CpuLevel::Baseline.name()
            && Arch::of_triple(&self.target) != Some(Arch::X86_64);
        let level = if other { "baseline" } else { &self.cpu_level };
        write!(f, "{} ({level})", self.target)
    }
}

/// The best of several for a host: of those that it can load, the one that uses most of
/// its CPU, and the first of equals.
pub fn best<T>(host: &Host, candidates: impl IntoIterator<Item = (T, Needs)>) -> Option<T> {
    let mut best: Option<(T, u32)> = None;
    for (candidate, needs) in candidates {
        let count = needs.cpu_features.bits().count_ones();
        let better = best.as_ref().is_none_or(|(_, most)| count > *most);
        if better && needs.are_met_by(host) {
            best = Some((candidate, count));
        }
    }
    best.map(|(candidate, _)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Arch, CpuLevel};

    fn needs(level: CpuLevel) -> Needs {
        Needs {
            format: FORMAT_VERSION,
            abi: crate::abi::fingerprint(),
            target: "x86_64-unknown-linux-gnu".to_owned(),
            cpu_features: level.features(Arch::X86_64).unwrap(),
            cpu_level: level.to_string(),
        }
    }

    #[test]
    fn the_most_of_what_the_host_has_is_chosen_in_any_order() {
        let levels =
            [CpuLevel::X86_64V2, CpuLevel::X86_64V4, CpuLevel::Baseline, CpuLevel::X86_64V3];
        let host = |level| Host {
            abi: crate::abi::fingerprint(),
            target: "x86_64-unknown-linux-gnu".to_owned(),
            cpu_features: needs(level).cpu_features,
        };
        for level in levels {
            let found = best(&host(level), levels.map(|level| (level, needs(level))));
            assert_eq!(found, Some(level));
        }
        let host = host(CpuLevel::X86_64V3);
        assert_eq!(best(&host, [(1, needs(CpuLevel::X86_64V4))]), None);
        let other =
            Needs { target: "aarch64-unknown-linux-gnu".into(), ..needs(CpuLevel::Baseline) };
        assert_eq!(best(&host, [(1, other)]), None);
        let other = Needs { abi: Fingerprint([0; 32]), ..needs(CpuLevel::Baseline) };
        assert_eq!(best(&host, [(1, other)]), None);
        let other = Needs { format: 1, ..needs(CpuLevel::Baseline) };
        assert_eq!(best(&host, [(1, other)]), None);
    }
}
