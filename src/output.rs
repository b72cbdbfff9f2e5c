//! The only place that writes to standard output, and the one that prints errors.
//!
//! Standard output carries data and nothing else. Colour appears on a terminal only and
//! never when `NO_COLOR` is set; a reader that goes away (`| head`) ends the program quietly.

use std::ffi::OsString;
use std::io::{self, IsTerminal, StdoutLock, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::base::human;
use crate::hint::{Hinted, Interrupted, Usage};

/// For headings and names.
pub const BOLD: Style = Style::new().bold();
/// For what matters less.
pub const DIM: Style = Style::new().dimmed();
/// For numbers and types that the eye should find.
pub const ACCENT: Style = AnsiColor::Cyan.on_default();
/// For what went well.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// For what wants attention.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// For what went wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();

/// Locked, buffered standard output. Flush it before waiting for anything.
pub struct Output {
    inner: io::BufWriter<StdoutLock<'static>>,
    colour: bool,
    terminal: bool,
}

impl Output {
    /// Locks standard output for the rest of the command.
    pub fn stdout() -> Self {
        Self {
            inner: io::BufWriter::new(io::stdout().lock()),
            colour: io::stdout().is_terminal() && colour_is_wanted(),
            terminal: io::stdout().is_terminal(),
        }
    }

    /// Returns whether [`Output::paint`] has any effect.
    pub fn has_colour(&self) -> bool {
        self.colour
    }

    /// `text` in `style`, or plain where colour is not wanted.
    pub fn paint(&self, style: Style, text: impl std::fmt::Display) -> String {
        if self.colour {
            format!("{style}{text}{style:#}")
        } else {
            text.to_string()
        }
    }

    /// Text that a model wrote or a file holds: byte by byte, but on a terminal with its control
    /// characters escaped, so that it cannot drive one.
    pub fn text(&mut self, text: &[u8]) -> io::Result<()> {
        match self.terminal {
            true => self.write_all(human::for_terminal(text).as_bytes()),
            false => self.write_all(text),
        }
    }

    /// One value as indented JSON and a newline.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *self, value)?;
        writeln!(self.inner)
    }

    /// One value as JSON on one line, flushed, for results that come one by one.
    pub fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut *self, value)?;
        writeln!(self.inner)?;
        self.flush()
    }
}

impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.inner.write(buf).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush().map_err(named)
    }
}

/// Errors say where they are; the kind tells a reader that went away.
fn named(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output: {error}"))
}

/// Columns of the terminal; `None` where standard output is none, and lines may be as long as
/// they come out.
pub fn terminal_width() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
    Some(usize::from(width.0).max(40))
}

/// Columns of the terminal, or 100 where standard output is none.
pub fn width() -> usize {
    terminal_width().unwrap_or(100)
}

/// A line for the person at the terminal, on standard error; nothing where nobody reads it. Names
/// and messages in it may come from files and servers, and are kept from driving the terminal.
pub fn note(text: &str) {
    line(&human::harmless(text));
}

/// A line on standard error as it is, with its colours.
fn line(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}

/// Prints what clap says of the arguments and says how to exit: help goes to standard output, an
/// error with what the person typed, made harmless, to standard error.
pub fn report_usage(error: &clap::Error) -> ExitCode {
    let is_harmless = |argument: OsString| {
        let argument = argument.to_string_lossy();
        human::harmless(&argument) == argument
    };
    match error.use_stderr() && !std::env::args_os().all(is_harmless) {
        true => note(error.render().to_string().trim_end()),
        // With its colours. A reader that went away is no fault.
        false => drop(error.print()),
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// <https://no-color.org>: any non-empty value means no colour.
fn colour_is_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Prints `error`, its causes and its hint to standard error and says how to exit:
/// 0 when only the reader of our output went away, 2 for usage, 130 after Ctrl-C, else 1.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    let interrupted = Hinted::is_about::<Interrupted>(error);
    let paint = |style: Style, text: &str| {
        if io::stderr().is_terminal() && colour_is_wanted() {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    };
    let mut said = String::new();
    for (depth, cause) in error.chain().enumerate() {
        // Lines below the first are set in, so that no name in them passes for a line of ours.
        let message = human::harmless(&cause.to_string()).replace('\n', "\n    ");
        // Wrappers often repeat their source in their own message; say everything once.
        if depth == 0 {
            line(&format!("{} {message}", paint(BAD, "error:")));
        } else if !said.contains(&message) {
            line(&format!("  {} {message}", paint(DIM, "caused by:")));
        }
        said.push_str(&message);
        said.push('\n');
    }
    if let Some(hint) = Hinted::find(error) {
        for text in human::harmless(hint).lines() {
            line(&format!("{} {text}", paint(GOOD, "hint:")));
        }
    }
    if interrupted {
        ExitCode::from(130)
    } else if Hinted::is_about::<Usage>(error) {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    let kind = match cause.downcast_ref::<io::Error>() {
        Some(error) => Some(error.kind()),
        None => cause
            .downcast_ref::<serde_json::Error>()
            .and_then(serde_json::Error::io_error_kind),
    };
    kind == Some(io::ErrorKind::BrokenPipe)
}
