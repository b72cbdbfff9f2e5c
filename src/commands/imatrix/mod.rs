//! `modelve imatrix`: which columns of the matrices of a model matter, measured on a text.

mod report;
mod source;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::anyhow;
use sha2::{Digest, Sha256};

use super::command_line::{CommandLine, quote};
use super::engine::{EngineArgs, cancel_on_ctrl_c, explain};
use super::probing::{nothing_yet, session, told};
use super::prompt::{self, input};
use super::results;
use super::score::windows;
use crate::base::human;
use crate::base::outfile::{self, Existing, Outfile};
use crate::hint::{Interrupted, hinted};
use crate::output::{self, Output};
use crate::probe::calibration;
use crate::probe::importance::{self, Measurement};
use crate::progress::{self, Unit};
use crate::quant::imatrix::{Imatrix, Origin};
use crate::runtime::{Model, Token};

use report::Measured;
use source::Source;

/// Flags of `modelve imatrix`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve imatrix phi3-Q8_0.gguf                      over a text that comes with the program
  modelve imatrix ./my-checkpoint --file texts.txt    a checkpoint, over a text of your own
  modelve imatrix phi3-Q8_0.gguf --resume             go on after Ctrl-C
  modelve convert ./my-checkpoint --imatrix my-checkpoint.imatrix.gguf

The file is llama.cpp's: llama-quantize reads it, and modelve reads those of llama-imatrix. The squares
of what enters each matrix are added up, column by column; `convert` weighs errors by them.")]
pub struct Args {
    /// A .gguf file of any type, a checkpoint folder, a Hub id such as org/name:Q8_0, or `tiny`; as -m
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,

    /// Read this text, `-` for standard input [default: a text that comes with the program: prose,
    /// code, languages, numbers, conversations in the model's template]
    #[arg(short, long, visible_alias = "text", value_name = "FILE")]
    file: Option<PathBuf>,

    /// The file to write [default: NAME.imatrix.gguf in this folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Read no more than N tokens
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tokens: Option<u32>,

    /// Tokens of a chunk, each of which is read on its own [default: 512, or fewer where the model was
    /// trained on fewer]
    #[arg(short, long, value_name = "N", overrides_with = "window",
          value_parser = clap::value_parser!(u32).range(MIN_WINDOW as i64..=65_536))]
    window: Option<u32>,

    /// Take `<|end|>` and its like in the text as those tokens
    #[arg(long, overrides_with = "no_special")]
    special: bool,

    /// Take `<|end|>` and its like in the text as plain characters: the default
    #[arg(long, overrides_with = "special", hide_short_help = true)]
    no_special: bool,

    /// Go on with the output where it was interrupted
    #[arg(long, conflicts_with = "force")]
    resume: bool,

    /// Replace the output if it exists
    #[arg(long)]
    force: bool,

    /// JSON instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    engine: EngineArgs,
}

/// Default number of tokens of a chunk, as in llama-imatrix.
const WINDOW: usize = 512;

/// Minimum number of tokens of a chunk.
const MIN_WINDOW: usize = 16;

/// Measures and writes.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut engine = args.engine.clone();
    engine.model.model = (args.positional.clone()).or(engine.model.model);
    let source = Source::find(engine.model.model.as_deref())?;
    let path = args.output.clone();
    let path = path.unwrap_or_else(|| PathBuf::from(source.default_name()));
    let inputs = || source.inputs().into_iter().chain(args.file.clone());
    let output = judge(&path, args.force || args.resume, inputs())?;
    let earlier = match args.resume && path.exists() {
        true => Some(Imatrix::open(&path).map_err(|error| not_ours(error.into(), &path))?),
        false => None,
    };
    let text = args.file.as_deref().map(input::read_text).transpose()?;
    let cancel = cancel_on_ctrl_c()?;
    signal_hook::flag::register(signal_hook::consts::SIGTERM, cancel.flag())?;

    let (model, _folder) = source.load(&engine, &output, &cancel)?;
    let size = args.window.map(|size| size as usize);
    let window = windows(&engine, &model, size, None, WINDOW)?.size;
    let ids = args.ids(&model, text.as_deref(), window)?;
    let planned = ids.len() / window;
    if planned == 0 {
        let n = ids.len();
        let error = anyhow!("the text has {n} token(s), fewer than a window of {window}");
        let hint = match n >= MIN_WINDOW {
            true => {
                let shorter = CommandLine::typed().with(&["--window", &n.to_string()]);
                format!("a longer text, or a shorter window: {shorter}")
            }
            // Sums over so few tokens say nothing of a matrix.
            false => "a longer text; without --text, the built-in one is used".to_owned(),
        };
        return Err(hinted(error, hint));
    }
    let origin = Origin {
        text: digest(&ids[..planned * window]),
        model: identity(&model),
        planned: planned as u64,
    };
    let mut measurement = match &earlier {
        Some(file) => {
            check_same(file, &origin, window, &path)?;
            Measurement::resumed(file)
        }
        None => Measurement::new(window),
    };

    let before = measurement.chunks();
    let started = Instant::now();
    let settings = importance::settings(window, engine.settings(&cancel));
    let mut session = session(&engine, &model, window, settings)?;
    let progress = progress::stderr(false);
    progress.start(
        "measuring",
        Unit::Items("chunks"),
        planned as u64,
        before as u64,
    );
    let read = measurement.read(&mut session, &ids, &mut || progress.advance(1));
    progress.finish();
    let complete = read.map_err(told)?;
    if measurement.chunks() == before && !complete {
        return Err(nothing_yet());
    }
    let dataset = match &args.file {
        Some(path) => path.display().to_string(),
        None => calibration::NAME.to_owned(),
    };
    let entries = measurement.entries(&model.facts().arch).map_err(told)?;
    let chunks = measurement.chunks();
    let file = Imatrix::new(entries, vec![dataset], chunks as u64, window as u64, origin);
    output.write(&file.to_bytes()?).map_err(output_error)?;

    let measured = Measured {
        output: path.display().to_string(),
        model: model.path().display().to_string(),
        chunks,
        planned_chunks: planned,
        chunk_size: window,
        tokens: (chunks - before) * window,
        seconds: started.elapsed().as_secs_f64(),
        matrices: file.entries().len(),
        unseen_experts: report::unseen_experts(&file),
        complete,
    };
    let mut out = Output::stdout();
    match args.json {
        true => out.json_line(&measured)?,
        false => report::print(&mut out, &measured, &source.next(&path))?,
    }
    out.flush()?;
    if !complete {
        let again = CommandLine::typed().without("--force").with(&["--resume"]);
        output::note(&format!("interrupted; to go on: {again}"));
        return Err(Interrupted.into());
    }
    Ok(())
}

impl Args {
    /// The tokens to read.
    fn ids(&self, model: &Model, text: Option<&str>, window: usize) -> anyhow::Result<Vec<Token>> {
        let mut ids = match text {
            // As in every other command, the last line break is no part of the text.
            Some(text) => {
                let text = text.strip_suffix('\n').unwrap_or(text);
                prompt::tokens(model.vocab(), text, self.special).map_err(explain)?
            }
            None => calibration::tokens(model, window).map_err(told)?,
        };
        ids.truncate(self.tokens.map_or(usize::MAX, |n| n as usize));
        Ok(ids)
    }
}

/// Decides where the file goes.
fn judge(
    path: &Path,
    replace: bool,
    inputs: impl Iterator<Item = PathBuf>,
) -> anyhow::Result<Outfile> {
    let existing = match replace {
        true => Existing::Replace,
        false => Existing::Keep,
    };
    let output = Outfile::judge(path, existing, inputs);
    let output = output.and_then(Outfile::only_a_file);
    let output = output.and_then(|output| output.try_begin().map(|()| output));
    output.map_err(output_error)
}

/// An error of writing the file, with its hint.
fn output_error(error: outfile::Error) -> anyhow::Error {
    match &error {
        outfile::Error::Exists { path } => {
            let typed = CommandLine::typed();
            let replace = typed.clone().with(&["--force"]);
            let mut hint = format!("to replace it: {replace}");
            // Another file cannot be gone on with.
            if Imatrix::open(path).is_ok() {
                hint += &format!("\nto go on with it: {}", typed.with(&["--resume"]));
            }
            hinted(error, hint)
        }
        _ => results::file_error(error, "give the file a name of its own: -o my.imatrix.gguf"),
    }
}

/// The error of a file that `--resume` cannot go on with.
fn not_ours(error: anyhow::Error, path: &Path) -> anyhow::Error {
    let hint = format!(
        "--resume goes on with a file of `modelve imatrix`; to measure anew, remove {} or name another: -o",
        quote(&path.to_string_lossy())
    );
    hinted(error, hint)
}

/// Checks that what is asked for is the rest of what the file holds a part of.
fn check_same(file: &Imatrix, now: &Origin, window: usize, path: &Path) -> anyhow::Result<()> {
    let differs = match file.origin() {
        None => "does not say which text and model it was measured with",
        Some(_) if file.chunk_size() != window as u64 => "was measured with another --window",
        Some(before) if before.model != now.model => "was measured with another model",
        Some(before) if before.text != now.text => "was measured on another text",
        Some(_) => return Ok(()),
    };
    let name = human::escape(path.display().to_string().as_bytes());
    Err(not_ours(anyhow!("{name} {differs}"), path))
}

/// A digest of tokens, in hexadecimal digits.
pub(super) fn digest(ids: &[Token]) -> String {
    let mut hasher = Sha256::new();
    ids.iter().for_each(|id| hasher.update(id.0.to_le_bytes()));
    hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What tells a model from another: its name, architecture and size, and the type of its weights.
pub(super) fn identity(model: &Model) -> String {
    let gguf = model.gguf();
    let name = gguf.get("general.name").and_then(|name| name.as_str());
    let file_type = gguf.get("general.file_type").and_then(|ty| ty.as_u64());
    format!(
        "{} ({}, {} parameters, {} bytes of weights, type {})",
        name.unwrap_or_default(),
        model.facts().arch,
        gguf.n_params(),
        model.facts().tensor_bytes,
        file_type.map_or("unknown".to_owned(), |ty| ty.to_string())
    )
}
