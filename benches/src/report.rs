//! Rows, and the table and JSON that they become. `chart` draws them.

use std::fmt::Write as _;

use serde::Serialize;

use crate::clock::{Samples, paired};

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    Seconds,
    Bytes,
    /// Per second: more is better.
    Rate,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub what: String,
    pub unit: Unit,
    pub ours: f64,
    pub ours_spread: f64,
    /// What ours is compared with, if it is not wasmtime.
    pub against: Option<String>,
    pub theirs: f64,
    pub theirs_spread: f64,
    /// Ours as a part of theirs; less is better.
    pub ratio: f64,
    pub bar: Option<f64>,
}

impl Row {
    pub fn new(what: impl Into<String>, unit: Unit, ours: &Samples, theirs: &Samples) -> Self {
        let mut ratio = paired(ours, theirs).median();
        if unit == Unit::Rate {
            ratio = 1.0 / ratio;
        }
        Self {
            what: what.into(),
            unit,
            ours: ours.median(),
            ours_spread: ours.spread(),
            against: None,
            theirs: theirs.median(),
            theirs_spread: theirs.spread(),
            ratio,
            bar: None,
        }
    }

    pub fn seconds(what: impl Into<String>, samples: &(Samples, Samples)) -> Self {
        Self::new(what, Unit::Seconds, &samples.0, &samples.1)
    }

    pub fn bytes(what: impl Into<String>, ours: f64, theirs: f64) -> Self {
        Self::new(what, Unit::Bytes, &Samples(vec![ours]), &Samples(vec![theirs]))
    }

    /// A geometric mean of ratios; the figures beside it are sums.
    pub fn mean(what: impl Into<String>, rows: &[Self]) -> Self {
        Self {
            what: what.into(),
            unit: rows.first().map_or(Unit::Seconds, |row| row.unit),
            ours: rows.iter().map(|row| row.ours).sum(),
            ours_spread: 0.0,
            against: None,
            theirs: rows.iter().map(|row| row.theirs).sum(),
            theirs_spread: 0.0,
            ratio: crate::clock::geomean(rows.iter().map(|row| row.ratio)),
            bar: None,
        }
    }

    pub fn bar(mut self, bar: f64) -> Self {
        self.bar = Some(bar);
        self
    }

    pub fn against(mut self, what: impl Into<String>) -> Self {
        self.against = Some(what.into());
        self
    }

    fn reached(&self) -> &'static str {
        match self.bar {
            None => "",
            Some(bar) if self.ratio <= bar => "yes",
            Some(_) => "NO",
        }
    }
}

/// All rows so far. Each is printed when it is added, so that a run that is cut
/// short has said something.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub rows: Vec<Row>,
    pub notes: Vec<String>,
}

impl Report {
    pub fn add(&mut self, row: Row) {
        if self.rows.is_empty() {
            println!("{}", line("what", "cwasm (spread)", "wasmtime (spread)", "ratio", "bar", ""));
        }
        let theirs = match &row.against {
            None => figure(row.theirs, row.theirs_spread, row.unit),
            Some(what) => format!("{} {what}", figure(row.theirs, row.theirs_spread, row.unit)),
        };
        println!(
            "{}",
            line(
                &row.what,
                &figure(row.ours, row.ours_spread, row.unit),
                &theirs,
                &format!("{:.2}", row.ratio),
                &row.bar.map_or(String::new(), |bar| format!("{bar:.2}")),
                row.reached(),
            )
        );
        self.rows.push(row);
    }

    /// Says something that the table must not hide, such as what was skipped.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        println!("  note: {text}");
        self.notes.push(text);
    }
}

fn line(what: &str, ours: &str, theirs: &str, ratio: &str, bar: &str, reached: &str) -> String {
    format!("{what:<46} | {ours:>16} | {theirs:>24} | {ratio:>5} | {bar:>4} | {reached}")
}

fn figure(value: f64, spread: f64, unit: Unit) -> String {
    let mut text = match unit {
        Unit::Seconds if value < 1e-6 => format!("{:.1} ns", value * 1e9),
        Unit::Seconds if value < 1e-3 => format!("{:.2} us", value * 1e6),
        Unit::Seconds if value < 1.0 => format!("{:.2} ms", value * 1e3),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::Bytes if value < 10e3 => format!("{value:.0} B"),
        Unit::Bytes if value < 10e6 => format!("{:.0} kB", value / 1e3),
        Unit::Bytes => format!("{:.1} MB", value / 1e6),
        Unit::Rate => format!("{value:.0}/s"),
    };
    if spread > 0.0 {
        let _ = write!(text, " ({:.0}%)", spread * 100.0);
    }
    text
}
