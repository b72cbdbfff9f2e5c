//! `modelve patch`: where what tells two prompts apart lies.

use std::io::Write;
use std::path::{Path, PathBuf};

use anstyle::{Ansi256Color, Style};
use anyhow::anyhow;
use clap::ValueEnum;

use super::engine::{EngineArgs, cancel_on_ctrl_c};
use super::experiments::{MeasureArgs, measured, partial, session, signed, told};
use super::flags::{Layers, numbers};
use super::probing::{self, clip, interrupted, load, nothing_yet, pad, percent, quoted, tail};
use super::prompt::{PromptArgs, Text, input};
use super::results::Form;
use super::why::COMMON;
use crate::base::human;
use crate::experiment::html;
use crate::experiment::mean::{Averaging, MeanPatch};
use crate::experiment::measure::{Asked, Name};
use crate::experiment::patch::{self, Corrupt, Noise, Options, Patch, What};
use crate::hint::{Usage, hinted};
use crate::output::{self, BOLD, DIM, Output, WARN};
use crate::probe::{Piece, Prompt};
use crate::progress::{self, Unit};
use crate::runtime::{Model, Regime, Session};

/// Flags of `modelve patch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve patch 'The ball hit the bat, and' 'The cave hid the bat, and'
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

    /// Positions of the second prompt, such as 3-5,-1 [default: all]
    #[arg(short, long, value_name = "LIST", allow_hyphen_values = true)]
    pub positions: Option<String>,

    #[command(flatten)]
    pub(crate) layers: Layers,

    /// Replace all positions of a layer, or all its heads, at once as well
    #[arg(long)]
    pub together: bool,

    /// Instead of a second prompt: noise of S deviations on embeddings
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
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        requires = "noise",
        hide_short_help = true
    )]
    pub seed: u64,

    /// Draw the noise so many times, with this seed and those after it, and show the mean
    #[arg(long, value_name = "N", default_value_t = 1, requires = "noise", hide_short_help = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,

    /// Many pairs, from lines of {"clean": "…", "corrupt": "…", "token": "…", "against": "…"}, and their mean
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompts", "noise", "token", "against", "token_id", "against_id"])]
    pub pairs: Option<PathBuf>,

    /// How many tokens to keep of each cell, for --json and --html
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
        let texts = self.prompts.input.file.clone().into_iter();
        let texts = texts.chain(self.pairs.clone());
        self.engine.inputs().into_iter().chain(texts)
    }

    fn what(&self) -> What {
        match self.what {
            WhatArg::Residual => What::Residual,
            WhatArg::Attention => What::Attention,
            WhatArg::Mlp => What::Mlp,
            WhatArg::Head => What::Head,
        }
    }
}

/// Two prompts, and what is measured.
struct Job {
    clean: Prompt,
    corrupt: Corrupt,
    asked: Asked,
}

impl Job {
    /// Tokens of the longer prompt.
    fn tokens(&self) -> usize {
        let other = match &self.corrupt {
            Corrupt::Prompt(prompt) => prompt.ids.len(),
            Corrupt::Noise(_) => 0,
        };
        self.clean.ids.len().max(other)
    }
}

/// Computes and prints.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let given = given(args)?;
    let to = args.form.judge(args.inputs())?;
    let cancel = cancel_on_ctrl_c()?;
    let bytes: usize = given.iter().map(|pair| pair.clean.text.len()).sum();
    let model = load(&args.engine, bytes * 16, &cancel)?;
    let to = to.of(&model);
    let jobs = jobs(args, &model, &given)?;
    let options = Options {
        what: args.what(),
        positions: args.positions.as_deref().map(positions).transpose()?,
        layers: args.layers.of(model.facts().n_layer as usize)?,
        top: args.top,
        together: args.together,
        ..Options::default()
    };
    let progress = progress::stderr(false);
    let is_mean = args.pairs.is_some() || args.samples > 1;
    let mut averaging = Averaging::default();
    // Prompts for either set of RoPE factors have a session of their own.
    let mut sessions: [Option<Session>; 2] = [None, None];
    let mut complete = true;
    for job in &jobs {
        let regime = model.regime(job.tokens());
        let session = match &mut sessions[usize::from(regime == Regime::Long)] {
            Some(session) => session,
            none => {
                let alike = jobs
                    .iter()
                    .filter(|job| model.regime(job.tokens()) == regime);
                let longest = alike.map(Job::tokens).max().unwrap_or(0);
                none.insert(session(&args.engine, &model, longest + COMMON, &cancel)?)
            }
        };
        let options = Options {
            asked: job.asked.clone(),
            ..options.clone()
        };
        let mut shown = 0;
        let found = patch::patch(
            session,
            &job.clean,
            &job.corrupt,
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
        let found = match found.map_err(told) {
            Err(_) if cancel.is_set() && is_mean => {
                complete = false;
                break;
            }
            found => found?,
        };
        if !is_mean {
            to.show_one(html::PATCH, &found, |out| print(out, &found))?;
            return interrupted(found.complete);
        }
        if !found.complete {
            complete = false;
            break;
        }
        averaging
            .add(found, options.positions.as_deref())
            .map_err(told)?;
    }
    let Some(mean) = averaging.finish(complete) else {
        return match complete {
            true => interrupted(complete),
            false => Err(nothing_yet()),
        };
    };
    to.show_one(html::PAIRS, &mean, |out| print_mean(out, &mean))?;
    interrupted(complete)
}

/// A pair as it was given; without a corrupt prompt noise takes its place.
struct Given {
    clean: Text,
    corrupt: Option<Text>,
    asked: Asked,
}

fn given(args: &Args) -> anyhow::Result<Vec<Given>> {
    if let Some(path) = &args.pairs {
        if !args.prompts.input.file.is_empty() {
            return Err(
                Usage("--pairs brings its own prompts: leave out --file".to_owned()).into(),
            );
        }
        return pairs(path);
    }
    let mut texts = args.prompts.some("patch", args.engine.model.is_given())?;
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
    Ok(vec![Given {
        clean: texts.remove(0),
        corrupt: texts.pop(),
        asked: args.measure.asked(),
    }])
}

/// A line of `--pairs`.
#[derive(serde::Deserialize)]
struct Line {
    clean: String,
    corrupt: String,
    token: Option<String>,
    against: Option<String>,
}

fn pairs(path: &Path) -> anyhow::Result<Vec<Given>> {
    let text = input::read_text(path)?;
    let mut given = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(line).map_err(|error| {
            let error = anyhow!("line {} of {} is no pair: {error}", at + 1, path.display());
            hinted(
                error,
                r#"a line is {"clean": "…", "corrupt": "…", "token": "…", "against": "…"}"#,
            )
        })?;
        given.push(Given {
            clean: Text::argument(line.clean),
            corrupt: Some(Text::argument(line.corrupt)),
            asked: Asked {
                token: line.token.map(Name::Text),
                against: line.against.map(Name::Text),
            },
        });
    }
    match given.is_empty() {
        true => Err(Usage(format!("{} holds no pair", path.display())).into()),
        false => Ok(given),
    }
}

/// What is computed: a job for each pair, or for each draw of the noise.
fn jobs(args: &Args, model: &Model, given: &[Given]) -> anyhow::Result<Vec<Job>> {
    let read = |text: &Text| args.prompts.read(model, text).map_err(probing::told);
    let mut jobs = Vec::new();
    for pair in given {
        let clean = read(&pair.clean)?;
        let corrupt: Vec<Corrupt> = match (&pair.corrupt, args.noise, &args.noised) {
            (None, Some(scale), Some(noised)) => {
                let positions = places(&clean.pieces(model.vocab()), noised)?;
                let draws = (0..u64::from(args.samples)).map(|draw| {
                    Corrupt::Noise(Noise {
                        scale,
                        positions: positions.clone(),
                        seed: args.seed.wrapping_add(draw),
                    })
                });
                draws.collect()
            }
            (Some(corrupt), ..) => vec![Corrupt::Prompt(read(corrupt)?)],
            (None, ..) => Vec::new(),
        };
        jobs.extend(corrupt.into_iter().map(|corrupt| Job {
            clean: clean.clone(),
            corrupt,
            asked: pair.asked.clone(),
        }));
    }
    Ok(jobs)
}

/// Positions from 0, from the end where negative: `3-5,-1`. Those that the prompt does not have are
/// found when it is read.
fn positions(list: &str) -> anyhow::Result<Vec<i32>> {
    let wrong = || {
        Usage(format!(
            "{list:?} is no list of positions, such as 0-5,9 or -1"
        ))
    };
    let mut positions = Vec::new();
    for item in list.split(',').map(str::trim) {
        let range = item
            .get(1..)
            .and_then(|rest| rest.find('-'))
            .map(|at| at + 1);
        let (from, to) = match range {
            Some(at) => (&item[..at], &item[at + 1..]),
            None => (item, item),
        };
        let from: i32 = from.trim().parse().map_err(|_| wrong())?;
        let to: i32 = to.trim().parse().map_err(|_| wrong())?;
        // A range of a hundred million positions is a mistake, not a wish.
        if to < from || (from < 0) != (to < 0) || to - from > 1 << 20 {
            return Err(wrong().into());
        }
        positions.extend(from..=to);
    }
    Ok(positions)
}

/// The positions that a list names, or the tokens of a text in the prompt.
fn places(pieces: &[Piece], named: &str) -> anyhow::Result<Vec<usize>> {
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
    writeln!(
        out,
        "share of the difference that is back when {} is the clean prompt's; 1 is all of it\n",
        replaced(found.what)
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
    let together = found.together.as_deref();
    print_map(out, &found.layers, &found.recovered, together, &titles)?;
    if found.clean_value == found.corrupt_value {
        let note = "both prompts give the same measure, so that no share can be told";
        writeln!(out, "{}", out.paint(DIM, note))?;
    }
    partial(out, found.complete)
}

fn replaced(what: What) -> &'static str {
    match what {
        What::Residual => "the residual stream after a layer",
        What::Attention => "what a layer's attention adds",
        What::Mlp => "what a layer's MLP adds",
        What::Head => "what one head gives, at all positions",
    }
}

fn print_mean(out: &mut Output, mean: &MeanPatch) -> std::io::Result<()> {
    let n = mean.pairs.len();
    let of = match mean.pairs.iter().any(|pair| pair.noise.is_some()) {
        true => "draws of noise",
        false => "pairs",
    };
    writeln!(out, "{}", out.paint(BOLD, format!("the mean of {n} {of}")))?;
    if !mean.alike.is_empty() {
        let pairs: Vec<String> = mean.alike.iter().map(usize::to_string).collect();
        let note = format!(
            "left out, as both prompts give the same measure: {}",
            pairs.join(", ")
        );
        writeln!(out, "{}", out.paint(WARN, note))?;
    }
    if n == 0 {
        return Ok(());
    }
    writeln!(
        out,
        "share of the difference that is back when {} is the clean prompt's; 1 is all of it\n",
        replaced(mean.what)
    )?;
    let titles: Vec<String> = match &mean.heads {
        Some(heads) => heads.iter().map(|head| format!("head {head}")).collect(),
        None => mean.pieces.iter().map(quoted).collect(),
    };
    print_map(out, &mean.layers, &mean.recovered, None, &titles)?;
    let halves = mean.interval.iter().flatten().flatten();
    let widest = halves.copied().fold(0.0, f64::max);
    let note = format!(
        "95 % intervals are at most {widest:.2} to either side; --json and --html tell each"
    );
    writeln!(out, "{}", out.paint(DIM, note))?;
    partial(out, mean.complete)
}

/// Layers by columns, the last layer on top, as many of the last columns as fit.
fn print_map(
    out: &mut Output,
    layers: &[usize],
    recovered: &[Vec<Option<f64>>],
    together: Option<&[Option<f64>]>,
    titles: &[String],
) -> std::io::Result<()> {
    let first = format!("layer {}", layers.last().unwrap_or(&0)).len() + 2;
    let extra = usize::from(together.is_some());
    let fit = (output::width().saturating_sub(first) / WIDE).saturating_sub(extra);
    let skipped = titles.len().saturating_sub(fit.max(1));
    let mut line = pad("", first);
    for title in &titles[skipped..] {
        line += &pad(&clip(title, WIDE - 1), WIDE);
    }
    if extra > 0 {
        line += "all";
    }
    writeln!(out, "{}", out.paint(BOLD, line.trim_end()))?;
    for (i, layer) in layers.iter().enumerate().rev() {
        let mut line = out.paint(DIM, pad(&format!("layer {layer}"), first));
        let cells = recovered[i][skipped..].iter();
        for share in cells.chain(together.map(|all| &all[i])) {
            let text = share.map_or("–".to_owned(), told_share);
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
    Ok(())
}

/// `0.73`, with its sign only where it is not zero.
fn told_share(share: f64) -> String {
    let share = (100.0 * share).round() / 100.0;
    // Not −0.
    format!("{:.2}", share + 0.0)
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
        (_, 0) if share.abs() < 0.005 => DIM,
        (_, 0) => Style::new(),
        (false, step) => colour(BLUES[step.min(4)]),
        (true, step) => colour(REDS[step.min(2)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_counted_from_either_end() {
        let read = |list: &str| positions(list).ok();
        assert_eq!(read("0-2, 5,-1"), Some(vec![0, 1, 2, 5, -1]));
        assert_eq!(read("-3--1"), Some(vec![-3, -2, -1]));
        for bad in ["", "a", "3-1", "-1-3", "1-", "--1", "0-99999999", "1,,2"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn noised_tokens_are_named_by_text_or_place() {
        let pieces = ["<s>", " The", " bat", "s", "man"].map(|p| Piece::new(p.into()));
        assert_eq!(places(&pieces, "1-2").unwrap(), [1, 2]);
        assert_eq!(places(&pieces, "batsman").unwrap(), [2, 3, 4]);
        assert_eq!(places(&pieces, "The b").unwrap(), [1, 2]);
        assert!(places(&pieces, "ball").is_err());
        assert!(places(&pieces, "").is_err());
    }

    #[test]
    fn shares_have_no_negative_zero() {
        assert_eq!(told_share(-0.001), "0.00");
        assert_eq!(told_share(-0.126), "-0.13");
        assert_eq!(told_share(1.0), "1.00");
    }
}
