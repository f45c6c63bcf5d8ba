//! What a caller decides about the code: for which machine, how carefully
//! optimised, and with which ways to interrupt it.

use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable as _};
use cwasm_artifact::cpu::{Arch, CpuFeatures, CpuLevel, host_triple};
use cwasm_artifact::header::{Header, padded_text, settings as bits};
use target_lexicon::{Architecture, OperatingSystem, Triple};

use crate::effort::Effort;
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

/// What relaxed vector operators compute, of what the specification allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RelaxedSimd {
    /// Whatever takes the fewest instructions on the CPU level. Results may
    /// differ from those of code for another level.
    #[default]
    Native,
    /// What the specification's deterministic profile says, for every CPU.
    Deterministic,
}

/// Settings of a compilation. All of them change the artifact, except `jobs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The machine to compile for.
    pub target: Triple,
    /// Which of its instructions may be used.
    pub cpu: CpuLevel,
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
    /// Whether a computed float that is not a number always has the same bits:
    /// positive, and only the highest bit of the fraction set.
    pub canonicalize_nans: bool,
    /// What relaxed vector operators compute.
    pub relaxed_simd: RelaxedSimd,
}

impl OptLevel {
    /// The level as the command line and the header of an artifact call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "0",
            Self::Less => "1",
            Self::Speed => "2",
            Self::SpeedAndSize => "s",
        }
    }

    /// The level with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::None, Self::Less, Self::Speed, Self::SpeedAndSize]
            .into_iter()
            .find(|level| level.name() == name)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            target: host_triple().parse().unwrap_or_else(|_| Triple::host()),
            cpu: CpuLevel::default(),
            opt_level: OptLevel::default(),
            jobs: 0,
            fuel: false,
            epoch: false,
            memory_bounds: MemoryBounds::default(),
            canonicalize_nans: false,
            relaxed_simd: RelaxedSimd::default(),
        }
    }
}

/// The settings that change an artifact, as its header states them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recorded {
    /// The target triple.
    pub target: String,
    /// The name of the CPU level.
    pub cpu_level: &'static str,
    /// The name of the optimisation level.
    pub opt_level: &'static str,
    /// Bits of [`cwasm_artifact::header::settings`].
    pub bits: u64,
}

/// Why the settings of an artifact cannot be used again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} {found:?} is unknown")]
pub struct UnknownSetting {
    /// What kind of setting.
    pub what: &'static str,
    /// What the header says.
    pub found: String,
}

impl Settings {
    /// The settings as a header states them, and as a cache tells artifacts apart. Every
    /// setting is named here, so that a new one cannot be forgotten.
    #[must_use]
    pub fn recorded(&self) -> Recorded {
        let Self {
            target,
            cpu,
            opt_level,
            jobs: _, // does not change the artifact
            fuel,
            epoch,
            memory_bounds,
            canonicalize_nans,
            relaxed_simd,
        } = self;
        let bits = [
            (*fuel, bits::FUEL),
            (*epoch, bits::EPOCH),
            (*memory_bounds == MemoryBounds::Explicit, bits::EXPLICIT_CHECKS),
            (*canonicalize_nans, bits::CANONICAL_NANS),
            (*relaxed_simd == RelaxedSimd::Deterministic, bits::DETERMINISTIC_RELAXED_SIMD),
        ]
        .into_iter()
        .filter(|(set, _)| *set)
        .fold(0, |all, (_, bit)| all | bit);
        Recorded {
            target: target.to_string(),
            cpu_level: cpu.name(),
            opt_level: opt_level.name(),
            bits,
        }
    }

    /// The settings that an artifact with this header was compiled with.
    ///
    /// # Errors
    /// If a name in the header is none that this version knows.
    pub fn of_header(header: &Header) -> Result<Self, UnknownSetting> {
        let unknown = |what, found: &str| UnknownSetting { what, found: found.to_owned() };
        let has = |bit| header.settings.get() & bit != 0;
        let target = padded_text(&header.prefix.target);
        let cpu = padded_text(&header.cpu_level);
        let opt_level = padded_text(&header.opt_level);
        Ok(Self {
            target: target.parse().map_err(|_| unknown("target", &target))?,
            cpu: CpuLevel::by_name(&cpu).ok_or_else(|| unknown("CPU level", &cpu))?,
            opt_level: OptLevel::by_name(&opt_level)
                .ok_or_else(|| unknown("optimisation level", &opt_level))?,
            jobs: 0,
            fuel: has(bits::FUEL),
            epoch: has(bits::EPOCH),
            memory_bounds: if has(bits::EXPLICIT_CHECKS) {
                MemoryBounds::Explicit
            } else {
                MemoryBounds::Guarded
            },
            canonicalize_nans: has(bits::CANONICAL_NANS),
            relaxed_simd: if has(bits::DETERMINISTIC_RELAXED_SIMD) {
                RelaxedSimd::Deterministic
            } else {
                RelaxedSimd::Native
            },
        })
    }

    /// The largest page size of the target, to which code and memory images
    /// are aligned.
    #[must_use]
    pub fn page_size(&self) -> u32 {
        Arch::of_triple(&self.target.to_string()).map_or(65536, Arch::max_page_size)
    }

    /// The code generator for these settings, and for functions that get this effort.
    pub(crate) fn isa(&self, effort: Effort) -> Result<OwnedTargetIsa, CompileError> {
        let refuse = |message: String| CompileError::Settings { message };
        if !is_supported(&self.target) {
            return Err(refuse(format!(
                "cannot compile for {}: the supported targets are {}",
                self.target,
                TARGETS.join(", ")
            )));
        }
        let mut shared = settings::builder();
        let mut set = |name: &str, value: &str| {
            shared.set(name, value).map_err(|error| refuse(format!("cannot set {name}: {error}")))
        };
        set(
            "opt_level",
            match self.opt_level {
                _ if !effort.optimise => "none",
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
        set("regalloc_algorithm", if effort.revise { "backtracking" } else { "single_pass" })?;
        set("preserve_frame_pointers", "true")?;
        set("unwind_info", "true")?;
        set("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" })?;
        // What the text refers to is in the text, at a distance that the linker knows, and so is independent of its position.
        // With this setting, the code would look for it in a table that only a dynamic linker fills.
        set("is_pic", "false")?;
        set("use_colocated_libcalls", "true")?;
        set("enable_multi_ret_implicit_sret", "true")?;
        // Every frame is compared with the store's stack limit before it is
        // used, however large, so there is nothing for probes to find.
        set("enable_probestack", "false")?;
        // Where blocks begin, to decode what was generated.
        set("machine_code_cfg_info", "true")?;
        let mut builder = isa::lookup(self.target.clone())
            .map_err(|error| refuse(format!("cannot compile for {}: {error}", self.target)))?;
        for feature in self.features()?.codegen_flags() {
            builder
                .enable(feature)
                .map_err(|error| refuse(format!("cannot enable {feature}: {error}")))?;
        }
        builder
            .finish(settings::Flags::new(shared))
            .map_err(|error| refuse(format!("cannot compile for {}: {error}", self.target)))
    }

    /// The features that the code may use.
    pub(crate) fn features(&self) -> Result<CpuFeatures, CompileError> {
        let target = self.target.to_string();
        let arch = Arch::of_triple(&target);
        arch.and_then(|arch| self.cpu.features(arch)).ok_or_else(|| CompileError::Settings {
            message: format!("{} is not a CPU level of the target {target}", self.cpu),
        })
    }
}

/// The targets that code is generated for; `-musl` instead of `-gnu` is the same to code.
///
/// All artifacts are ELF files: those for other systems differ in their calling conventions.
pub const TARGETS: [&str; 8] = [
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "riscv64gc-unknown-linux-gnu",
    "s390x-unknown-linux-gnu",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
    "aarch64-pc-windows-msvc",
];

fn is_supported(target: &Triple) -> bool {
    use target_lexicon::{Aarch64Architecture, Riscv64Architecture};
    let everywhere = matches!(
        target.architecture,
        Architecture::X86_64 | Architecture::Aarch64(Aarch64Architecture::Aarch64)
    );
    let on_linux = matches!(
        target.architecture,
        Architecture::Riscv64(Riscv64Architecture::Riscv64gc) | Architecture::S390x
    );
    match target.operating_system {
        OperatingSystem::Linux => everywhere || on_linux,
        OperatingSystem::Darwin(_) | OperatingSystem::Windows => everywhere,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_without_a_code_generator_are_refused_by_name() {
        let settings = Settings {
            target: "powerpc64-unknown-linux-gnu".parse().unwrap(),
            ..Settings::default()
        };
        let error = settings.isa(Effort::FULL).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("powerpc64-unknown-linux-gnu"), "{error}");
        assert!(error.contains("x86_64-unknown-linux-gnu"), "{error}");
    }

    #[test]
    fn settings_come_back_from_a_header() {
        let all = Settings {
            target: "aarch64-unknown-linux-gnu".parse().unwrap(),
            cpu: CpuLevel::Baseline,
            opt_level: OptLevel::SpeedAndSize,
            jobs: 0,
            fuel: true,
            epoch: true,
            memory_bounds: MemoryBounds::Explicit,
            canonicalize_nans: true,
            relaxed_simd: RelaxedSimd::Deterministic,
        };
        assert_eq!(all.recorded().bits, bits::KNOWN);
        assert_eq!(Settings::default().recorded().bits, 0);
        let wasm = b"\0asm\x01\0\0\0";
        for settings in [all, Settings::default()] {
            let file = crate::compile(wasm, &settings).unwrap();
            let header = Header::of(&file).unwrap();
            assert_eq!(Settings::of_header(header), Ok(settings));
        }
    }

    #[test]
    fn what_is_recorded_tells_settings_apart_that_change_code() {
        let plain = Settings::default();
        assert_eq!(plain.recorded(), Settings { jobs: 7, ..plain.clone() }.recorded());
        for other in [
            Settings { cpu: CpuLevel::X86_64V3, ..plain.clone() },
            Settings { opt_level: OptLevel::None, ..plain.clone() },
            Settings { fuel: true, ..plain.clone() },
            Settings { epoch: true, ..plain.clone() },
            Settings { memory_bounds: MemoryBounds::Explicit, ..plain.clone() },
            Settings { canonicalize_nans: true, ..plain.clone() },
            Settings { relaxed_simd: RelaxedSimd::Deterministic, ..plain.clone() },
        ] {
            assert_ne!(plain.recorded(), other.recorded());
        }
    }

    #[test]
    fn every_level_is_known_to_the_code_generator() {
        let target: Triple = "x86_64-unknown-linux-gnu".parse().unwrap();
        for cpu in [CpuLevel::Baseline, CpuLevel::X86_64V2, CpuLevel::X86_64V3, CpuLevel::X86_64V4]
        {
            let settings = Settings { target: target.clone(), cpu, ..Settings::default() };
            let isa = settings.isa(Effort::FULL).unwrap();
            assert_eq!(isa.has_round(), cpu != CpuLevel::Baseline);
        }
        let settings = Settings {
            target: "aarch64-unknown-linux-gnu".parse().unwrap(),
            cpu: CpuLevel::X86_64V2,
            ..Settings::default()
        };
        assert!(settings.isa(Effort::FULL).is_err());
    }
}
