//! How far long work is: a line on a terminal, and nothing in a pipe.

use std::io::{IsTerminal as _, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cwasm_compiler::Progress;

/// How often the line is drawn. What is short ends before it is drawn at all.
const EVERY: Duration = Duration::from_millis(500);

/// The width of a terminal that does not tell.
const USUAL_WIDTH: usize = 80;

/// Shows how far a compilation is.
pub(crate) struct Bar {
    line: Line,
}

impl Bar {
    /// A line on stderr, if that is a terminal.
    pub(crate) fn new() -> Self {
        Self { line: Line::on_stderr("compiling", " of functions") }
    }
}

impl Progress for Bar {
    fn start(&self, total: u64) {
        self.line.amount.total.store(total, Relaxed);
    }

    fn advance(&self, bytes: u64) {
        self.line.amount.done.fetch_add(bytes, Relaxed);
    }
}

/// Shows how far a transfer is.
pub(crate) struct Transfer {
    line: Line,
}

impl Transfer {
    /// A line on stderr, if that is a terminal.
    pub(crate) fn new(verb: &'static str) -> Self {
        Self { line: Line::on_stderr(verb, "") }
    }
}

impl cwasm_remote::Progress for Transfer {
    fn start(&self, total: u64) {
        self.line.amount.total.store(total, Relaxed);
    }

    fn advance(&self, bytes: u64) {
        self.line.amount.done.fetch_add(bytes, Relaxed);
    }
}

/// How much is done, in bytes.
#[derive(Debug, Default)]
struct Amount {
    done: AtomicU64,
    /// 0 as long as nobody knows.
    total: AtomicU64,
}

/// A line that a thread draws until this is dropped, which removes it.
struct Line {
    amount: Arc<Amount>,
    drawn: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Line {
    fn on_stderr(verb: &'static str, of_what: &'static str) -> Self {
        if std::io::stderr().is_terminal() {
            return Self::on(std::io::stderr(), EVERY, verb, of_what);
        }
        Self { amount: Arc::default(), drawn: None }
    }

    fn on(
        mut terminal: impl Write + Send + 'static,
        every: Duration,
        verb: &'static str,
        of_what: &'static str,
    ) -> Self {
        let amount = Arc::<Amount>::default();
        let (end, ended) = channel();
        let begun = Instant::now();
        let seen = amount.clone();
        let draw = move || {
            let mut drawn = false;
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let (done, total) = (seen.done.load(Relaxed), seen.total.load(Relaxed));
                if total == 0 {
                    continue;
                }
                let text = text(verb, of_what, done.min(total), total, begun.elapsed());
                // On a terminal that has gone, there is nobody to tell.
                let _ = write!(terminal, "\r{}\x1b[K", cut(&text, width().saturating_sub(1)));
                let _ = terminal.flush();
                drawn = true;
            }
            if drawn {
                let _ = write!(terminal, "\r\x1b[K");
                let _ = terminal.flush();
            }
        };
        // Without a thread there is no line, and all else goes on.
        let thread = std::thread::Builder::new().name("cwasm-progress".to_owned()).spawn(draw);
        Self { amount, drawn: thread.ok().map(|thread| (end, thread)) }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.drawn.take() {
            drop(end);
            // It does nothing that could fail.
            let _ = thread.join();
        }
    }
}

/// How many characters stderr shows in a line.
fn width() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col != 0 => usize::from(size.ws_col),
        _ => USUAL_WIDTH,
    }
}

/// As much of a text without wide characters as fits, since a line that goes on in the next is not drawn over.
fn cut(text: &str, width: usize) -> &str {
    text.char_indices().nth(width).map_or(text, |(end, _)| &text[..end])
}

/// What the line says: `compiling ####---- 1.5 MiB of 3.0 MiB of functions, 2s left`.
fn text(verb: &str, of_what: &str, done: u64, total: u64, elapsed: Duration) -> String {
    const CELLS: usize = 40;
    let share = done as f64 / total as f64;
    let full = (0..CELLS).filter(|cell| (*cell as f64 + 1.0) <= share * CELLS as f64).count();
    let bar = format!("{}{}", "#".repeat(full), "-".repeat(CELLS - full));
    let left = match done {
        0 => String::new(),
        _ => format!(", {} left", seconds(elapsed.as_secs_f64() * (1.0 / share - 1.0))),
    };
    format!("{verb} {bar} {} of {}{of_what}{left}", size(done), size(total))
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

fn seconds(seconds: f64) -> String {
    match seconds {
        ..60.0 => format!("{seconds:.0}s"),
        ..3600.0 => format!("{:.0}m", seconds / 60.0),
        _ => format!("{:.0}h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn it_says_how_much_is_done_and_how_long_the_rest_takes() {
        let at = |done, total, seconds| {
            text("pulling", "", done, total, Duration::from_secs(seconds)).replace(['#', '-'], "")
        };
        assert_eq!(at(0, 2000, 9), "pulling  0 B of 2.0 KiB");
        assert_eq!(at(1 << 20, 3 << 20, 10), "pulling  1.0 MiB of 3.0 MiB, 20s left");
        assert_eq!(at(1 << 30, 7 << 30, 60), "pulling  1.0 GiB of 7.0 GiB, 6m left");
        assert_eq!(at(5, 5, 60), "pulling  5 B of 5 B, 0s left");
        let cells = |done| {
            let text = text("compiling", " of functions", done, 400, Duration::ZERO);
            assert!(text.contains(" of 400 B of functions"), "{text}");
            (text.matches('#').count(), text.matches('-').count())
        };
        assert_eq!([0, 9, 10, 399, 400].map(cells), [(0, 40), (0, 40), (1, 39), (39, 1), (40, 0)]);
    }

    #[test]
    fn it_fits_a_narrow_terminal() {
        assert_eq!(cut("compiling", 4), "comp");
        assert_eq!(cut("compiling", 9), "compiling");
        assert_eq!(cut("compiling", 0), "");
    }

    /// A terminal that keeps what was written to it.
    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_drawn_while_work_lasts_and_removed_then() {
        let screen = Screen::default();
        let line = Line::on(screen.clone(), Duration::from_millis(1), "pushing", "");
        line.amount.total.store(10, Relaxed);
        line.amount.done.store(5, Relaxed);
        while !screen.0.lock().unwrap().contains("5 B of 10 B") {
            std::thread::yield_now();
        }
        drop(line);
        assert!(screen.0.lock().unwrap().ends_with("\x1b[K\r\x1b[K"));
    }

    #[test]
    fn what_is_short_or_of_unknown_length_draws_nothing() {
        let screen = Screen::default();
        let line = Line::on(screen.clone(), EVERY, "pushing", "");
        line.amount.total.store(10, Relaxed);
        drop(line);
        drop(Line::on(screen.clone(), Duration::ZERO, "pushing", ""));
        assert_eq!(*screen.0.lock().unwrap(), "");
    }
}
