//! A progress bar on a terminal, and nothing in a pipe.

use std::io::IsTerminal as _;
use std::time::Duration;

use cwasm_compiler::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows how far a compilation is.
pub(crate) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// A bar on stderr, if that is a terminal.
    pub(crate) fn new() -> Self {
        Self { bar: bar("compiling {bar:40} {bytes} of {total_bytes} of functions, {eta} left") }
    }
}

impl Progress for Bar {
    fn start(&self, total: u64) {
        self.bar.set_length(total);
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}

/// Shows how far a transfer is.
pub(crate) struct Transfer {
    bar: ProgressBar,
}

impl Transfer {
    /// A bar on stderr, if that is a terminal.
    pub(crate) fn new(verb: &str) -> Self {
        let template = format!("{verb} {{bar:40}} {{bytes}} of {{total_bytes}}, {{eta}} left");
        Self { bar: bar(&template) }
    }
}

impl cwasm_remote::Progress for Transfer {
    fn start(&self, total: u64) {
        self.bar.set_length(total);
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A bar on stderr, if that is a terminal.
fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::no_length();
    if std::io::stderr().is_terminal() {
        // What is short ends before anything is drawn twice a second.
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
    } else {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
