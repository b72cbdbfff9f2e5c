//! `modelve patch`: where what tells two prompts apart lies.

use std::io::Write;
use std::path::PathBuf;

use anstyle::{Ansi256Color, Style};
use clap::ValueEnum;

use super::engine::{EngineArgs, cancel_on_ctrl_c};
use super::experiments::{MeasureArgs, measured, session, signed, told};
use super::flags::{Layers, numbers};
use super::probing::{clip, interrupted, load, pad, percent, quoted, tail};
use super::prompt::PromptArgs;
use super::results::Form;
use super::why::COMMON;
use crate::base::human;
use crate::experiment::html;
use crate::experiment::patch::{self, Corrupt, Noise, Options, Patch, What};
use crate::hint::{Usage, hinted};
use crate::output::{self, BOLD, DIM, Output};
use crate::progress::{self, Unit};

/// Flags of `modelve patch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve patch 'The ball hit the bat, and' 'The cave hid the bat, and'
  modelve patch 'The ball hit the bat, and' 'The cave hid the bat, and' --token it --against the
  modelve patch 'The ball hit the bat, and' 'The cave hid the bat, and' --what head
  modelve patch 'The ball hit the bat, and' --noise 3 --noised ball   noise on one word's embedding
  modelve patch 'The ball hit the bat, and' 'The cave hid the bat, and' --html patch.html

The model reads the second prompt, and one value at a time is replaced with what the first has
there. A cell tells what share of the difference between the two that brings back.")]
pub struct Args {
    #[command(flatten)]
    pub(crate) prompts: PromptArgs,

    #[command(flatten)]
    pub(crate) measure: MeasureArgs,

    /// What is replaced: the residual stream, what attention or an MLP adds, or a head's output
    #[arg(long, value_name = "WHAT", default_value = "residual")]
    pub what: WhatArg,

    /// Positions of the second prompt, such as 3,5 or -1 for the last [default: all]
    #[arg(short, long, value_name = "LIST", allow_hyphen_values = true)]
    pub positions: Option<String>,

    #[command(flatten)]
    pub(crate) layers: Layers,

    /// Replace all positions of a layer, or all its heads, at once as well
    #[arg(long)]
    pub together: bool,

    /// Instead of a second prompt: noise of so many standard deviations on embeddings
    #[arg(long, value_name = "S", requires = "noised")]
    pub noise: Option<f64>,

    /// The tokens that get the noise: a text in the prompt, or positions such as 3-5
    #[arg(
        long,
        value_name = "TEXT|LIST",
        requires = "noise",
        allow_hyphen_values = true
    )]
    pub noised: Option<String>,

    /// What decides the noise
    #[arg(long, value_name = "N", default_value_t = 0, requires = "noise")]
    pub seed: u64,

    /// How many of the likeliest tokens to keep of each cell, for --json and --html
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    pub top: usize,

    #[command(flatten)]
    pub(crate) form: Form,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// `--what`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum WhatArg {
    /// The residual stream after a layer
    #[default]
    Residual,
    /// What a layer's attention adds to it
    Attention,
    /// What a layer's MLP adds to it
    Mlp,
    /// What a head gives, at all positions
    Head,
}

impl Args {
    /// The files that are read, which are never written.
    fn inputs(&self) -> impl Iterator<Item = PathBuf> {
        let texts = self.prompts.input.file.clone();
        self.engine.inputs().into_iter().chain(texts)
    }
}

/// Computes and prints.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let texts = args.prompts.some("patch", args.engine.model.is_given())?;
    let wanted = if args.noise.is_some() { 1 } else { 2 };
    if texts.len() != wanted {
        let usage = Usage(match wanted {
            1 => format!("patch with --noise takes one prompt, not {}", texts.len()),
            _ => format!(
                "patch takes two prompts, a clean and a corrupt one, not {}",
                texts.len()
            ),
        });
        return Err(hinted(
            usage,
            "modelve patch 'The ball hit the bat, and' 'The cave hid the bat, and'",
        ));
    }
    if args
        .noise
        .is_some_and(|scale| !scale.is_finite() || scale <= 0.0)
    {
        return Err(
            Usage("--noise takes a number of standard deviations above 0".to_owned()).into(),
        );
    }
    let to = args.form.judge(args.inputs())?;
    let cancel = cancel_on_ctrl_c()?;
    let bytes: usize = texts.iter().map(|text| text.text.len()).sum();
    let model = load(&args.engine, bytes * 8, &cancel)?;
    let to = to.of(&model);
    let mut prompts = Vec::with_capacity(texts.len());
    for text in &texts {
        let prompt = args.prompts.read(&model, text);
        prompts.push(prompt.map_err(super::probing::told)?);
    }
    let longest = prompts
        .iter()
        .map(|prompt| prompt.ids.len())
        .max()
        .unwrap_or(0);
    let clean = prompts.remove(0);
    let corrupt = match (args.noise, &args.noised) {
        (Some(scale), Some(noised)) => Corrupt::Noise(Noise {
            scale,
            positions: places(&clean.pieces(model.vocab()), noised)?,
            seed: args.seed,
        }),
        _ => Corrupt::Prompt(prompts.remove(0)),
    };
    let n = match &corrupt {
        Corrupt::Prompt(prompt) => prompt.ids.len(),
        Corrupt::Noise(_) => clean.ids.len(),
    };
    let positions = args.positions.as_deref();
    let positions = positions
        .map(|list| numbers(list, n, "position"))
        .transpose()?;
    let options = Options {
        asked: args.measure.asked(),
        what: match args.what {
            WhatArg::Residual => What::Residual,
            WhatArg::Attention => What::Attention,
            WhatArg::Mlp => What::Mlp,
            WhatArg::Head => What::Head,
        },
        positions: positions.map(|list| list.into_iter().map(|at| at as i32).collect()),
        layers: args.layers.of(model.facts().n_layer as usize)?,
        top: args.top,
        together: args.together,
    };
    let mut session = session(&args.engine, &model, longest + COMMON, &cancel)?;
    let progress = progress::stderr(false);
    let mut shown = 0;
    let found = patch::patch(
        &mut session,
        &clean,
        &corrupt,
        &options,
        &mut |done, total| {
            if shown == 0 {
                progress.start("patching", Unit::Items("places"), total as u64, 0);
            }
            progress.advance((done - shown) as u64);
            shown = done;
        },
    );
    progress.finish();
    let found = found.map_err(told)?;
    to.show_one(html::PATCH, &found, |out| print(out, &found))?;
    interrupted(found.complete)
}

/// The positions that a list names, or the tokens of a text in the prompt.
fn places(pieces: &[crate::probe::Piece], named: &str) -> anyhow::Result<Vec<usize>> {
    if let Ok(list) = numbers(named, pieces.len(), "position") {
        return Ok(list);
    }
    let mut text: Vec<u8> = Vec::new();
    let mut ends = Vec::with_capacity(pieces.len());
    for piece in pieces {
        text.extend_from_slice(piece.as_ref());
        ends.push(text.len());
    }
    let wanted = named.as_bytes();
    let at = (!wanted.is_empty())
        .then(|| text.windows(wanted.len()).position(|part| part == wanted))
        .flatten();
    let Some(at) = at else {
        let what = format!("{named:?} is neither a text in the prompt nor a list of positions");
        return Err(Usage(what).into());
    };
    let starts = [0].into_iter().chain(ends.iter().copied());
    let places = starts.zip(&ends).enumerate();
    let places = places.filter(|(_, (start, end))| *start < at + wanted.len() && **end > at);
    Ok(places.map(|(i, _)| i).collect())
}

/// Columns of a cell, with the space after it.
const WIDE: usize = 8;

fn print(out: &mut Output, found: &Patch) -> std::io::Result<()> {
    let width = output::width();
    let prompt = |text: &str| tail(text, width.saturating_sub(12));
    let answer = |top: &[crate::probe::Choice]| {
        let top = top.first();
        top.map_or(String::new(), |c| {
            format!("{} {}", quoted(&c.piece), percent(c.prob).trim())
        })
    };
    let corrupt = match &found.noise {
        Some(noise) => {
            let of: Vec<String> = noise.positions.iter().map(usize::to_string).collect();
            format!("noise of {} deviations on {}", noise.scale, of.join(", "))
        }
        None => prompt(&found.corrupt),
    };
    for (name, text, value, top) in [
        (
            "clean",
            prompt(&found.clean),
            found.clean_value,
            &found.clean_top,
        ),
        ("corrupt", corrupt, found.corrupt_value, &found.corrupt_top),
    ] {
        writeln!(
            out,
            "{} {}",
            out.paint(DIM, pad(name, 8)),
            out.paint(BOLD, text)
        )?;
        writeln!(
            out,
            "{:8} says {}, measure {}",
            "",
            answer(top),
            signed(value)
        )?;
    }
    writeln!(out, "\nmeasured: {}", measured(&found.measure))?;
    if let Some(sentence) = &found.unaligned {
        writeln!(out, "{}", human::escape(sentence.as_bytes()))?;
    }
    let what = match found.what {
        What::Residual => "the residual stream after a layer",
        What::Attention => "what a layer's attention adds",
        What::Mlp => "what a layer's MLP adds",
        What::Head => "what one head gives, at all positions",
    };
    writeln!(
        out,
        "share of the difference that is back when {what} is the clean prompt's\n"
    )?;
    let titles: Vec<String> = match &found.heads {
        Some(heads) => heads.iter().map(|head| format!("head {head}")).collect(),
        None => {
            let pieces = found
                .positions
                .iter()
                .map(|&at| quoted(&found.corrupt_pieces[at]));
            pieces.collect()
        }
    };
    print_map(out, found, &titles, width)
}

fn print_map(
    out: &mut Output,
    found: &Patch,
    titles: &[String],
    width: usize,
) -> std::io::Result<()> {
    let first = format!("layer {}", found.layers.last().unwrap_or(&0)).len() + 2;
    let extra = usize::from(found.together.is_some());
    let fit = (width.saturating_sub(first) / WIDE)
        .saturating_sub(extra)
        .max(1);
    let skipped = titles.len().saturating_sub(fit);
    let mut line = pad("", first);
    for title in &titles[skipped..] {
        line += &pad(&clip(title, WIDE - 1), WIDE);
    }
    if extra > 0 {
        line += "all";
    }
    writeln!(out, "{}", out.paint(BOLD, line.trim_end()))?;
    for (i, layer) in found.layers.iter().enumerate().rev() {
        let mut line = out.paint(DIM, pad(&format!("layer {layer}"), first));
        let cells = found.recovered[i][skipped..].iter();
        let all = found.together.as_ref().map(|all| &all[i]);
        for share in cells.chain(all) {
            let text = share.map_or("–".to_owned(), |share| format!("{:.0} %", 100.0 * share));
            let text = text.replace('-', "−");
            line += &out.paint(shade(share.unwrap_or(0.0)), format!("{text:>6} "));
            line.push(' ');
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    if skipped > 0 {
        let note = format!(
            "the last {} of {} columns; --positions selects others, --html shows all",
            titles.len() - skipped,
            titles.len()
        );
        writeln!(out, "{}", out.paint(DIM, note))?;
    }
    if found.clean_value == found.corrupt_value {
        let note = "both prompts give the same measure, so that no share can be told";
        writeln!(out, "{}", out.paint(DIM, note))?;
    }
    Ok(())
}

/// Backgrounds by share: blue for what is brought back, red for what is driven further away.
fn shade(share: f64) -> Style {
    const BLUES: [u8; 5] = [0, 17, 18, 19, 20];
    const REDS: [u8; 3] = [0, 52, 88];
    let colour = |n: u8| {
        Style::new()
            .bg_color(Some(Ansi256Color(n).into()))
            .fg_color(Some(Ansi256Color(231).into()))
    };
    let step = (share.abs().min(1.0) * 5.0) as usize;
    match (share < 0.0, step) {
        (_, 0) => Style::new(),
        (false, step) => colour(BLUES[step.min(4)]),
        (true, step) => colour(REDS[step.min(2)]),
    }
}
