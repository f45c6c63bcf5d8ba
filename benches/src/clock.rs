//! Clocks, samples, and what is said about them.
//!
//! Whatever runs on one thread is measured in CPU time of that thread, which other
//! programs on the machine disturb far less than wall time; on an idle machine the two
//! are the same. What uses several threads or processes is measured in wall time.

use std::time::Instant;

/// What a sample counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// CPU time of this thread, in user and kernel mode.
    Thread,
    /// CPU time of all threads of this process.
    Process,
    /// Time on the wall.
    Wall,
}

impl Clock {
    /// Seconds that `work` takes.
    pub fn time<R>(self, work: impl FnOnce() -> R) -> (f64, R) {
        let start = self.now();
        let result = work();
        (self.now() - start, result)
    }

    /// Seconds since some moment.
    pub fn now(self) -> f64 {
        let clock = match self {
            Self::Thread => libc::CLOCK_THREAD_CPUTIME_ID,
            Self::Process => libc::CLOCK_PROCESS_CPUTIME_ID,
            Self::Wall => {
                static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
                return START.get_or_init(Instant::now).elapsed().as_secs_f64();
            }
        };
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the structure is valid during the call.
        unsafe { libc::clock_gettime(clock, &mut time) };
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }
}

/// Samples of one thing.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        if sorted.is_empty() {
            return f64::NAN;
        }
        sorted[((sorted.len() - 1) as f64 * part).round() as usize]
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    fn between_quartiles(&self) -> f64 {
        self.quantile(0.75) - self.quantile(0.25)
    }

    /// How far apart the quartiles are, as a part of the median.
    pub fn spread(&self) -> f64 {
        if self.0.len() < 3 || self.median() == 0.0 {
            return 0.0;
        }
        self.between_quartiles() / self.median()
    }

    /// The standard error of the median, from how far apart the quartiles are: 1.253 deviations by
    /// the root of the number, and the quartiles of what is normal are 1.349 deviations apart.
    pub fn error(&self) -> f64 {
        1.253 / 1.349 * self.between_quartiles() / (self.0.len() as f64).sqrt()
    }
}

/// The ratios of samples that were taken one after the other.
pub fn paired(ours: &Samples, theirs: &Samples) -> Samples {
    Samples(ours.0.iter().zip(&theirs.0).map(|(a, b)| a / b).collect())
}

/// The geometric mean.
pub fn geomean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value.ln();
        count += 1.0;
    }
    f64::exp(sum / count)
}

/// Takes samples of two things in turn, ABAB, after one of each that does not count.
pub fn alternate(
    rounds: usize,
    mut ours: impl FnMut() -> crate::Result<f64>,
    mut theirs: impl FnMut() -> crate::Result<f64>,
) -> crate::Result<(Samples, Samples)> {
    let (mut a, mut b) = (Samples::default(), Samples::default());
    ours()?;
    theirs()?;
    for _ in 0..rounds {
        a.0.push(ours()?);
        b.0.push(theirs()?);
    }
    Ok((a, b))
}
