//! `modelve get`: fetches a GGUF file or a checkpoint of the Hub, unchanged, into the Hub's cache.

use std::io::Write;

use anyhow::anyhow;
use serde::Serialize;

use super::command_line::quote;
use super::fetching;
use super::flags::Subject;
use crate::hint::{UsageError, hinted};
use crate::hub::locate::{self, ModelRef};
use crate::hub::{self, Error, HubId, Wanted};
use crate::output::{self, Output};
use crate::progress;
use crate::quant::mix::Recipe;

/// Flags of `modelve get`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("positional", |model| model
    .help("A Hub id: org/name[@revision][:LABEL]")
    .required_unless_present("model")))]
#[command(after_help = "\
The label is the quantization in the file's name, exactly or nearly as its publisher writes it:
Q4_K_M, q4, fp16, UD-Q4_K_XL, IQ2_M, MXFP4_MOE, or the whole name. The parts of a split file are
fetched together. An interrupted transfer is resumed, and every file is verified by the Hub's hash.

Examples:
  modelve meta org/name-GGUF          the files there are, and which one fits this machine
  modelve get org/name-GGUF:Q4_K_M    fetch one of them, and print its path
  modelve get org/name                a checkpoint, unchanged

The JSON is described in docs/json.md.")]
pub struct Args {
    #[command(flatten)]
    subject: Subject,

    /// JSON instead of the path
    #[arg(long)]
    pub json: bool,
}

/// The result as JSON.
#[derive(Serialize)]
struct Got {
    path: String,
    kind: &'static str,
    model: String,
    repo: String,
    commit: String,
    received_bytes: u64,
}

/// Fetches the model and prints its path; with `offline` it only searches the cache.
pub fn run(args: &Args, offline: bool) -> anyhow::Result<()> {
    let id = parse(args.subject.name().unwrap_or_default())?;
    // A label names a GGUF file; without one it may be a checkpoint.
    let wanted = match id.quant {
        Some(_) => Wanted::Gguf,
        None => Wanted::Any,
    };
    let progress = progress::stderr(false);
    let cancel = fetching::cancel_on_signals()?;
    let options = fetching::options(offline);
    let fetched = hub::fetch(&id, wanted, &options, progress.as_ref(), &cancel)
        .map_err(|error| refused(&id, error))?;
    let (path, kind, next) = match &fetched.gguf {
        Some(gguf) => (
            gguf,
            "gguf",
            format!("modelve complete -m {id} \"Today is\""),
        ),
        None => (
            &fetched.folder,
            "checkpoint",
            format!("modelve convert {id}"),
        ),
    };
    let mut out = Output::stdout();
    match args.json {
        true => out.json(&Got {
            path: path.to_string_lossy().into_owned(),
            kind,
            model: id.to_string(),
            repo: fetched.repo,
            commit: fetched.commit,
            received_bytes: fetched.received,
        })?,
        false => writeln!(out, "{}", path.display())?,
    }
    out.flush()?;
    if !args.json {
        let what = match kind {
            "gguf" => "run it",
            _ => "convert it",
        };
        output::note(&format!("{what}: {next}"));
    }
    Ok(())
}

fn parse(model: &str) -> anyhow::Result<HubId> {
    match ModelRef::parse(model) {
        ModelRef::Hub(id) => Ok(id),
        ModelRef::Tiny => {
            let usage = UsageError("`tiny` is built in".to_owned());
            Err(hinted(usage, "run it: modelve complete -m tiny"))
        }
        ModelRef::Path(path) if path.exists() => {
            let usage = UsageError(format!("{} is already on this machine", path.display()));
            let hint = format!(
                "look inside: modelve meta {}",
                quote(&path.to_string_lossy())
            );
            Err(hinted(usage, hint))
        }
        ModelRef::Path(path) => Err(hinted(
            UsageError(format!("{:?} is not a Hub id", path.to_string_lossy())),
            "a Hub id is org/name, org/name:LABEL or org/name@revision:LABEL",
        )),
    }
}

/// Returns the error of the fetch. If the label is a type that can be made from the repository's
/// checkpoint, the hint says so.
fn refused(id: &HubId, error: Error) -> anyhow::Error {
    let recipe = id.quant.as_deref().and_then(Recipe::find);
    match (&error, recipe) {
        (
            Error::NothingThere {
                checkpoint: true, ..
            },
            Some(recipe),
        ) => {
            let error = anyhow!("{} has a checkpoint, but no GGUF file", id.without_quant());
            let made = HubId {
                quant: Some(recipe.name.to_owned()),
                ..id.clone()
            };
            let hint = format!("convert it: {}", locate::command_for(&made));
            hinted(error, hint)
        }
        _ => fetching::refused(id, error),
    }
}
