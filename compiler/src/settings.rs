//! What a caller decides about the code: for which machine, how carefully
//! optimised, and with which ways to interrupt it.

use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable as _};
use target_lexicon::{Architecture, Triple};

use crate::error::CompileError;

/// How hard to optimise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OptLevel {
    /// Compile as fast as possible.
    None,
    /// Most optimisations.
    Less,
    /// Every optimisation for speed.
    #[default]
    Speed,
    /// For speed, but prefer small code.
    SpeedAndSize,
}

/// How accesses to a linear memory are kept inside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MemoryBounds {
    /// By inaccessible address space around the memory, wherever that suffices.
    #[default]
    Guarded,
    /// By comparing each address with the memory's current length.
    Explicit,
}

/// Which instructions the code may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cpu {
    /// What every machine of the target's architecture has.
    #[default]
    Baseline,
    /// The x86-64-v2 level: up to SSE4.2 and POPCNT.
    X86V2,
    /// The x86-64-v3 level: up to AVX2, BMI and FMA.
    X86V3,
    /// The x86-64-v4 level: AVX-512 foundation and its usual companions.
    X86V4,
    /// What the machine that compiles has.
    Native,
}

/// Settings of a compilation. All of them change the artifact, except `jobs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The machine to compile for.
    pub target: Triple,
    /// Which of its instructions may be used.
    pub cpu: Cpu,
    /// How hard to optimise.
    pub opt_level: OptLevel,
    /// How many threads compile; 0 for one per processor. Does not change the output.
    pub jobs: usize,
    /// Whether the code counts fuel, and stops when there is none.
    pub fuel: bool,
    /// Whether the code stops when the epoch's deadline has passed.
    pub epoch: bool,
    /// How linear memories are bounded.
    pub memory_bounds: MemoryBounds,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            target: Self::host(),
            cpu: Cpu::default(),
            opt_level: OptLevel::default(),
            jobs: 0,
            fuel: false,
            epoch: false,
            memory_bounds: MemoryBounds::default(),
        }
    }
}

impl Settings {
    /// The target triple of artifacts for the machine that compiles.
    #[must_use]
    pub fn host() -> Triple {
        Triple {
            architecture: Triple::host().architecture,
            vendor: target_lexicon::Vendor::Unknown,
            operating_system: target_lexicon::OperatingSystem::Linux,
            environment: target_lexicon::Environment::Gnu,
            binary_format: target_lexicon::BinaryFormat::Elf,
        }
    }

    /// The largest page size of the target, to which code and memory images
    /// are aligned.
    #[must_use]
    pub fn page_size(&self) -> u64 {
        match self.target.architecture {
            Architecture::Aarch64(_) => 65536,
            _ => 4096,
        }
    }

    /// The code generator for these settings.
    pub(crate) fn isa(&self) -> Result<OwnedTargetIsa, CompileError> {
        let refuse = |message: String| CompileError::Settings { message };
        let supported = matches!(
            self.target.architecture,
            Architecture::X86_64
                | Architecture::Aarch64(target_lexicon::Aarch64Architecture::Aarch64)
        ) && self.target.operating_system == target_lexicon::OperatingSystem::Linux;
        if !supported {
            return Err(refuse(format!(
                "cannot compile for {}: the supported targets are x86_64-unknown-linux-gnu and \
                 aarch64-unknown-linux-gnu",
                self.target
            )));
        }
        let mut shared = settings::builder();
        let mut set = |name: &str, value: &str| {
            shared.set(name, value).map_err(|error| refuse(format!("cannot set {name}: {error}")))
        };
        set(
            "opt_level",
            match self.opt_level {
                OptLevel::None => "none",
                OptLevel::Less | OptLevel::Speed => "speed",
                OptLevel::SpeedAndSize => "speed_and_size",
            },
        )?;
        set(
            "enable_alias_analysis",
            match self.opt_level {
                OptLevel::Less => "false",
                OptLevel::None | OptLevel::Speed | OptLevel::SpeedAndSize => "true",
            },
        )?;
        set("preserve_frame_pointers", "true")?;
        set("unwind_info", "true")?;
        set("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" })?;
        set("is_pic", "true")?;
        set("use_colocated_libcalls", "true")?;
        set("enable_multi_ret_implicit_sret", "true")?;
        // Every frame is compared with the store's stack limit before it is
        // used, however large, so there is nothing for probes to find.
        set("enable_probestack", "false")?;
        let mut builder = isa::lookup(self.target.clone())
            .map_err(|error| refuse(format!("cannot compile for {}: {error}", self.target)))?;
        for feature in self.cpu_flags()? {
            builder
                .enable(feature)
                .map_err(|error| refuse(format!("cannot enable {feature}: {error}")))?;
        }
        builder
            .finish(settings::Flags::new(shared))
            .map_err(|error| refuse(format!("cannot compile for {}: {error}", self.target)))
    }

    /// The names of the code generator's flags for the chosen instructions.
    fn cpu_flags(&self) -> Result<Vec<&'static str>, CompileError> {
        let x86 = self.target.architecture == Architecture::X86_64;
        let levels: &[&[&'static str]] = match self.cpu {
            Cpu::Baseline => &[],
            Cpu::X86V2 if x86 => &[X86_V2],
            Cpu::X86V3 if x86 => &[X86_V2, X86_V3],
            Cpu::X86V4 if x86 => &[X86_V2, X86_V3, X86_V4],
            Cpu::Native if self.target.architecture == Triple::host().architecture => {
                return Ok(host_flags());
            }
            Cpu::Native => {
                return Err(CompileError::Settings {
                    message: format!(
                        "cannot compile for the native CPU of another architecture ({})",
                        self.target.architecture
                    ),
                });
            }
            Cpu::X86V2 | Cpu::X86V3 | Cpu::X86V4 => {
                return Err(CompileError::Settings {
                    message: format!(
                        "an x86-64 CPU was chosen, but the target is {}",
                        self.target.architecture
                    ),
                });
            }
        };
        Ok(levels.concat())
    }
}

const X86_V2: &[&str] =
    &["has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt", "has_cmpxchg16b"];
const X86_V3: &[&str] = &["has_avx", "has_avx2", "has_bmi1", "has_bmi2", "has_fma", "has_lzcnt"];
const X86_V4: &[&str] = &["has_avx512f", "has_avx512dq", "has_avx512vl"];

/// The flags for what the machine that compiles has.
#[cfg(target_arch = "x86_64")]
fn host_flags() -> Vec<&'static str> {
    macro_rules! detect {
        ($($feature:tt => $flag:literal,)*) => {
            [$((std::is_x86_feature_detected!($feature), $flag),)*]
        };
    }
    let found = detect! {
        "sse3" => "has_sse3",
        "ssse3" => "has_ssse3",
        "sse4.1" => "has_sse41",
        "sse4.2" => "has_sse42",
        "popcnt" => "has_popcnt",
        "cmpxchg16b" => "has_cmpxchg16b",
        "avx" => "has_avx",
        "avx2" => "has_avx2",
        "bmi1" => "has_bmi1",
        "bmi2" => "has_bmi2",
        "fma" => "has_fma",
        "lzcnt" => "has_lzcnt",
        "avx512f" => "has_avx512f",
        "avx512dq" => "has_avx512dq",
        "avx512vl" => "has_avx512vl",
    };
    found.into_iter().filter(|(found, _)| *found).map(|(_, flag)| flag).collect()
}

/// The flags for what the machine that compiles has: nothing beyond the baseline is used.
#[cfg(not(target_arch = "x86_64"))]
fn host_flags() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_without_a_code_generator_are_refused_by_name() {
        let settings = Settings {
            target: "riscv64gc-unknown-linux-gnu".parse().unwrap(),
            ..Settings::default()
        };
        let error = settings.isa().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("riscv64gc-unknown-linux-gnu"), "{error}");
        assert!(error.contains("x86_64-unknown-linux-gnu"), "{error}");
    }

    #[test]
    fn every_level_is_known_to_the_code_generator() {
        let target: Triple = "x86_64-unknown-linux-gnu".parse().unwrap();
        for cpu in [Cpu::Baseline, Cpu::X86V2, Cpu::X86V3, Cpu::X86V4] {
            let settings = Settings { target: target.clone(), cpu, ..Settings::default() };
            let isa = settings.isa().unwrap();
            assert_eq!(isa.has_round(), cpu != Cpu::Baseline);
        }
        let settings = Settings {
            target: "aarch64-unknown-linux-gnu".parse().unwrap(),
            cpu: Cpu::X86V2,
            ..Settings::default()
        };
        assert!(settings.isa().is_err());
    }
}
