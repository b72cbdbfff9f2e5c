//! `modelve next`: what the model expects after a prompt.

use std::fmt::Write as _;
use std::io::Write;

use super::engine::{EngineArgs, cancel_on_ctrl_c, explain};
use super::headings::{headings, wrap};
use super::probing::{Sessions, bar, end, interrupted, load, pad, percent, quoted, telling, told};
use super::prompt::{PromptArgs, Text};
use super::results::Form;
use crate::hint::UsageError;
use crate::output::{self, ACCENT, BOLD, DIM, GOOD, Output, WARN};
use crate::probe::html::Page;
use crate::probe::next::{self, Next, candidate_ids, moved, one_token};
use crate::probe::tree::{Branch, Shape};
use crate::probe::{Prompt, text_of};
use crate::progress::{self, Unit};
use crate::runtime::{Model, Settings, Token};

/// Flags of `modelve next`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve next 'The ball hit the bat, and'
  modelve next 'The batsman swung his bat and the' 'Deep in the cave, the bat and the'
  modelve next 'The ball hit the bat, and' --candidates 'it flew,the ball,boundary'
  modelve next 'The ball hit the bat, and' --then the --tree 3x4

After a prompt that ends in a space, the model expects tokens without a space; leave the space out.")]
pub struct Args {
    #[command(flatten)]
    pub(crate) prompts: PromptArgs,

    /// Number of tokens to show
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub top: usize,

    /// Texts whose probability to show, whatever their rank, separated by commas (`\,` is a comma)
    #[arg(short, long, value_name = "TEXT,…", allow_hyphen_values = true)]
    pub candidates: Vec<String>,

    /// Continue from this token, as text or id; repeatable
    #[arg(long, value_name = "TOKEN", allow_negative_numbers = true)]
    pub then: Vec<String>,

    /// Show the likeliest continuations as a tree of this depth and width, in tokens
    #[arg(long, value_name = "DEPTHxWIDTH", value_parser = shape)]
    pub tree: Option<Shape>,

    #[command(flatten)]
    pub(crate) form: Form,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

fn shape(text: &str) -> Result<Shape, String> {
    let parts = text.split_once(['x', 'X', '×', '*']);
    let parsed = parts.and_then(|(depth, width)| {
        Some(Shape {
            depth: depth.trim().parse().ok()?,
            width: width.trim().parse().ok()?,
        })
    });
    let shape = parsed.ok_or_else(|| format!("{text:?} is not a depth and width, such as 3x4"))?;
    shape.check().map_err(|error| error.to_string())?;
    Ok(shape)
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let texts = args.prompts.some(args.engine.model.is_given())?;
    let candidates = split(&args.candidates);
    if let Some(i) = candidates.iter().position(String::is_empty) {
        return Err(UsageError(format!("candidate {} is empty", i + 1)).into());
    }
    let to = args.form.judge(args.engine.reading(&args.prompts.input))?;
    let cancel = cancel_on_ctrl_c()?;
    let model = load(
        &args.engine,
        texts.iter().map(|text| text.text.len()).sum(),
        &cancel,
    )?;
    let to = to.of(&model);
    let vocab = model.vocab();
    let mut asked = Vec::with_capacity(texts.len());
    for text in &texts {
        asked.push(forced(args, &model, text)?);
    }

    let (n_seq, nodes) = args.tree.map_or((1, 0), Shape::room);
    let mut rooms = Vec::with_capacity(asked.len());
    for prompt in &asked {
        let mut tried = 0;
        for (i, text) in candidates.iter().enumerate() {
            let ids = candidate_ids(vocab, prompt, text, i + 1).map_err(told)?;
            // The last token of a candidate is not fed, only its probability is read.
            tried = tried.max(ids.len() - 1);
        }
        rooms.push(prompt.ids.len() + tried.max(nodes as usize));
    }
    let longest = rooms.iter().copied().max().unwrap_or(0);
    let settings = Settings {
        n_seq,
        n_outputs: longest.min(64) as u32 + n_seq,
        ..args.engine.settings(&cancel)
    };
    let mut sessions = Sessions::new(&args.engine, &model, settings, rooms.iter().copied());

    let progress = progress::stderr(false);
    let total: usize = asked.iter().map(|prompt| prompt.ids.len()).sum();
    progress.start("reading", Unit::Items("tokens"), total as u64, 0);
    let mut results: Vec<Next> = Vec::with_capacity(asked.len());
    for (prompt, &room) in asked.iter().zip(&rooms) {
        let mut ask = || -> anyhow::Result<Next> {
            let session = sessions.of(room)?;
            let options = next::Options {
                top: args.top,
                candidates: &candidates,
                tree: args.tree,
            };
            let result = next::next(session, prompt, &options, &mut telling(&*progress));
            result.map_err(told)
        };
        let mut result = match ask() {
            Ok(result) => result,
            Err(_) if cancel.is_set() => break,
            Err(error) => {
                progress.finish();
                return Err(error);
            }
        };
        if let Some(first) = results.first() {
            result.moved = moved(vocab, &first.logits, &result.logits, args.top.max(1));
        }
        results.push(result);
    }
    progress.finish();
    next::beside(vocab, &mut results);

    to.show(Page::NEXT, &results, |out| print(out, &results))?;
    interrupted(results.len() == asked.len())
}

/// Splits candidates at commas; a comma after a backslash belongs to the candidate.
fn split(given: &[String]) -> Vec<String> {
    let mut candidates = Vec::new();
    for text in given {
        let mut one = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if chars.next_if_eq(&',').is_some() => one.push(','),
                ',' => candidates.push(std::mem::take(&mut one)),
                c => one.push(c),
            }
        }
        candidates.push(one);
    }
    candidates
}

/// A prompt followed by the tokens of `--then`.
fn forced(args: &Args, model: &Model, text: &Text) -> anyhow::Result<Prompt> {
    let vocab = model.vocab();
    if text.text.is_empty() && args.then.is_empty() && !vocab.adds_bos() {
        return Err(UsageError("the prompt is empty".to_owned()).into());
    }
    let tokens: Vec<Token> = args
        .then
        .iter()
        .map(|token| one_token(vocab, token).map_err(told))
        .collect::<Result<_, _>>()?;
    let mut prompt = if text.text.is_empty() && !tokens.is_empty() {
        Prompt {
            text: String::new(),
            ids: args.prompts.tokens(model, text).map_err(explain)?,
        }
    } else {
        args.prompts.read(model, text).map_err(told)?
    };
    // All tokens are decoded at once, because a character may be several tokens.
    prompt.text.push_str(&text_of(vocab, &tokens));
    prompt.ids.extend(tokens);
    Ok(prompt)
}

/// Minimum number of columns for a prompt that is shown beside another.
const COLUMN: usize = 44;

fn print(out: &mut Output, results: &[Next]) -> std::io::Result<()> {
    let width = output::width();
    let beside = (width / COLUMN).clamp(1, results.len().max(1));
    let column = (width / beside).min(96);
    let prompts: Vec<&str> = results.iter().map(|next| &*next.prompt).collect();
    let titles = headings(&prompts, column - 4);
    for (i, group) in results.chunks(beside).enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        let titles = titles[i * beside..].iter().take(group.len());
        let mut titles: Vec<Vec<String>> = titles
            .map(|title| wrap(&format!("{title} _"), column - 2))
            .collect();
        // Titles get the same number of lines, so that what follows starts in the same row.
        let tallest = titles.iter().map(Vec::len).max().unwrap_or(0);
        titles
            .iter_mut()
            .for_each(|title| title.resize(tallest, String::new()));
        let blocks = group.iter().zip(titles);
        let blocks: Vec<Vec<Line>> = blocks
            .map(|(next, title)| block(next, title, column - 2))
            .collect();
        let height = blocks.iter().map(Vec::len).max().unwrap_or(0);
        for row in 0..height {
            let mut line = String::new();
            for (at, block) in blocks.iter().enumerate() {
                let (painted, length) = match block.get(row) {
                    Some(cells) => paint(out, cells),
                    None => (String::new(), 0),
                };
                line.push_str(&painted);
                if at + 1 < blocks.len() {
                    line.push_str(&" ".repeat(column.saturating_sub(length)));
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    for (i, next) in results.iter().enumerate().skip(1) {
        print_moved(out, i, next)?;
    }
    for (next, title) in results.iter().zip(headings(&prompts, width - 2)) {
        if let Some(branches) = &next.tree {
            writeln!(out)?;
            writeln!(out, "{}", out.paint(BOLD, title))?;
            print_branches(out, branches, "")?;
        }
    }
    Ok(())
}

/// A line as pieces, each with its style.
type Line = Vec<(anstyle::Style, String)>;

fn paint(out: &Output, line: &Line) -> (String, usize) {
    let length = line.iter().map(|(_, text)| text.chars().count()).sum();
    let painted = line.iter().map(|(style, text)| out.paint(*style, text));
    (painted.collect(), length)
}

/// The distribution after a prompt, at most `width` columns wide.
fn block(next: &Next, title: Vec<String>, width: usize) -> Vec<Line> {
    let plain = anstyle::Style::new();
    let title = title.into_iter();
    let mut lines: Vec<Line> = title.map(|line| vec![(BOLD, line)]).collect();
    let most = next.top.first().map_or(1.0, |choice| choice.prob);
    let names: Vec<String> = next
        .top
        .iter()
        .map(|c| end(&quoted(&c.piece), 18))
        .collect();
    let name = names.iter().map(|n| n.chars().count()).max().unwrap_or(0);
    let bar_width = width.saturating_sub(name + 24).clamp(4, 40);
    let mut sum = 0.0;
    for (choice, text) in next.top.iter().zip(&names) {
        sum += choice.prob;
        lines.push(vec![
            (plain, format!("{:>7} ", percent(choice.prob))),
            (ACCENT, pad(&bar(choice.prob / most, bar_width), bar_width)),
            (plain, format!(" {} ", pad(text, name))),
            (DIM, format!("{:>6} {:>7}", choice.id, percent(sum).trim())),
        ]);
    }
    let alike = next.entropy_bits.exp2();
    lines.push(vec![(
        DIM,
        format!(
            "entropy {:.2} bits, like {alike:.*} equal tokens",
            next.entropy_bits,
            usize::from(alike < 10.0)
        ),
    )]);
    if !next.candidates.is_empty() {
        lines.push(vec![(BOLD, "candidates".to_owned())]);
    }
    for candidate in &next.candidates {
        let pieces: Vec<String> = candidate.pieces.iter().map(quoted).collect();
        let place = match candidate.ids.len() {
            1 => format!(" rank {}", candidate.rank),
            n => format!(" {n} tokens, the first of rank {}", candidate.rank),
        };
        lines.push(vec![
            (plain, format!("{:>7} ", percent(candidate.prob))),
            (
                plain,
                end(&pieces.join(" "), width.saturating_sub(40).max(18)),
            ),
            (DIM, place),
        ]);
    }
    lines
}

fn print_moved(out: &mut Output, index: usize, next: &Next) -> std::io::Result<()> {
    let title = format!("moved most, from prompt 1 to {}", index + 1);
    writeln!(out, "\n{}", out.paint(BOLD, title))?;
    for token in &next.moved {
        let up = token.prob > token.prob_first;
        let arrow = out.paint(if up { GOOD } else { WARN }, if up { "▲" } else { "▼" });
        writeln!(
            out,
            "{:>7} → {:>7} {arrow} {}",
            percent(token.prob_first),
            percent(token.prob),
            quoted(&token.piece)
        )?;
    }
    Ok(())
}

fn print_branches(out: &mut Output, branches: &[Branch], above: &str) -> std::io::Result<()> {
    for (i, branch) in branches.iter().enumerate() {
        let last = i + 1 == branches.len();
        let (here, below) = if last {
            ("└─", "  ")
        } else {
            ("├─", "│ ")
        };
        let mut line = String::new();
        let joint = branch.joint_logprob.exp();
        let _ = write!(
            line,
            "{} {:>7} ",
            out.paint(DIM, format!("{above}{here}")),
            percent(branch.choice.prob)
        );
        line += &out.paint(ACCENT, quoted(&branch.choice.piece));
        if branch.joint_logprob < branch.choice.logprob {
            line += &out.paint(DIM, format!("  together {}", percent(joint).trim()));
        }
        writeln!(out, "{line}")?;
        print_branches(out, &branch.branches, &format!("{above}{below}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_cut_at_commas() {
        let split = |text: &str| split(&[text.to_owned()]);
        assert_eq!(split("boundary, ground"), ["boundary", " ground"]);
        assert_eq!(split(r"\, and,a\b"), [", and", r"a\b"]);
        assert_eq!(split("a,,b"), ["a", "", "b"]);
        assert_eq!(split(""), [""]);
    }

    #[test]
    fn shapes_as_people_write_them() {
        let ok = Shape { depth: 3, width: 4 };
        for text in ["3x4", "3X4", "3×4", "3 * 4"] {
            assert_eq!(shape(text), Ok(ok), "{text}");
        }
        for text in ["3", "x", "0x4", "3x0", "-1x2", "99x99", "3x4x5"] {
            assert!(shape(text).is_err(), "{text}");
        }
    }
}
