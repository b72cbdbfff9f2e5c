//! One file per command: typed options in, a result out.

pub mod ablate;
pub mod again;
pub mod attention;
pub mod compare;
pub mod complete;
pub mod completions;
pub mod convert;
pub mod doctor;
pub mod dump;
pub mod engine;
mod experiments;
pub mod flags;
mod greeting;
pub mod headings;
pub mod heads;
pub mod kind;
pub mod lens;
pub mod man;
pub mod meta;
pub mod next;
pub mod patch;
pub mod probing;
pub mod prompt;
pub mod results;
pub mod score;
pub mod steer;
pub mod trial;
pub mod vectors;
pub mod vocab;
mod waiting;
pub mod why;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::anyhow;

use self::again::Again;
use crate::base::isa::Isa;
use crate::cli::{Cli, Command};
use crate::gguf::Gguf;
use crate::hint::{Usage, hinted};
use crate::hub::locate::{self, Located};
use crate::output::{self, Output};
use crate::runtime;

/// `0.1.0 (commit, llama.cpp …, ggml …)`
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("MODELVE_COMMIT"),
    ", llama.cpp ",
    env!("MODELVE_LLAMA_VERSION"),
    ", ggml ",
    env!("MODELVE_GGML_VERSION"),
    ")"
);

/// Does what the command line says.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    Isa::requested().map_err(|error| Usage(error.to_string()))?;
    if cli.version && cli.verbose {
        return doctor::run(&doctor::Args { json: false });
    }
    if cli.version {
        let mut out = Output::stdout();
        writeln!(out, "modelve {VERSION}")?;
        out.flush()?;
        return Ok(());
    }
    if cli.verbose {
        // A second subscriber in one process is refused, which does no harm.
        let _ = tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(tracing::Level::DEBUG)
            .try_init();
    }
    // Every fault that is known is checked for; of any other llama.cpp would end the program with a
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
        Some(Command::Convert(args)) => convert::run(&args),
        Some(Command::Meta(args)) => meta::run(&args),
        Some(Command::Vocab(args)) => vocab::run(&args),
        Some(Command::Complete(args)) => complete::run(*args),
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::Next(args)) => next::run(&args),
        Some(Command::Score(args)) => score::run(&args),
        Some(Command::Lens(args)) => lens::run(&args),
        Some(Command::Attention(args)) => attention::run(&args),
        Some(Command::Heads(args)) => heads::run(&args),
        Some(Command::Steer(args)) => steer::run(&args),
        Some(Command::Dump(args)) => dump::run(&args),
        Some(Command::Why(args)) => why::run(&args),
        Some(Command::Patch(args)) => patch::run(&args),
        Some(Command::Ablate(args)) => ablate::run(&args),
        Some(Command::Compare(args)) => compare::run(&args),
        Some(Command::Completions(args)) => completions::run(&args),
        Some(Command::Man(args)) => man::run(&args),
        Some(Command::TryFile(args)) => trial::run(&args),
    }
}

/// Where the model is, with the hint that belongs to it when it is not here. Where the default
/// was wanted, the hint begins with what works without fetching anything.
pub fn locate(model: Option<&str>) -> anyhow::Result<Located> {
    locate::locate(model).map_err(|error| {
        let hint = error.hint();
        let asked = model.is_some() || std::env::var_os("MODELVE_MODEL").is_some();
        let hint = match (&error, hint) {
            (locate::Error::NotHere { .. }, Some(hint)) if !asked => {
                let now = Again::typed().on_model("tiny");
                Some(format!("with the model that comes along: {now}\n{hint}"))
            }
            (_, hint) => hint,
        };
        match hint {
            Some(hint) => hinted(error, hint),
            None => error.into(),
        }
    })
}

/// Opens a GGUF file.
pub fn open(path: &Path) -> anyhow::Result<Gguf> {
    Gguf::open(path).map_err(|error| match kind::unread(&error) {
        Some(hint) => hinted(error, hint),
        None => error.into(),
    })
}

/// Opens a model that has to be a GGUF, and says where it lies.
pub fn open_gguf(model: Option<&str>) -> anyhow::Result<(PathBuf, Gguf)> {
    match locate(model)? {
        Located::Gguf(path) => {
            let gguf = open(&path)?;
            Ok((path, gguf))
        }
        Located::Checkpoint(path) => {
            let hint = kind::checkpoint_hint(&path, "");
            let path = path.display();
            Err(hinted(
                anyhow!("{path} is a checkpoint; this command reads GGUF files"),
                hint,
            ))
        }
    }
}
