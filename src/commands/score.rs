//! `modelve score`: how likely the model finds a text, token by token.

use std::io::{IsTerminal, Write};

use anstyle::{Ansi256Color, Style};

use super::engine::{EngineArgs, cancel_on_ctrl_c, explain};
use super::headings::headings;
use super::probing::{Sessions, interrupted, load, telling, told};
use super::prompt::{self, Input, Origin, Text};
use super::results::Form;
use crate::base::human;
use crate::hint::UsageError;
use crate::output::{self, BOLD, DIM, Output};
use crate::probe::Prompt;
use crate::probe::html::Page;
use crate::probe::score::{self, Score, Scored, Windows};
use crate::progress::{self, Unit};
use crate::runtime::{Model, Settings};
use crate::table::{Columns, cell, plain};

/// Flags of `modelve score`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve score 'The ball hit the bat, and it flew to the boundary.'
  modelve score 'A bat sleeps by day.' 'A bat sleeps by ball.'     which one is likelier?
  modelve score --file book.txt                                    perplexity of a long text
  modelve score --file list.txt --lines                            which line is likeliest?
  modelve score --tokens 'The ball hit the bat'                    a line for each token

Texts are ranked by bits per byte, so that texts of different length can be compared. A text longer
than --window is read in windows that move by --stride. Each token is scored once, and from the
second window on with at least window - stride tokens before it.")]
pub struct Args {
    /// Texts; several are ranked. `-` reads standard input
    #[arg(value_name = "TEXT")]
    pub texts: Vec<String>,

    #[command(flatten)]
    pub(crate) input: Input,

    /// Read `<|end|>` and other special tokens written in the text as those tokens
    #[arg(long, overrides_with = "no_special")]
    pub special: bool,

    /// Read special tokens written in the text as plain characters (the default)
    #[arg(long, overrides_with = "special", hide_short_help = true)]
    pub no_special: bool,

    /// Number of tokens in a window [default: what the text needs, up to 2048]
    #[arg(short, long, value_name = "N")]
    pub window: Option<usize>,

    /// Number of tokens a window moves by [default: half the window]
    #[arg(short, long, value_name = "N")]
    pub stride: Option<usize>,

    /// Print a line for each token: surprisal, probability, rank
    #[arg(long)]
    pub tokens: bool,

    #[command(flatten)]
    pub(crate) form: Form,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Default number of tokens of a window.
pub const WINDOW: usize = 2048;

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let texts = args
        .input
        .texts(&args.texts, args.engine.model.is_given())?
        .filter(|texts| !texts.is_empty())
        .ok_or_else(|| prompt::missing("text"))?;
    if let Some(i) = texts.iter().position(|text| text.text.is_empty()) {
        return Err(UsageError(format!("text {} is empty", i + 1)).into());
    }
    let to = args.form.judge(args.engine.reading(&args.input))?;
    let cancel = cancel_on_ctrl_c()?;
    let bytes = texts.iter().map(|text| text.text.len()).sum();
    let model = load(&args.engine, bytes, &cancel)?;
    let to = to.of(&model);
    let mut prompts = Vec::with_capacity(texts.len());
    for text in &texts {
        let ids = prompt::tokens(model.vocab(), &text.text, args.special).map_err(explain)?;
        let text = text.text.clone();
        prompts.push(Prompt { text, ids });
    }
    let windows = windows(&args.engine, &model, args.window, args.stride, WINDOW)?;
    let n_batch = 512;
    let settings = Settings {
        n_batch,
        n_outputs: n_batch,
        ..args.engine.settings(&cancel)
    };
    let room = |prompt: &Prompt| windows.size.min(prompt.ids.len());
    let rooms = prompts.iter().map(room);
    let mut sessions = Sessions::new(&args.engine, &model, settings, rooms);

    let total: usize = prompts.iter().map(|p| p.ids.len()).sum();
    let progress = progress::stderr(args.form.json && !std::io::stderr().is_terminal());
    progress.start("scoring", Unit::Items("tokens"), total as u64, 0);
    let mut scores: Vec<Score> = Vec::with_capacity(prompts.len());
    for prompt in &prompts {
        let session = sessions
            .of(room(prompt))
            .inspect_err(|_| progress.finish())?;
        let result = score::score(session, prompt, windows, &mut telling(&*progress));
        match result {
            // There is no result for a text that was not started.
            Ok(score) if score.n_scored == 0 => break,
            Ok(score) => scores.push(score),
            Err(error) => {
                progress.finish();
                return Err(told(error));
            }
        }
        if scores.last().is_some_and(|score| !score.complete) {
            break;
        }
    }
    progress.finish();

    to.show(Page::SCORE, &scores, |out| {
        print(out, args, &texts, &scores)
    })?;
    let all = scores.len() == prompts.len() && scores.iter().all(|score| score.complete);
    interrupted(all)
}

/// The windows that follow from the flags and the model.
///
/// # Errors
/// A window that is too small, or a stride that does not fit it.
pub fn windows(
    engine: &EngineArgs,
    model: &Model,
    size: Option<usize>,
    stride: Option<usize>,
    default: usize,
) -> anyhow::Result<Windows> {
    let short = model
        .rope()
        .map_or(usize::MAX, |rope| rope.original as usize);
    let trained = model.facts().n_ctx_train as usize;
    let allowed = engine.ctx_size.map_or(trained, |size| size as usize);
    let size = size.unwrap_or_else(|| default.min(allowed).min(short));
    let stride = stride.unwrap_or(size / 2);
    let windows = Windows { size, stride };
    windows
        .check()
        .map_err(|error| UsageError(error.to_string()))?;
    Ok(windows)
}

fn print(out: &mut Output, args: &Args, texts: &[Text], scores: &[Score]) -> std::io::Result<()> {
    for (i, (text, score)) in texts.iter().zip(scores).enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        if args.tokens {
            print_tokens(out, score)?;
        } else {
            match &text.origin {
                Origin::Argument => print_text(out, score)?,
                // A text from a file is shown by the file's name only.
                Origin::File(name) => print_name(out, name, score)?,
                Origin::Line(name, line) => print_name(out, &format!("{name}:{line}"), score)?,
            }
        }
        print_totals(out, score)?;
    }
    if scores.len() > 1 {
        print_ranking(out, texts, scores)?;
    }
    Ok(())
}

fn print_name(out: &mut Output, name: &str, score: &Score) -> std::io::Result<()> {
    let rest = if score.complete { "" } else { " …" };
    let name = human::escape(name.as_bytes());
    writeln!(out, "{}{rest}", out.paint(BOLD, name))
}

/// Backgrounds by surprisal, one for every three bits.
const HEAT: [u8; 6] = [0, 22, 58, 94, 130, 124];

fn heat(bits: f64) -> Option<Style> {
    let step = ((bits / 3.0).max(0.0) as usize).min(HEAT.len() - 1);
    let colour = |n: u8| Some(Ansi256Color(n).into());
    (step > 0).then(|| {
        Style::new()
            .bg_color(colour(HEAT[step]))
            .fg_color(colour(231))
    })
}

fn print_text(out: &mut Output, score: &Score) -> std::io::Result<()> {
    // After a cancellation, later tokens have no probability.
    let judged = score.tokens.iter().rposition(|t| t.logprob.is_some());
    let shown = match score.complete {
        true => score.tokens.len(),
        false => judged.map_or(0, |last| last + 1),
    };
    for (at, token) in score.tokens[..shown].iter().enumerate() {
        // Some tokenizers put a space before the text.
        let piece: &[u8] = token.piece.as_ref();
        let piece = match piece.strip_prefix(b" ") {
            Some(rest) if at == 0 && !score.text.starts_with(' ') => rest,
            _ => piece,
        };
        // Line feeds are kept; other control characters are escaped.
        for (i, part) in piece.split(|&byte| byte == b'\n').enumerate() {
            if i > 0 {
                writeln!(out)?;
            }
            let text = human::escape(part);
            match token.surprisal_bits().and_then(heat) {
                Some(style) if !text.is_empty() => write!(out, "{}", out.paint(style, text))?,
                _ => write!(out, "{text}")?,
            }
        }
    }
    writeln!(out, "{}", if score.complete { "" } else { " …" })
}

fn print_tokens(out: &mut Output, score: &Score) -> std::io::Result<()> {
    let mut rows = Columns::new(out, &["bits>", "probability>", "rank>", "id>", "piece"]);
    for token in &score.tokens {
        let Scored {
            id, logprob, rank, ..
        } = token;
        let bits = token.surprisal_bits();
        rows.add([
            plain(bits.map_or("–".to_owned(), |bits| format!("{bits:.2}"))),
            plain(logprob.map_or("–".to_owned(), |l| super::probing::percent(l.exp()))),
            plain(rank.map_or("–".to_owned(), |rank| human::count(rank as u64))),
            cell(id, DIM),
            plain(super::probing::quoted(&token.piece)),
        ]);
    }
    out.write_all(rows.lines().as_bytes())
}

fn print_totals(out: &mut Output, score: &Score) -> std::io::Result<()> {
    let Score {
        n_scored, windows, ..
    } = score;
    let line = format!(
        "perplexity {:.3}, {:.3} bits per token, {:.3} per byte, log-probability {:.2}, {} token{} scored",
        score.perplexity,
        score.bits_per_token,
        score.bits_per_byte,
        score.total_logprob,
        human::count(*n_scored as u64),
        if *n_scored == 1 { "" } else { "s" }
    );
    writeln!(out, "{}", out.paint(BOLD, line))?;
    if score.tokens.len() > windows.size {
        let line = format!(
            "windows of {} tokens that move by {}",
            human::count(windows.size as u64),
            human::count(windows.stride as u64)
        );
        writeln!(out, "{}", out.paint(DIM, line))?;
    }
    Ok(())
}

/// Prints texts ranked by bits per byte, because the total log-probability falls with every token,
/// and tokens differ in length.
fn print_ranking(out: &mut Output, texts: &[Text], scores: &[Score]) -> std::io::Result<()> {
    let names: Vec<&str> = texts
        .iter()
        .zip(scores)
        .map(|(text, score)| match &text.origin {
            Origin::File(name) => name.as_str(),
            Origin::Argument | Origin::Line(..) => score.text.as_str(),
        })
        .collect();
    let room = output::width().saturating_sub(52).max(20);
    let mut order: Vec<(&Score, String)> = scores.iter().zip(headings(&names, room)).collect();
    order.sort_by(|(a, _), (b, _)| a.bits_per_byte.total_cmp(&b.bits_per_byte));
    writeln!(out, "\n{}", out.paint(BOLD, "likeliest first"))?;
    let header = [
        "bits/byte>",
        "bits/token>",
        "perplexity>",
        "log-prob>",
        "text",
    ];
    let mut rows = Columns::new(out, &header);
    for (score, name) in order {
        rows.add([
            plain(format!("{:.3}", score.bits_per_byte)),
            plain(format!("{:.3}", score.bits_per_token)),
            plain(format!("{:.2}", score.perplexity)),
            plain(format!("{:.2}", score.total_logprob)),
            plain(name),
        ]);
    }
    out.write_all(rows.lines().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_is_coloured_and_the_expected_is_not() {
        assert!(heat(0.0).is_none() && heat(2.9).is_none());
        assert!(heat(3.1).is_some());
        assert_eq!(heat(1e9), heat(15.0));
        assert!(heat(f64::NAN).is_none() && heat(-1.0).is_none());
    }
}
