//! Writes to standard output, which no other module does, and prints errors.
//!
//! Standard output carries data and nothing else. Colour is used on a terminal only, and never if
//! `NO_COLOR` is set. If the reader closes the pipe (`| head`), the program ends quietly.

use std::ffi::OsString;
use std::io::{self, IsTerminal, StdoutLock, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::base::human;
use crate::hint::{Hinted, Interrupted, UsageError};

/// For headings and names.
pub const BOLD: Style = Style::new().bold();
/// For less important text.
pub const DIM: Style = Style::new().dimmed();
/// For numbers and types that should stand out.
pub const ACCENT: Style = AnsiColor::Cyan.on_default();
/// For success.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// For warnings.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// For errors.
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

    /// `text` in `style`, or plain if colour is off.
    pub fn paint(&self, style: Style, text: impl std::fmt::Display) -> String {
        if self.colour {
            format!("{style}{text}{style:#}")
        } else {
            text.to_string()
        }
    }

    /// Writes text from a model or a file: unchanged, or with control characters escaped on a
    /// terminal, so that it cannot send commands to it.
    pub fn text(&mut self, text: &[u8]) -> io::Result<()> {
        match self.terminal {
            true => self.write_all(human::for_terminal(text).as_bytes()),
            false => self.write_all(text),
        }
    }

    /// Writes a value as indented JSON and a newline.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *self, value)?;
        writeln!(self.inner)
    }

    /// Writes a value as JSON on one line and flushes it, for results that arrive one by one.
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

/// Adds to an error that it concerns standard output. It keeps the kind, which identifies a closed
/// pipe.
fn named(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output: {error}"))
}

/// The number of columns of the terminal; `None` if standard output is not a terminal, where lines
/// may have any length.
pub fn terminal_width() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
    Some(usize::from(width.0).max(40))
}

/// The number of columns of the terminal, or 100 if standard output is not a terminal.
pub fn width() -> usize {
    terminal_width().unwrap_or(100)
}

/// Writes a line for the user to standard error; a failure to write is ignored. Its control
/// characters are escaped, because names and messages in it may come from files and servers.
pub fn note(text: &str) {
    line(&human::escape_message(text));
}

/// Writes a line to standard error as it is, with colours.
fn line(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}

/// Prints clap's message about the arguments and returns the exit code. Help goes to standard
/// output; an error goes to standard error, with control characters in the arguments escaped.
pub fn report_usage(error: &clap::Error) -> ExitCode {
    let is_harmless = |argument: OsString| {
        let argument = argument.to_string_lossy();
        human::escape_message(&argument) == argument
    };
    match error.use_stderr() && !std::env::args_os().all(is_harmless) {
        true => note(error.render().to_string().trim_end()),
        // With its colours. A closed pipe is not an error.
        false => drop(error.print()),
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// <https://no-color.org>: any non-empty value means no colour.
fn colour_is_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Prints `error`, its causes and its hint to standard error and returns the exit code: 0 if only
/// the reader of standard output closed the pipe, 2 for usage, 130 after Ctrl-C, else 1.
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
        // Lines after the first are indented, so that no name in them looks like a message of this
        // program.
        let message = human::escape_message(&cause.to_string()).replace('\n', "\n    ");
        // Errors often repeat their source in their own message; everything is printed once.
        if depth == 0 {
            line(&format!("{} {message}", paint(BAD, "error:")));
        } else if !said.contains(&message) {
            line(&format!("  {} {message}", paint(DIM, "caused by:")));
        }
        said.push_str(&message);
        said.push('\n');
    }
    if let Some(hint) = Hinted::find(error) {
        for text in human::escape_message(hint).lines() {
            line(&format!("{} {text}", paint(GOOD, "hint:")));
        }
    }
    if interrupted {
        ExitCode::from(130)
    } else if Hinted::is_about::<UsageError>(error) {
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
