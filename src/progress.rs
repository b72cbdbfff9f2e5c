//! Shows the progress of long-running work, always on standard error.
//!
//! The work only uses the trait [`Progress`]. [`stderr`] chooses how it is shown: a bar with speed
//! and remaining time on a terminal, plain lines every few seconds elsewhere (a log, a CI run), and
//! nothing if it is to be quiet.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use modelve_base::human;
pub use modelve_base::progress::{Progress, Silent, Unit};

/// How often a line is written if standard error is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress for this process's standard error: a bar on a terminal, lines elsewhere, and only
/// notes if `quiet`.
pub fn stderr(quiet: bool) -> Box<dyn Progress> {
    if quiet {
        Box::new(Lines::new(std::io::stderr(), None))
    } else if std::io::stderr().is_terminal() {
        Box::new(Bar::default())
    } else {
        Box::new(Lines::new(std::io::stderr(), Some(LINE_EVERY)))
    }
}

/// A bar for each step, drawn by indicatif.
#[derive(Default)]
struct Bar {
    bar: Mutex<Option<ProgressBar>>,
}

impl Bar {
    fn with(&self, f: impl FnOnce(&ProgressBar)) {
        // A poisoned lock only means that some thread panicked while drawing.
        let bar = self.bar.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(bar) = bar.as_ref() {
            f(bar);
        }
    }
}

impl Progress for Bar {
    fn start(&self, what: &str, unit: Unit, total: u64, done: u64) {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let counts = match unit {
            Unit::Bytes => {
                "{binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}".to_owned()
            }
            Unit::Items(plural) => format!("{{human_pos}} of {{human_len}} {plural}, {{per_sec}}"),
        };
        let template = format!("{{msg}} {{wide_bar}} {counts}, {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_message(human::escape_message(what).into_owned());
        bar.set_position(done);
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(200));
        *self.bar.lock().unwrap_or_else(|e| e.into_inner()) = Some(bar);
    }

    fn advance(&self, n: u64) {
        self.with(|bar| bar.inc(n));
    }

    fn rewind(&self, n: u64) {
        self.with(|bar| bar.set_position(bar.position().saturating_sub(n)));
    }

    fn note(&self, text: &str) {
        let bar = self.bar.lock().unwrap_or_else(|e| e.into_inner());
        let text = human::escape_message(text);
        match bar.as_ref() {
            Some(bar) => bar.println(text),
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    fn finish(&self) {
        let bar = self.bar.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    }
}

/// A plain line every few seconds, and one at the end of each step that was long enough for any.
struct Lines<W: Write + Send> {
    /// The interval between lines; `None` for notes only.
    every: Option<Duration>,
    state: Mutex<State<W>>,
}

struct State<W> {
    out: W,
    step: Option<Step>,
}

struct Step {
    what: String,
    unit: Unit,
    total: u64,
    /// The units that were done before the step started, which do not count for the speed.
    before: u64,
    done: u64,
    started: Instant,
    last_line: Instant,
    lines: u32,
}

impl<W: Write + Send> Lines<W> {
    fn new(out: W, every: Option<Duration>) -> Self {
        Lines {
            every,
            state: Mutex::new(State { out, step: None }),
        }
    }

    fn locked(&self, f: impl FnOnce(&mut State<W>)) {
        f(&mut self.state.lock().unwrap_or_else(|e| e.into_inner()));
    }
}

impl Step {
    fn line(&self) -> String {
        let show = |n: u64| match self.unit {
            Unit::Bytes => HumanBytes(n).to_string(),
            Unit::Items(_) => n.to_string(),
        };
        let name = match self.unit {
            Unit::Bytes => String::new(),
            Unit::Items(plural) => format!(" {plural}"),
        };
        let percent = match self.total {
            0 => 100,
            total => (u128::from(self.done) * 100 / u128::from(total)).min(100),
        };
        let mut line = format!(
            "{}: {percent} %, {} of {}{name}",
            self.what,
            show(self.done),
            show(self.total)
        );
        let seconds = self.started.elapsed().as_secs_f64();
        let fresh = self.done.saturating_sub(self.before);
        if fresh > 0 && seconds > 0.0 {
            let speed = fresh as f64 / seconds;
            let left = self.total.saturating_sub(self.done) as f64 / speed;
            line += &format!(", {}/s", show(speed as u64));
            if left.is_finite() && self.done < self.total {
                let left = HumanDuration(Duration::from_secs_f64(left.min(1e9)));
                line += &format!(", {left:#} left");
            }
        }
        line
    }
}

impl<W: Write + Send> Progress for Lines<W> {
    fn start(&self, what: &str, unit: Unit, total: u64, done: u64) {
        self.locked(|state| {
            let now = Instant::now();
            state.step = Some(Step {
                what: human::escape_message(what).into_owned(),
                unit,
                total,
                before: done,
                done,
                started: now,
                last_line: now,
                lines: 0,
            });
        });
    }

    fn advance(&self, n: u64) {
        self.locked(|state| {
            let Some(step) = state.step.as_mut() else {
                return;
            };
            step.done = step.done.saturating_add(n);
            if self.every.is_some_and(|t| step.last_line.elapsed() >= t) {
                step.last_line = Instant::now();
                step.lines += 1;
                let _ = writeln!(state.out, "{}", step.line());
            }
        });
    }

    fn rewind(&self, n: u64) {
        self.locked(|state| {
            if let Some(step) = state.step.as_mut() {
                step.done = step.done.saturating_sub(n);
            }
        });
    }

    fn note(&self, text: &str) {
        let text = human::escape_message(text);
        self.locked(|state| drop(writeln!(state.out, "{text}")));
    }

    fn finish(&self) {
        self.locked(|state| {
            if let Some(step) = state.step.take()
                && step.lines > 0
            {
                let _ = writeln!(state.out, "{}", step.line());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lines: Lines<Vec<u8>>) -> String {
        String::from_utf8(lines.state.into_inner().unwrap().out).unwrap()
    }

    #[test]
    fn lines_tell_percent_and_totals() {
        let lines = Lines::new(Vec::new(), Some(Duration::ZERO));
        lines.start("fetching a/b", Unit::Bytes, 4 << 20, 1 << 20);
        lines.advance(1 << 20);
        lines.finish();
        let text = written(lines);
        assert!(
            text.starts_with("fetching a/b: 50 %, 2.00 MiB of 4.00 MiB, "),
            "{text}"
        );
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn short_steps_and_quiet_write_nothing_but_notes() {
        let lines = Lines::new(Vec::new(), None);
        lines.start("converting", Unit::Items("tensors"), 10, 0);
        lines.advance(10);
        lines.note("waiting for another process");
        lines.finish();
        assert_eq!(written(lines), "waiting for another process\n");
    }

    #[test]
    fn rewinding_never_goes_below_zero() {
        let lines = Lines::new(Vec::new(), Some(Duration::ZERO));
        lines.start("x", Unit::Items("rows"), 10, 0);
        lines.advance(3);
        lines.rewind(5);
        lines.advance(10);
        let text = written(lines);
        assert!(text.contains("x: 100 %, 10 of 10 rows"), "{text}");
    }
}
