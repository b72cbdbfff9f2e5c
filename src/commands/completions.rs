//! `modelve completions bash|zsh|fish`: a completion script on standard output.

use std::io::Write;

use clap_complete::Shell;

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

/// Prints the script that completes the commands and flags of `program`.
pub fn run(args: &Args, mut program: clap::Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "modelve", &mut script);
    let mut out = Output::stdout();
    out.write_all(&script)?;
    out.flush()?;
    Ok(())
}
