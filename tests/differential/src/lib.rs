//! Holds cwasm against another engine: a generated module must do the same in both.
//!
//! * [`generate`]: from a seed to a module and the calls that are made into it;
//! * [`program`]: from a seed to a module of another kind, which runs far and does not trap;
//! * [`outcome`]: what a module did, in terms that no engine has a part in;
//! * [`ours`] and [`theirs`]: running it in cwasm and in wasmi.
//!
//! What is compared: whether instantiation and each call return or trap, and
//! why; results; and in the end every exported global, the contents of every
//! memory, and the sizes of tables. NaNs are comparable since the generator makes them
//! canonical in the module, or because cwasm does, compared with itself. So are modules that make
//! objects: one side collects them before it makes another.

pub mod generate;
pub mod ours;
pub mod outcome;
pub mod program;
pub mod theirs;

use std::collections::BTreeMap;

use cwasm_artifact::cpu::{Arch, CpuFeatures};
use cwasm_compiler::{CpuLevel, MemoryBounds, OptLevel, RelaxedSimd, Settings};

use generate::Case;
use outcome::{Outcome, Trap};

/// What a comparison covered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Covered {
    /// Modules that ran in both.
    pub modules: usize,
    /// Modules that one of both could not run for want of stack.
    pub inconclusive: usize,
    /// Calls of exported functions.
    pub calls: usize,
    /// How many of them trapped, and with what.
    pub traps: BTreeMap<Trap, usize>,
    /// Instructions in the modules, as the generator wrote them.
    pub instructions: usize,
}

impl Covered {
    /// Adds up.
    pub fn add(&mut self, other: Self) {
        self.modules += other.modules;
        self.inconclusive += other.inconclusive;
        self.calls += other.calls;
        for (trap, count) in other.traps {
            *self.traps.entry(trap).or_default() += count;
        }
        self.instructions += other.instructions;
    }
}

/// Compares both engines on the module and on the program of a seed. `Err` says how they differ.
///
/// # Errors
/// If they differ, or if cwasm refuses one or panics.
pub fn check(seed: u64) -> Result<Covered, String> {
    let mut covered = check_case(&Case::generate(seed), "module")?;
    covered.add(check_case(&Case::program(seed), "program")?);
    if seed.is_multiple_of(4) {
        covered.add(check_case(&Case::objects(seed), "objects")?);
    }
    Ok(covered)
}

fn check_case(case: &Case, kind: &str) -> Result<Covered, String> {
    let seed = case.seed;
    let settings = settings(seed);
    let canonicalize_nans = settings.canonicalize_nans || !case.canonical_nans;
    let settings = Settings { canonicalize_nans, ..settings };
    let describe =
        |difference: String| format!("{kind} {seed}: {difference}\nsettings: {settings:?}");
    let ours = ours::run(case, &settings).map_err(describe)?;
    // Where a module keeps its NaNs or makes objects, cwasm is compared with itself; of objects, it keeps none then that it need not.
    let theirs = if case.canonical_nans {
        theirs::run(case).map_err(describe)?
    } else {
        let other =
            Settings { cpu: CpuLevel::Baseline, opt_level: OptLevel::None, ..settings.clone() };
        ours::run_collecting(case, &other).map_err(describe)?
    };
    let mut covered = Covered { instructions: case.instructions, ..Covered::default() };
    if ours.exhausted() || theirs.exhausted() {
        covered.inconclusive = 1;
        return Ok(covered);
    }
    if let Some(difference) = Outcome::difference(&ours, &theirs) {
        return Err(describe(difference));
    }
    covered.modules = 1;
    covered.calls = ours.calls.len();
    for trap in ours.calls.iter().filter_map(|(_, result)| result.as_ref().err()) {
        *covered.traps.entry(trap).or_default() += 1;
    }
    Ok(covered)
}

/// The settings that go with a seed: all of them have their turn.
#[must_use]
pub fn settings(seed: u64) -> Settings {
    let levels: Vec<CpuLevel> = CpuLevel::ALL
        .into_iter()
        .filter(|level| {
            let features = Arch::host().and_then(|arch| level.features(arch));
            features.is_some_and(|features| CpuFeatures::host().contains(features))
        })
        .collect();
    let pick = |choices: usize, stride: u64| {
        usize::try_from(seed / stride % choices as u64).unwrap_or_default()
    };
    let opt_levels = [OptLevel::Speed, OptLevel::None, OptLevel::SpeedAndSize, OptLevel::Less];
    Settings {
        cpu: levels[pick(levels.len(), 1)],
        opt_level: opt_levels[pick(4, 3)],
        jobs: 1,
        fuel: pick(8, 5) == 0,
        epoch: pick(8, 5) == 1,
        memory_bounds: [MemoryBounds::Guarded, MemoryBounds::Explicit][pick(2, 7)],
        // Never with the generator's own: it leaves conversions between floats as they are.
        canonicalize_nans: seed % 4 == 3,
        relaxed_simd: RelaxedSimd::Deterministic,
        ..Settings::default()
    }
}
