//! `modelve completions bash|zsh|fish`: a completion script on standard output.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output::Output;

/// Flags of `modelve completions`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  modelve completions bash > ~/.local/share/bash-completion/completions/modelve"
)]
pub struct Args {
    /// The shell to write it for
    pub shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "modelve", &mut script);
    let mut out = Output::stdout();
    out.write_all(&script)?;
    out.flush()?;
    Ok(())
}
