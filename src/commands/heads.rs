//! `modelve heads`: what each head does.

use std::io::Write;

use super::engine::{EngineArgs, cancel_on_ctrl_c};
use super::experiments::{partial, told};
use super::probing::{
    clip, columns, interrupted, load, nothing_yet, percent, quoted, session, telling,
};
use super::prompt::PromptArgs;
use super::results::Form;
use crate::experiment::detect::{self, Heads, Options, Said, Table};
use crate::experiment::html::HEADS;
use crate::hint::UsageError;
use crate::output::{self, ACCENT, BOLD, DIM, Output};
use crate::progress::{self, Unit};
use crate::runtime::FlashAttention;
use crate::table::{Columns, cell, plain};

/// Flags of `modelve heads`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve heads                                      what each head does with random tokens
  modelve heads 'The ball hit the bat, and'          and which tokens it promotes after a prompt
  modelve heads --html heads.html                    maps of all heads
  modelve heads --length 100 --draws 10 --seed 7     more and other tokens

Each sequence of random tokens is repeated once. In the second copy, an induction head attends to
the token that followed the same token before, a duplicate-token head to that token itself.")]
pub struct Args {
    #[command(flatten)]
    pub(crate) prompts: PromptArgs,

    /// Number of tokens to show of those that each head promotes
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    pub top: usize,

    /// Number of random tokens before they are repeated
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_two)]
    pub length: usize,

    /// Number of sequences of random tokens
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_least_one)]
    pub draws: usize,

    /// Seed of the random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    #[command(flatten)]
    pub(crate) form: Form,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

fn number(text: &str, least: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| (least..=1 << 20).contains(n));
    number.ok_or_else(|| format!("a number of {least} or more"))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    number(text, 1)
}

fn at_least_two(text: &str) -> Result<usize, String> {
    number(text, 2)
}

impl Args {
    /// Returns whether there is a prompt. It is optional, so standard input is only read when it is
    /// named.
    fn has_prompt(&self) -> bool {
        !self.prompts.prompts.is_empty() || !self.prompts.input.file.is_empty()
    }
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let text = match args.has_prompt() {
        true => Some((args.prompts).one("heads", args.engine.model.is_given())?),
        false => None,
    };
    let to = args.form.judge(args.engine.reading(&args.prompts.input))?;
    let cancel = cancel_on_ctrl_c()?;
    let base = args.engine.settings(&cancel);
    if base.flash_attention == FlashAttention::On {
        let what = "flash attention keeps no weights to show: leave out --flash-attn on";
        return Err(UsageError(what.to_owned()).into());
    }
    if base.kv_type.is_quantized() {
        let what = "a quantized KV cache needs flash attention, which keeps no weights to show: leave out --kv-type";
        return Err(UsageError(what.to_owned()).into());
    }
    let options = Options {
        seed: args.seed,
        length: args.length,
        draws: args.draws,
        top: args.top,
    };
    let bytes = text.as_ref().map_or(0, |text| text.text.len());
    let expected = 3 * 2 * options.length.saturating_mul(options.draws);
    let model = load(&args.engine, bytes.saturating_add(expected), &cancel)?;
    let to = to.of(&model);
    let prompt = match &text {
        Some(text) => Some((args.prompts.read(&model, text)).map_err(super::probing::told)?),
        None => None,
    };
    let longest = options.longest(&model, prompt.as_ref());
    let settings = detect::settings(&model, longest, base);
    let mut session = session(&args.engine, &model, longest, settings)?;
    let progress = progress::stderr(false);
    let total = options.total(&model, prompt.as_ref()) as u64;
    progress.start("looking", Unit::Items("tokens"), total, 0);
    let found = detect::heads(
        &mut session,
        prompt.as_ref(),
        &options,
        &mut telling(&*progress),
    );
    progress.finish();
    let found = found.map_err(told)?;
    if found.random.is_empty() {
        return Err(nothing_yet());
    }
    to.show_one(HEADS, &found, |out| {
        print(out, &found)?;
        partial(out, found.complete)
    })?;
    interrupted(found.complete)
}

/// A kind of head, by the pattern it attends to most: a letter, a name, and its scores.
type Kind = (char, &'static str, fn(&Heads) -> &Table);

const KINDS: [Kind; 4] = [
    ('I', "induction", |found| &found.scores.induction),
    ('D', "duplicate token", |found| &found.scores.duplicate),
    ('P', "previous token", |found| &found.scores.previous),
    ('F', "first token", |found| &found.scores.first),
];

/// The weight on its pattern from which a head is classified.
const MUCH: f64 = 0.4;
/// Number of heads of each kind that are listed.
const NAMED: usize = 5;

fn print(out: &mut Output, found: &Heads) -> std::io::Result<()> {
    let title = format!(
        "{} random tokens, twice; {} (seed {})",
        found.length,
        match found.random.len() {
            1 => "1 draw".to_owned(),
            n => format!("{n} draws"),
        },
        found.seed
    );
    writeln!(out, "{}", out.paint(BOLD, title))?;
    print_map(out, found)?;
    writeln!(out)?;
    let mut rows = Columns::new(out, &["weight on", "layer.head, share of its attention"]);
    for (letter, name, table) in KINDS {
        let best = table(found).ranked().into_iter().take(NAMED);
        let best: Vec<String> = best.map(|(l, h, x)| format!("{l}.{h} {x:.2}")).collect();
        rows.add([plain(format!("{letter} {name}")), plain(best.join("  "))]);
    }
    let mut sharpest = found.scores.entropy_bits.ranked();
    sharpest.reverse();
    let sharpest = sharpest.into_iter().take(NAMED);
    let sharpest: Vec<String> = sharpest
        .map(|(l, h, x)| format!("{l}.{h} {x:.2}"))
        .collect();
    rows.add([plain("  sharpest, bits"), plain(sharpest.join("  "))]);
    out.write_all(rows.lines().as_bytes())?;
    match &found.said {
        Some(said) => {
            writeln!(out)?;
            print_said(out, said)
        }
        None => {
            let hint = "with a prompt: which tokens each head promotes; --html FILE draws maps";
            writeln!(out, "{}", out.paint(DIM, hint))
        }
    }
}

/// Prints every head as a letter, with one row per layer.
fn print_map(out: &mut Output, found: &Heads) -> std::io::Result<()> {
    let legend = KINDS.map(|(letter, name, _)| format!("{letter} {name}"));
    let legend = format!(
        "{}: more than {:.0} % of a head's attention",
        legend.join(", "),
        100.0 * MUCH
    );
    writeln!(out, "{}", out.paint(DIM, legend))?;
    // Heads that do not fit in a line of the terminal are only in the table.
    let fit = output::width().saturating_sub(7) / 2;
    let shown = found.heads.min(fit);
    let header: String = (0..shown)
        .map(|head| format!("{:>2}", head % 100))
        .collect();
    writeln!(out, "{}", out.paint(DIM, format!("layer {header}")))?;
    for layer in 0..found.layers {
        let mut line = format!("{layer:>5} ");
        let n = found.scores.first.0.get(layer).map_or(0, Vec::len);
        for head in 0..n.min(shown) {
            let much = |kind: &&Kind| kind.2(found).0[layer][head] > MUCH;
            line += " ";
            line += &match KINDS.iter().find(much) {
                // A head with nothing to attend to often attends to the first token.
                Some(('F', ..)) => out.paint(DIM, 'F'),
                Some((letter, ..)) => out.paint(ACCENT, letter),
                None => out.paint(DIM, '·'),
            };
        }
        if n > shown {
            line += " …";
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Number of heads listed for a prompt, those that contribute most to its answer.
const TOLD: usize = 12;

fn print_said(out: &mut Output, said: &Said) -> std::io::Result<()> {
    let last = said.pieces.last().map(quoted).unwrap_or_default();
    let answer = quoted(&said.answer.piece);
    let prob = percent(said.answer.prob);
    let title = format!(
        "at the last token, {last}: the answer is {answer}, {}",
        prob.trim()
    );
    writeln!(out, "{}", out.paint(BOLD, title))?;
    if let Some(why) = &said.writes_missing {
        writeln!(
            out,
            "{}",
            out.paint(
                DIM,
                format!("which tokens the heads promote is not known: {why}")
            )
        )?;
        return Ok(());
    }
    let heads = said.last.iter().enumerate().flat_map(|(layer, heads)| {
        let heads = heads.iter().enumerate();
        heads.map(move |(head, told)| (layer, head, told))
    });
    let size = |told: &detect::Last| told.to_answer.unwrap_or(0.0).abs();
    let mut heads: Vec<_> = heads.collect();
    heads.sort_by(|a, b| size(b.2).total_cmp(&size(a.2)));
    let titles = ["head", "to answer>", "looks at", "writes"];
    let mut rows = Columns::new(out, &titles);
    let room = output::width().saturating_sub(24) / 2;
    for (layer, head, told) in heads.into_iter().take(TOLD) {
        let mut order: Vec<usize> = (0..told.weights.len()).collect();
        order.sort_by(|&a, &b| told.weights[b].total_cmp(&told.weights[a]));
        let looks = order.into_iter().take(3).map(|at| {
            let weight = percent(told.weights[at].into());
            format!("{} {}", quoted(&said.pieces[at]), weight.trim())
        });
        let writes = told.writes.iter().map(|w| quoted(&w.piece));
        rows.add([
            plain(format!("{layer}.{head}")),
            cell(format!("{:+.2}", told.to_answer.unwrap_or(0.0)), ACCENT),
            plain(fitting(looks, room)),
            plain(fitting(writes, room)),
        ]);
    }
    out.write_all(rows.lines().as_bytes())?;
    let note = "to answer: logits that the head adds to it, above the mean of the vocabulary";
    writeln!(out, "{}", out.paint(DIM, note))
}

/// Joins as many of these as fit in a line; the first is cut if necessary.
fn fitting(parts: impl Iterator<Item = String>, room: usize) -> String {
    let mut line = String::new();
    for part in parts {
        if line.is_empty() {
            line = clip(&part, room);
        } else if columns(&line) + 2 + columns(&part) <= room {
            line = format!("{line}  {part}");
        } else {
            break;
        }
    }
    line
}
