//! `modelve dump`: writes activations to a file for other programs.

use std::io::Write;

use anyhow::anyhow;
use serde::Serialize;

use super::engine::{EngineArgs, cancel_on_ctrl_c, explain};
use super::experiments::told;
use super::flags::Layers;
use super::probing::{Sessions, interrupted, load, nothing_yet, telling};
use super::prompt::PromptArgs;
use super::results::{self, NewFile};
use crate::base::outfile::{self, Outfile};
use crate::base::{human, rawfile};
use crate::experiment::dump::{self, Plan, Tensor, What};
use crate::hint::{UsageError, hinted};
use crate::output::{BOLD, DIM, Output};
use crate::progress::{self, Unit};
use crate::table::{Columns, plain};

/// Flags of `modelve dump`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve dump 'The ball hit the bat' -o acts.safetensors
  modelve dump --file texts.txt --lines --layers 3,7 -o acts.safetensors
  modelve dump --file book.txt --role residual,mlp --layer -1 -o acts.safetensors

In Python: from safetensors.numpy import load_file; load_file('acts.safetensors')['residual.3']
has a row for each token; `ids`, `text` and `position` identify the token.",
mut_arg("output", |arg| arg.help("The safetensors file to write")))]
pub struct Args {
    #[command(flatten)]
    prompts: PromptArgs,

    /// What to write: residual, embedding, heads, attention, mlp, final (repeatable)
    #[arg(
        short,
        long,
        value_name = "ROLE,…",
        default_value = "residual",
        value_delimiter = ','
    )]
    role: Vec<What>,

    #[command(flatten)]
    layers: Layers,

    #[command(flatten)]
    file: NewFile,

    #[command(flatten)]
    engine: EngineArgs,
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Dumped<'a> {
    output: String,
    bytes: u64,
    texts: usize,
    tokens: usize,
    tensors: &'a [Tensor],
    complete: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let texts = (args.prompts).some(args.engine.model.is_given())?;
    let output = args.file.judge(args.engine.reading(&args.prompts.input));
    // Rows are written to their places in any order, which only works in a regular file.
    let output = output.and_then(Outfile::only_a_file);
    let output = output.and_then(|output| output.try_begin().map(|()| output));
    let output = output.map_err(output_error)?;
    let cancel = cancel_on_ctrl_c()?;
    let bytes = texts.iter().map(|text| text.text.len()).sum();
    let model = load(&args.engine, bytes, &cancel)?;
    let n_layer = model.facts().n_layer as usize;
    let layers = args.layers.of(n_layer)?;
    let layers = layers.unwrap_or_else(|| (0..n_layer).collect());
    let mut ids = Vec::with_capacity(texts.len());
    for text in &texts {
        ids.push(args.prompts.tokens(&model, text).map_err(explain)?);
    }
    let settings = dump::settings(&model, args.engine.settings(&cancel));
    let rooms = ids.iter().map(Vec::len);
    let mut sessions = Sessions::new(&args.engine, &model, settings, rooms);
    let first = ids.iter().map(Vec::len).find(|&n| n > 0).unwrap_or(1);
    let plan = Plan::new(sessions.of(first)?, ids, &args.role, &layers).map_err(told)?;
    let sessions = sessions.for_rooms(plan.rooms(&model))?;

    let need = plan.bytes();
    if let Some(free) = rawfile::available(output.folder()).filter(|&free| free < need) {
        let error = anyhow!(
            "the file takes {}, and {} are free in {}",
            human::bytes(need),
            human::bytes(free),
            output.folder().display()
        );
        return Err(hinted(error, "fewer --layers take less"));
    }
    let pending = output.begin().map_err(output_error)?;
    let progress = progress::stderr(false);
    progress.start("computing", Unit::Items("tokens"), plan.tokens() as u64, 0);
    let done = plan.write(pending.file(), sessions, &mut telling(&*progress));
    progress.finish();
    let done = done.map_err(told)?;
    let complete = done == plan.tokens();
    if done == 0 {
        return Err(nothing_yet());
    }
    let bytes = pending.file().metadata()?.len();
    pending.commit().map_err(output_error)?;
    let mut tensors = plan.tensors().to_vec();
    tensors.iter_mut().for_each(|tensor| tensor.shape[0] = done);
    let dumped = Dumped {
        output: args.file.output.display().to_string(),
        bytes,
        texts: texts.len(),
        tokens: done,
        tensors: &tensors,
        complete,
    };
    let mut out = Output::stdout();
    match args.file.json {
        true => out.json_line(&dumped)?,
        false => print(&mut out, &dumped)?,
    }
    out.flush()?;
    interrupted(complete)
}

/// Attaches a hint to an error of writing the file.
fn output_error(error: outfile::Error) -> anyhow::Error {
    match &error {
        outfile::Error::NotAFile { .. } => {
            let what = "rows are written in any order, which only a file allows";
            let error = UsageError(format!("{error}: {what}"));
            hinted(error, "write to a file first: -o acts.safetensors")
        }
        _ => results::file_error(error, "choose another name: -o acts.safetensors"),
    }
}

fn print(out: &mut Output, dumped: &Dumped<'_>) -> std::io::Result<()> {
    let title = format!(
        "{}: {} of {} in {}{}",
        human::escape(dumped.output.as_bytes()),
        plural(dumped.tokens, "token"),
        plural(dumped.texts, "text"),
        human::bytes(dumped.bytes),
        if dumped.complete { "" } else { ", a part" }
    );
    writeln!(out, "{}", out.paint(BOLD, title))?;
    let mut rows = Columns::new(out, &["tensor", "type", "shape"]);
    for tensor in dumped.tensors {
        let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
        rows.add([
            plain(&tensor.name),
            plain(tensor.dtype),
            plain(shape.join(" × ")),
        ]);
    }
    out.write_all(rows.lines().as_bytes())?;
    let note = "a row for each token; ids, text and position say which";
    writeln!(out, "{}", out.paint(DIM, note))
}

fn plural(n: usize, what: &str) -> String {
    let count = human::count(n as u64);
    format!("{count} {what}{}", if n == 1 { "" } else { "s" })
}
