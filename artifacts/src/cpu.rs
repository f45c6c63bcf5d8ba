//! CPU features: what code may need, what a host has, and the named levels.
//!
//! An artifact records a set of features; a loader compares it with its
//! host's. Features are bits of a `u64` in the header, so a bit never changes
//! its meaning within a format version.

use core::fmt;

/// An instruction-set architecture that artifacts exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// x86-64.
    X86_64,
    /// AArch64.
    Aarch64,
    /// RISC-V with 64 bits.
    Riscv64,
    /// IBM Z.
    S390x,
}

impl Arch {
    /// The architecture that a target triple begins with, if it is supported.
    #[must_use]
    pub fn of_triple(triple: &str) -> Option<Self> {
        match triple.split('-').next()? {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            // The extensions of the base, in a triple.
            "riscv64" | "riscv64gc" => Some(Self::Riscv64),
            "s390x" => Some(Self::S390x),
            _ => None,
        }
    }

    /// The architecture of this process, if it is supported.
    #[must_use]
    pub fn host() -> Option<Self> {
        Self::of_triple(std::env::consts::ARCH)
    }

    /// The largest page size of hosts of this architecture, in bytes. Text and
    /// memory images are aligned to it.
    #[must_use]
    pub const fn max_page_size(self) -> u32 {
        match self {
            Self::X86_64 | Self::Riscv64 | Self::S390x => 4096,
            Self::Aarch64 => 65536,
        }
    }

    /// Whether its object files have the most significant byte first.
    #[must_use]
    pub const fn is_big_endian(self) -> bool {
        matches!(self, Self::S390x)
    }
}

/// The target triple of code for this process: architecture, operating system
/// and environment, with `unknown` for the vendor.
#[must_use]
pub fn host_triple() -> String {
    let environment = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    match std::env::consts::OS {
        "linux" => format!("{}-unknown-linux-{environment}", std::env::consts::ARCH),
        "macos" => format!("{}-apple-darwin", std::env::consts::ARCH),
        "windows" => format!("{}-pc-windows-msvc", std::env::consts::ARCH),
        other => format!("{}-unknown-{other}", std::env::consts::ARCH),
    }
}

macro_rules! features {
    ($( $bit:literal $name:literal $flag:literal $constant:ident $detect:tt; )*) => {
        impl CpuFeatures {
            $(
                #[doc = concat!("`", $name, "`.")]
                pub const $constant: Self = Self(1 << $bit);
            )*

            /// Bit, name and code generator flag of every x86-64 feature.
            const X86_64: &'static [(u32, &'static str, &'static str)] = &[ $( ($bit, $name, $flag), )* ];

            /// Those of `wanted` that this process's CPU has and code generation knows. If nothing is wanted, the CPU is not
            /// asked, which takes long in a virtual machine.
            #[cfg(target_arch = "x86_64")]
            #[must_use]
            pub fn host_among(wanted: Self) -> Self {
                let mut found = Self::NONE;
                $( if wanted.contains(Self::$constant) && std::arch::is_x86_feature_detected!($detect) {
                    found = found.union(Self::$constant);
                } )*
                found
            }
        }
    };
}

/// A set of features of one architecture's CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CpuFeatures(u64);

features! {
    0 "sse3" "has_sse3" SSE3 "sse3";
    1 "ssse3" "has_ssse3" SSSE3 "ssse3";
    2 "cmpxchg16b" "has_cmpxchg16b" CMPXCHG16B "cmpxchg16b";
    3 "sse4.1" "has_sse41" SSE41 "sse4.1";
    4 "sse4.2" "has_sse42" SSE42 "sse4.2";
    5 "popcnt" "has_popcnt" POPCNT "popcnt";
    6 "avx" "has_avx" AVX "avx";
    7 "avx2" "has_avx2" AVX2 "avx2";
    8 "fma" "has_fma" FMA "fma";
    9 "bmi1" "has_bmi1" BMI1 "bmi1";
    10 "bmi2" "has_bmi2" BMI2 "bmi2";
    11 "lzcnt" "has_lzcnt" LZCNT "lzcnt";
    12 "avx512f" "has_avx512f" AVX512F "avx512f";
    13 "avx512vl" "has_avx512vl" AVX512VL "avx512vl";
    14 "avx512dq" "has_avx512dq" AVX512DQ "avx512dq";
    15 "avx512vbmi" "has_avx512vbmi" AVX512VBMI "avx512vbmi";
    16 "avx512bitalg" "has_avx512bitalg" AVX512BITALG "avx512bitalg";
    17 "avx512vnni" "has_avx512vnni" AVX512VNNI "avx512vnni";
}

impl CpuFeatures {
    /// No feature beyond the architecture's baseline.
    pub const NONE: Self = Self(0);

    /// The set with these bits, as the header stores it.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits of the set, as the header stores it.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// All features of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The features of both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The features of this set that `other` lacks.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether `other` is a subset of this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of the features, in the order of their bits. A bit that this
    /// version does not know is named by its number.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        (0..u64::BITS)
            .filter(|bit| self.0 >> bit & 1 == 1)
            .map(|bit| match Self::X86_64.iter().find(|(known, ..)| *known == bit) {
                Some((_, name, _)) => (*name).to_owned(),
                None => format!("feature {bit}"),
            })
            .collect()
    }

    /// The names of the code generator's flags for the features.
    pub fn codegen_flags(self) -> impl Iterator<Item = &'static str> {
        Self::X86_64.iter().filter(move |(bit, ..)| self.0 >> bit & 1 == 1).map(|(.., flag)| *flag)
    }

    /// The feature with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::X86_64.iter().find(|(_, known, _)| *known == name).map(|(bit, ..)| Self(1 << bit))
    }

    /// Those of `wanted` that this process's CPU has and code generation knows.
    #[cfg(not(target_arch = "x86_64"))]
    #[must_use]
    pub fn host_among(_wanted: Self) -> Self {
        Self::NONE
    }

    /// The features of this process's CPU that code generation knows.
    #[must_use]
    pub fn host() -> Self {
        Self::host_among(Self(u64::MAX))
    }
}

impl fmt::Display for CpuFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none beyond the baseline");
        }
        f.write_str(&self.names().join(", "))
    }
}

/// A named set of features that code may use.
///
/// The x86-64 levels are those of the psABI; features of a level that code
/// generation has no use for are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CpuLevel {
    /// The architecture's baseline: runs on every CPU of the target.
    #[default]
    Baseline,
    /// `x86-64-v2`: SSE4.2 and POPCNT (2009).
    X86_64V2,
    /// `x86-64-v3`: AVX2, BMI and FMA (2013).
    X86_64V3,
    /// `x86-64-v4`: AVX-512 (2017).
    X86_64V4,
    /// Whatever the machine has that compiles.
    Native,
}

impl CpuLevel {
    /// Every level, for help and error messages.
    pub const ALL: [Self; 5] =
        [Self::Baseline, Self::X86_64V2, Self::X86_64V3, Self::X86_64V4, Self::Native];

    /// The name on the command line and in the header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "x86-64-v1",
            Self::X86_64V2 => "x86-64-v2",
            Self::X86_64V3 => "x86-64-v3",
            Self::X86_64V4 => "x86-64-v4",
            Self::Native => "native",
        }
    }

    /// The level with this name. `baseline` and `x86-64` are other names of
    /// the first.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        if matches!(name, "baseline" | "x86-64" | "generic") {
            return Some(Self::Baseline);
        }
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// The features that code of this level may use on `arch`; `None` if the
    /// level is not one of that architecture.
    #[must_use]
    pub fn features(self, arch: Arch) -> Option<CpuFeatures> {
        use CpuFeatures as F;
        const V2: CpuFeatures = F::SSE3
            .union(F::SSSE3)
            .union(F::CMPXCHG16B)
            .union(F::SSE41)
            .union(F::SSE42)
            .union(F::POPCNT);
        const V3: CpuFeatures = V2
            .union(F::AVX)
            .union(F::AVX2)
            .union(F::FMA)
            .union(F::BMI1)
            .union(F::BMI2)
            .union(F::LZCNT);
        const V4: CpuFeatures = V3.union(F::AVX512F).union(F::AVX512VL).union(F::AVX512DQ);
        match (self, arch) {
            (Self::Baseline, _) => Some(F::NONE),
            (Self::X86_64V2, Arch::X86_64) => Some(V2),
            (Self::X86_64V3, Arch::X86_64) => Some(V3),
            (Self::X86_64V4, Arch::X86_64) => Some(V4),
            (Self::Native, _) => (Arch::host() == Some(arch)).then(F::host),
            _ => None,
        }
    }
}

impl fmt::Display for CpuLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_contain_each_other() {
        let sets = [CpuLevel::Baseline, CpuLevel::X86_64V2, CpuLevel::X86_64V3, CpuLevel::X86_64V4]
            .map(|level| level.features(Arch::X86_64).unwrap());
        assert!(sets.windows(2).all(|pair| pair[1].contains(pair[0]) && pair[0] != pair[1]));
        assert_eq!(CpuLevel::X86_64V3.features(Arch::Aarch64), None);
    }

    #[test]
    fn names_lead_back_to_the_feature() {
        for (_, name, _) in CpuFeatures::X86_64 {
            assert_eq!(CpuFeatures::by_name(name).unwrap().names(), [*name]);
        }
        assert_eq!(CpuFeatures::from_bits(1 << 63).names(), ["feature 63"]);
        assert_eq!(CpuLevel::by_name("native"), Some(CpuLevel::Native));
        assert_eq!(CpuLevel::by_name("pentium"), None);
    }
}
