//! The output of `modelve` without a command: three commands that work at once.

use std::io::Write;

use crate::output::{ACCENT, BOLD, Output};

/// Commands to start with, and what they show. A test runs them.
const START: [(&str, &str); 3] = [
    ("modelve complete -m tiny \"Today is\"", "complete a text"),
    ("modelve meta tiny", "layers, shapes, types, sizes"),
    (
        "modelve next -m tiny \"The ball hit the bat, and\"",
        "what does it expect next?",
    ),
];

/// Prints the greeting.
pub fn print() -> anyhow::Result<()> {
    let mut out = Output::stdout();
    let title = out.paint(BOLD, "modelve looks inside language models.");
    writeln!(out, "{title} To start with, on the built-in small model:\n")?;
    let width = START.iter().map(|(command, _)| command.len()).max();
    for (command, about) in START {
        let pad = " ".repeat(width.unwrap_or(0) - command.len());
        writeln!(out, "  {}{pad}   {about}", out.paint(ACCENT, command))?;
    }
    writeln!(out, "\n`modelve -h` lists all commands.")?;
    Ok(out.flush()?)
}
