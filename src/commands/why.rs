//! `modelve why`: the words an answer depends on, and the contributions of the model's parts.

use std::io::Write;

use super::engine::{EngineArgs, cancel_on_ctrl_c};
use super::experiments::{MeasureArgs, measured, painted, partial, session, signed, told};
use super::probing::{
    bar, clip, columns, end, interrupted, load, pad, percent, quoted, tail, telling_of,
};
use super::prompt::PromptArgs;
use super::results::Form;
use crate::base::human;
use crate::experiment::html;
use crate::experiment::why::{self, Options, Why};
use crate::output::{self, BOLD, DIM, GOOD, Output, WARN};
use crate::progress;

/// Flags of `modelve why`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve why 'The ball hit the bat, and'                        the likeliest against the second
  modelve why 'The ball hit the bat, and' --token it --against the
  modelve why 'The ball hit the bat, and' --token it             against the mean of all answers
  modelve why 'The ball hit the bat, and' --html why.html        a page to read

Three views of one number, logit(token) − logit(against): without each word, as a sum over the
parts of the model, and with the largest of those parts actually removed.")]
pub struct Args {
    #[command(flatten)]
    pub(crate) prompts: PromptArgs,

    #[command(flatten)]
    pub(crate) measure: MeasureArgs,

    /// Leave out single tokens instead of words
    #[arg(long)]
    pub tokens: bool,

    /// Number of parts to show
    #[arg(short = 'n', long, value_name = "N", default_value_t = 12)]
    pub top: usize,

    #[command(flatten)]
    pub(crate) form: Form,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Number of tokens of room for the common beginning of the two answers of a measure.
pub const COMMON: usize = 16;

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let text = args.prompts.one("why", args.engine.model.is_given())?;
    let to = args.form.judge(args.engine.reading(&args.prompts.input))?;
    let cancel = cancel_on_ctrl_c()?;
    let model = load(&args.engine, text.text.len() * 8, &cancel)?;
    let to = to.of(&model);
    let prompt = args
        .prompts
        .read(&model, &text)
        .map_err(super::probing::told)?;
    let mut session = session(&args.engine, &model, prompt.ids.len() + COMMON, &cancel)?;
    let options = Options {
        asked: args.measure.asked(),
        by_token: args.tokens,
        ..Options::default()
    };
    let progress = progress::stderr(false);
    let mut telling = telling_of(&*progress, "trying", "variants");
    let found = why::why(&mut session, &prompt, &options, &mut telling);
    progress.finish();
    let found = found.map_err(told)?;
    to.show_one(html::WHY, &found, |out| print(out, &found, args.top))?;
    interrupted(found.complete)
}

fn print(out: &mut Output, why: &Why, top: usize) -> std::io::Result<()> {
    let width = output::width();
    let title = format!("{} _", tail(&why.prompt, width - 2));
    writeln!(out, "{}", out.paint(BOLD, title))?;
    for choice in why.top.iter().take(3) {
        let text = pad(&clip(&quoted(&choice.piece), 24), 24);
        writeln!(out, "  {text} {}", percent(choice.prob))?;
    }
    let line = format!("{}: {}", measured(&why.measure), signed(why.value));
    writeln!(out, "\n{line}")?;
    if why.measure.against.is_none() {
        let prob = percent(why.logprob.exp());
        let line = format!(
            "probability {}, log-probability {:.3}",
            prob.trim(),
            why.logprob
        );
        writeln!(out, "{}", out.paint(DIM, line))?;
    }
    print_words(out, why, width)?;
    print_parts(out, why, top, width)?;
    print_proof(out, why)?;
    partial(out, why.complete)
}

fn print_words(out: &mut Output, why: &Why, width: usize) -> std::io::Result<()> {
    if why.words.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", out.paint(BOLD, "without a word"))?;
    let names: Vec<String> = why
        .words
        .iter()
        .map(|word| end(&quoted(&word.text), 24))
        .collect();
    let name = names.iter().map(|name| columns(name)).max().unwrap_or(0);
    let most = why
        .words
        .iter()
        .map(|word| word.change.abs())
        .fold(0.0, f64::max);
    let room = width.saturating_sub(name + 50).clamp(8, 32);
    for (word, text) in why.words.iter().zip(names) {
        let change = painted(out, word.change, &format!("{:>8}", signed(word.change)));
        let drawn = painted(
            out,
            word.change,
            &pad(&bar(word.change.abs() / most, room), room),
        );
        let says = format!(
            "then {} {}",
            quoted(&word.says.piece),
            percent(word.says.prob).trim()
        );
        let says = out.paint(DIM, clip(&says, 34));
        writeln!(out, "  {} {change} {drawn} {says}", pad(&text, name))?;
    }
    Ok(())
}

fn print_parts(out: &mut Output, why: &Why, top: usize, width: usize) -> std::io::Result<()> {
    let sum = &why.attribution;
    for note in &sum.notes {
        writeln!(out, "\n{}", human::escape(note.as_bytes()))?;
    }
    if sum.parts.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", out.paint(BOLD, "the sum of its parts"))?;
    let mut parts = sum.parts.clone();
    parts.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));
    let rest: f64 = parts.iter().skip(top).map(|part| part.value).sum();
    let others = parts.len().saturating_sub(top);
    parts.truncate(top);
    let mut rows: Vec<(String, f64)> = parts
        .iter()
        .map(|part| (part.part.to_string(), part.value))
        .collect();
    if others > 0 {
        rows.push((format!("{others} others"), rest));
    }
    let name = rows
        .iter()
        .map(|(name, _)| columns(name))
        .max()
        .unwrap_or(0);
    let most = rows
        .iter()
        .map(|(_, value)| value.abs())
        .fold(0.0, f64::max);
    let room = width.saturating_sub(name + 16).clamp(8, 60) / 2;
    for (text, value) in rows {
        let drawn = bar(value.abs() / most, room);
        // Bars to the left of the axis are whole columns, because there are no block characters
        // filled from the right.
        let left = "█".repeat((value.abs() / most * room as f64).round() as usize);
        let line = match value < 0.0 {
            true => format!("{left:>room$}│"),
            false => format!("{:room$}│{drawn}", ""),
        };
        let number = painted(out, value, &format!("{:>8}", signed(value)));
        let line = painted(out, value, &line);
        writeln!(out, "  {} {number} {line}", pad(&text, name))?;
    }
    let line = format!(
        "  sum {} of {}; not explained: {}",
        signed(sum.sum),
        signed(why.value),
        signed(sum.error)
    );
    writeln!(out, "{}", out.paint(DIM, line))
}

fn print_proof(out: &mut Output, why: &Why) -> std::io::Result<()> {
    if why.proof.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{}",
        out.paint(BOLD, "with the largest of them removed")
    )?;
    let mut rows = crate::table::Columns::new(
        out,
        &[
            "part",
            "contributes>",
            "removed at the last token>",
            "removed everywhere>",
            "then says",
        ],
    );
    let all = why.proof.len() - 1;
    for proof in &why.proof {
        use crate::table::{cell, plain};
        // Removing a part that contributes to an answer should lower the measure.
        let agrees = proof.change_last * proof.contribution <= 0.0;
        let style = if agrees { GOOD } else { WARN };
        let name = match proof.part.contains(" + ") {
            true => format!("these {all} together"),
            false => proof.part.clone(),
        };
        let says = format!(
            "{} {}",
            quoted(&proof.says.piece),
            percent(proof.says.prob).trim()
        );
        rows.add([
            plain(name),
            plain(signed(proof.contribution)),
            cell(signed(proof.change_last), style),
            plain(signed(proof.change)),
            plain(says),
        ]);
    }
    out.write_all(rows.lines().as_bytes())?;
    let note = "a part's contribution, and how the measure changes without its output; where they differ, later parts compensate";
    writeln!(out, "{}", out.paint(DIM, note))
}
