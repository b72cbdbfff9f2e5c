//! `modelve steer learn`: learns a control vector from texts.

use std::io::Write;
use std::path::PathBuf;

use anyhow::anyhow;
use serde::{Deserialize, Serialize};

use crate::base::human;
use crate::base::outfile;
use crate::commands::engine::{EngineArgs, cancel_on_ctrl_c, explain};
use crate::commands::experiments::told;
use crate::commands::flags::Layers;
use crate::commands::probing;
use crate::commands::probing::{Sessions, load, percent};
use crate::commands::prompt::{Manner, Text, input};
use crate::commands::results::{self, NewFile};
use crate::experiment::steer::{self, Direction, Learning, Side};
use crate::hint::{Interrupted, UsageError, hinted};
use crate::output::{BOLD, DIM, Output};
use crate::probe::Subject;
use crate::progress::{self, Unit};
use crate::table::{Columns, plain};

/// Flags of `modelve steer learn`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve steer learn --plus 'I love it' --minus 'I hate it' -o love.gguf
  modelve steer learn --pairs pairs.jsonl --layers 10-14 -o love.gguf
  modelve steer learn --chat --plus 'Be brief' --minus 'Be verbose' -o brief.gguf

A line of --pairs is {\"plus\": \"…\", \"minus\": \"…\"}. Texts that differ in nothing but what the
direction is to be about give the clearest one.",
mut_arg("layers", |arg| arg.help("Layers to give a direction, from 1, such as 10-14 or -1 for the last [default: the middle one]")),
mut_arg("output", |arg| arg.help("The control vector to write")))]
pub struct Args {
    /// A text to steer towards (repeatable)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    plus: Vec<String>,

    /// A text to steer away from (repeatable)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    minus: Vec<String>,

    /// Read both from a file of JSON lines, `-` for standard input
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,

    #[command(flatten)]
    layers: Layers,

    #[command(flatten)]
    file: NewFile,

    #[command(flatten)]
    manner: Manner,

    #[command(flatten)]
    engine: EngineArgs,
}

/// A line of `--pairs`.
#[derive(Deserialize)]
struct Pair {
    plus: String,
    minus: String,
}

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Learned {
    model: Subject,
    output: String,
    plus: usize,
    minus: usize,
    /// The layers for which the file has a direction.
    written: Vec<usize>,
    layers: Vec<Direction>,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let texts = args.texts()?;
    let inputs = (args.engine.inputs().into_iter()).chain(args.pairs.clone());
    let output = args.file.judge(inputs);
    let output = output.and_then(|output| output.try_begin().map(|()| output));
    let output = output.map_err(output_error)?;
    if output.is_stdout() && args.file.json {
        let what = "--json and -o - would both write to standard output: name a file for one";
        return Err(UsageError(what.to_owned()).into());
    }
    let cancel = cancel_on_ctrl_c()?;
    let bytes = texts.iter().map(|(_, text)| text.text.len()).sum();
    let model = load(&args.engine, bytes, &cancel)?;
    let layers = args.layers_of(model.facts().n_layer as usize)?;
    let mut prompts = Vec::with_capacity(texts.len());
    for (side, text) in &texts {
        let prompt = args.manner.read(&model, text).map_err(probing::told)?;
        prompts.push((*side, prompt));
    }
    let settings = steer::settings(args.engine.settings(&cancel));
    let rooms = prompts.iter().map(|(_, prompt)| prompt.ids.len());
    let mut sessions = Sessions::new(&args.engine, &model, settings, rooms);
    let progress = progress::stderr(false);
    progress.start("learning", Unit::Items("texts"), prompts.len() as u64, 0);
    let mut learning = Learning::new(&model);
    for (side, prompt) in &prompts {
        let session = sessions.of(prompt.ids.len())?;
        let added = learning.add(session, prompt, *side);
        if let Err(error) = added {
            progress.finish();
            if cancel.is_set() {
                // The mean of only some of the texts would be another direction.
                progress.note("interrupted: nothing was written");
                return Err(Interrupted.into());
            }
            return Err(told(error));
        }
        progress.advance(1);
    }
    progress.finish();
    let (vector, directions) = learning.finish(&layers).map_err(told)?;
    let bytes = vector.to_bytes(&model.facts().arch).map_err(explain)?;
    output.write(&bytes).map_err(output_error)?;

    let n_plus = prompts.iter().filter(|(side, _)| *side == Side::Plus);
    let n_plus = n_plus.count();
    let learned = Learned {
        model: Subject::of(&model),
        output: args.file.output.display().to_string(),
        plus: n_plus,
        minus: prompts.len() - n_plus,
        written: layers,
        layers: directions,
    };
    let mut out = Output::stdout();
    if args.file.json {
        out.json_line(&learned)?;
    } else if !output.is_stdout() {
        print(&mut out, &learned)?;
    }
    Ok(out.flush()?)
}

impl Args {
    /// Returns all texts, those to steer towards first.
    fn texts(&self) -> anyhow::Result<Vec<(Side, Text)>> {
        let side = |side: Side, texts: &[String]| -> Vec<(Side, Text)> {
            let texts = texts.iter();
            texts.map(|text| (side, Text::argument(text))).collect()
        };
        let mut texts = side(Side::Plus, &self.plus);
        texts.extend(side(Side::Minus, &self.minus));
        if let Some(path) = &self.pairs {
            let name = path.display();
            for (at, line) in input::read_text(path)?.lines().enumerate() {
                if line.trim().is_empty() {
                    continue;
                }
                let pair: Pair = serde_json::from_str(line).map_err(|error| {
                    hinted(
                        anyhow!("line {} of {name} is not a pair: {error}", at + 1),
                        "a line is {\"plus\": \"…\", \"minus\": \"…\"}",
                    )
                })?;
                texts.push((Side::Plus, Text::argument(pair.plus)));
                texts.push((Side::Minus, Text::argument(pair.minus)));
            }
        }
        let has = |wanted: Side| texts.iter().any(|(side, _)| *side == wanted);
        match has(Side::Plus) && has(Side::Minus) {
            true => Ok(texts),
            false => {
                let what = "a direction needs texts on both sides, and one side has none";
                let hint =
                    "modelve steer learn --plus 'I love it' --minus 'I hate it' -o love.gguf";
                Err(hinted(UsageError(what.to_owned()), hint))
            }
        }
    }

    /// Returns the layers to write.
    fn layers_of(&self, n_layer: usize) -> anyhow::Result<Vec<usize>> {
        let mut layers = match self.layers.of(n_layer)? {
            Some(layers) => layers,
            None => vec![n_layer / 2],
        };
        layers.sort_unstable();
        layers.dedup();
        if layers.first() == Some(&0) {
            let what = "layer 0 cannot have a direction: llama.cpp adds the first after layer 1";
            return Err(UsageError(what.to_owned()).into());
        }
        Ok(layers)
    }
}

/// Attaches a hint to an error of writing the vector.
fn output_error(error: outfile::Error) -> anyhow::Error {
    results::file_error(error, "choose another name: -o vector.gguf")
}

fn print(out: &mut Output, learned: &Learned) -> std::io::Result<()> {
    let name = human::escape(learned.output.as_bytes());
    let numbers: Vec<String> = learned.written.iter().map(ToString::to_string).collect();
    let layers = match &numbers[..] {
        [one] => format!("a direction for layer {one}"),
        _ => format!("directions for layers {}", numbers.join(", ")),
    };
    let title = format!(
        "{name}: {layers}, from {} to steer towards and {} to steer away from",
        texts(learned.plus),
        texts(learned.minus)
    );
    writeln!(out, "{}", out.paint(BOLD, title))?;
    let mut rows = Columns::new(out, &["layer>", "length>", "of a state>", ""]);
    for direction in &learned.layers {
        let written = learned.written.contains(&direction.layer);
        rows.add([
            plain(direction.layer),
            plain(format!("{:.3}", direction.length)),
            plain(percent(direction.length / direction.state)),
            plain(if written { "written" } else { "" }),
        ]);
    }
    out.write_all(rows.lines().as_bytes())?;
    let note = "length: the distance between the two means, which scale 1 adds";
    writeln!(out, "{}", out.paint(DIM, note))
}

fn texts(n: usize) -> String {
    match n {
        1 => "1 text".to_owned(),
        n => format!("{n} texts"),
    }
}
