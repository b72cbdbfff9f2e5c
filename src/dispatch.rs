//! Sets up what all commands share, and calls the command that the command line names.

use std::io::Write;

use clap::CommandFactory;

use crate::base::isa::Isa;
use crate::cli::{Cli, Command};
use crate::commands::{
    ablate, attention, compare, complete, completions, convert, doctor, dump, explore, get,
    greeting, heads, imatrix, lens, man, meta, next, patch, score, serve, steer, trial, vocab,
    waiting, why, worker,
};
use crate::hint::UsageError;
use crate::output::{self, Output};
use crate::runtime;
use crate::version::VERSION;

/// Runs the command that the command line names.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    Isa::requested().map_err(|error| UsageError(error.to_string()))?;
    if cli.version && cli.verbose {
        return doctor::run(&doctor::Args::default());
    }
    if cli.version {
        let mut out = Output::stdout();
        writeln!(out, "modelve {VERSION}")?;
        out.flush()?;
        return Ok(());
    }
    if cli.verbose {
        // Setting a second subscriber in a process fails, which does no harm.
        let _ = tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(tracing::Level::DEBUG)
            .try_init();
    }
    // All known faults are checked beforehand. On any other, llama.cpp would end the program with a
    // stack trace.
    runtime::on_abort(|message| {
        output::note(&format!("{}{message}", trial::GAVE_UP));
        signal_hook::low_level::exit(1);
    });
    if cli.command.as_ref().is_some_and(Command::computes) {
        waiting::suit_the_machine();
    }
    match cli.command {
        None => greeting::print(),
        Some(Command::Convert(args)) => convert::run(&args, cli.offline),
        Some(Command::Imatrix(args)) => imatrix::run(&args),
        Some(Command::Get(args)) => get::run(&args, cli.offline),
        Some(Command::Meta(args)) => meta::run(&args, cli.offline),
        Some(Command::Vocab(args)) => vocab::run(&args),
        Some(Command::Complete(args)) => complete::run(*args),
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::Next(args)) => next::run(&args),
        Some(Command::Score(args)) => score::run(&args),
        Some(Command::Lens(args)) => lens::run(&args),
        Some(Command::Attention(args)) => attention::run(&args),
        Some(Command::Compare(args)) => compare::run(&args),
        Some(Command::Why(args)) => why::run(&args),
        Some(Command::Patch(args)) => patch::run(&args),
        Some(Command::Ablate(args)) => ablate::run(&args),
        Some(Command::Explore(args)) => explore::run(&args),
        Some(Command::Serve(args)) => serve::run(*args),
        Some(Command::Heads(args)) => heads::run(&args),
        Some(Command::Steer(args)) => steer::run(&args),
        Some(Command::Dump(args)) => dump::run(&args),
        Some(Command::Completions(args)) => completions::run(&args, Cli::command()),
        Some(Command::Man(args)) => man::run(&args, Cli::command()),
        Some(Command::TryFile(args)) => trial::run(&args),
        Some(Command::Worker(args)) => worker::run(&args),
        Some(Command::ServeDevices(args)) => worker::run_child(&args),
    }
}
