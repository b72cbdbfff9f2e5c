//! `modelve lens`: what the model would say if it stopped after a layer.

use std::io::Write;

use anstyle::{Ansi256Color, Style};

use super::engine::{EngineArgs, cancel_on_ctrl_c};
use super::flags::{Layers, numbers};
use super::probing::{clip, interrupted, load, pad, percent, quoted, session, tail, telling, told};
use super::prompt::PromptArgs;
use super::results::Form;
use crate::base::human;
use crate::output::{self, ACCENT, BOLD, DIM, Output};
use crate::probe::html::Page;
use crate::probe::lens::{self, Cell, Lens, Options};
use crate::probe::next::one_token;
use crate::progress::{self, Unit};
use crate::table::{Columns, cell, plain};

/// Flags of `modelve lens`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve lens 'The ball hit the bat, and'                  every layer, every position
  modelve lens 'The ball hit the bat, and' --positions -1   the last position, in detail
  modelve lens 'The ball hit the bat, and' --token cave     where one token ranks
  modelve lens 'The ball hit the bat, and' --html lens.html a map to hover over
  modelve lens 'The ball hit the bat, and' 'The cave hid the bat, and' --html lens.html
                                                            two prompts, one above the other

The state after each layer goes through the model's last norm and output matrix.")]
pub struct Args {
    #[command(flatten)]
    pub(crate) prompts: PromptArgs,

    /// Follow one token, as text or id [default with two prompts: the answer to the first]
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,

    /// Positions, such as 0-5,9 or -1 for the last [default: all]
    #[arg(short, long, value_name = "LIST", allow_hyphen_values = true)]
    pub positions: Option<String>,

    #[command(flatten)]
    pub(crate) layers: Layers,

    /// Number of tokens to keep for each layer and position
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    pub top: usize,

    #[command(flatten)]
    pub(crate) form: Form,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let given = args.engine.model.is_given();
    let texts = args.prompts.one_or_two("lens", given)?;
    let to = args.form.judge(args.engine.reading(&args.prompts.input))?;
    let cancel = cancel_on_ctrl_c()?;
    let bytes = texts.iter().map(|text| text.text.len()).sum();
    let model = load(&args.engine, bytes, &cancel)?;
    let to = to.of(&model);
    let mut prompts = Vec::with_capacity(texts.len());
    for text in &texts {
        prompts.push(args.prompts.read(&model, text).map_err(told)?);
    }
    let n_layer = model.facts().n_layer as usize;
    let layers = args.layers.of(n_layer)?;
    let token = args.token.as_deref();
    let mut token = token
        .map(|token| one_token(model.vocab(), token).map_err(told))
        .transpose()?;
    // Errors in the request are reported before anything is computed.
    let mut asked = Vec::with_capacity(prompts.len());
    for prompt in &prompts {
        let list = args.positions.as_deref();
        let positions = list.map(|list| numbers(list, prompt.ids.len(), "position"));
        asked.push(positions.transpose()?);
    }

    let total: usize = prompts.iter().map(|prompt| prompt.ids.len()).sum();
    let longest = prompts.iter().map(|prompt| prompt.ids.len()).max();
    let settings = lens::settings(&model, args.engine.settings(&cancel));
    let mut session = session(&args.engine, &model, longest.unwrap_or(0), settings)?;
    let progress = progress::stderr(false);
    progress.start("looking", Unit::Items("tokens"), total as u64, 0);
    let mut found = Vec::with_capacity(prompts.len());
    for (i, (prompt, positions)) in prompts.iter().zip(asked).enumerate() {
        let last = prompt.ids.len().saturating_sub(1);
        if token.is_none() && prompts.len() > 1 && i == 0 {
            let options = Options {
                layers: Some(vec![n_layer - 1]),
                positions: Some(vec![last]),
                top: 1,
                token: None,
            };
            let end = lens::lens(&mut session, prompt, &options, &mut |_| {}).map_err(told)?;
            token = end.answers.last().map(|answer| answer.choice.id);
        }
        let options = Options {
            layers: layers.clone(),
            positions,
            top: args.top,
            token,
        };
        let one = lens::lens(&mut session, prompt, &options, &mut telling(&*progress));
        let one = match one {
            Ok(one) => one,
            Err(error) => {
                progress.finish();
                return Err(told(error));
            }
        };
        let complete = one.complete;
        if !one.cells.is_empty() {
            found.push(one);
        }
        if !complete {
            break;
        }
    }
    progress.finish();

    let complete = found.len() == prompts.len() && found.iter().all(|lens| lens.complete);
    match &found[..] {
        [] => {}
        [one] => to.show_one(Page::LENS, one, |out| print(out, one))?,
        several => to.show(Page::LENS, several, |out| {
            for (i, one) in several.iter().enumerate() {
                if i > 0 {
                    writeln!(out)?;
                }
                writeln!(out, "{}", out.paint(BOLD, quoted(&one.prompt)))?;
                print(out, one)?;
            }
            Ok(())
        })?,
    }
    interrupted(complete)
}

fn print(out: &mut Output, lens: &Lens) -> std::io::Result<()> {
    match lens.answers.len() {
        1 => print_column(out, lens),
        _ => print_grid(out, lens),
    }
}

/// Prints one position, with a line per layer.
fn print_column(out: &mut Output, lens: &Lens) -> std::io::Result<()> {
    let answer = &lens.answers[0];
    let mut read: Vec<u8> = Vec::new();
    for piece in &lens.pieces[..=answer.position] {
        read.extend_from_slice(piece.as_ref());
    }
    let read = String::from_utf8_lossy(&read);
    let title = format!("{} _", tail(read.trim_start(), output::width() - 2));
    writeln!(out, "{}", out.paint(BOLD, title))?;
    let mut header = vec!["layer>", "entropy bits>", "KL to final, nats>"];
    if lens.token.is_some() {
        header.extend(["rank>", "probability>"]);
    }
    header.push("says");
    let mut rows = Columns::new(out, &header);
    let room = output::width().saturating_sub(if lens.token.is_some() { 71 } else { 45 });
    for here in &lens.cells {
        let mut said = String::new();
        for choice in &here.top {
            let one = format!(
                "{} {}  ",
                quoted(&choice.piece),
                percent(choice.prob).trim()
            );
            if !said.is_empty() && said.chars().count() + one.chars().count() > room {
                break;
            }
            said += &one;
        }
        let leads = here
            .top
            .first()
            .is_some_and(|top| top.id == answer.choice.id);
        let mut row = vec![
            plain(here.layer),
            plain(format!("{:.2}", here.entropy_bits)),
            plain(format!("{:.2}", here.kl_to_final)),
        ];
        if let (Some(rank), Some(logprob)) = (here.token_rank, here.token_logprob) {
            row.push(plain(human::count(rank as u64)));
            row.push(plain(percent(logprob.exp())));
        }
        row.push(match leads {
            true => cell(said.trim_end(), ACCENT),
            false => plain(said.trim_end()),
        });
        rows.add(row);
    }
    out.write_all(rows.lines().as_bytes())?;
    print_leads(out, lens)
}

/// The number of columns of a cell, including the space after it.
const WIDE: usize = 12;

/// Prints layers by positions, as many of the last positions as fit.
fn print_grid(out: &mut Output, lens: &Lens) -> std::io::Result<()> {
    let first = format!("layer {}", lens.n_layers.saturating_sub(1)).len() + 2;
    let fit = (output::width().saturating_sub(first) / WIDE).max(1);
    let skipped = lens.answers.len().saturating_sub(fit);
    let shown = &lens.answers[skipped..];
    let cut = |text: &str| pad(&clip(text, WIDE - 1), WIDE);
    let mut line = pad("token", first);
    for answer in shown {
        line += &cut(&quoted(&lens.pieces[answer.position]));
    }
    writeln!(out, "{}", out.paint(BOLD, line.trim_end()))?;
    let mut layers: Vec<usize> = lens.cells.iter().map(|cell| cell.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    for layer in layers {
        let mut line = out.paint(DIM, pad(&format!("layer {layer}"), first));
        for answer in shown {
            let place = (answer.position, layer);
            let at = lens
                .cells
                .binary_search_by_key(&place, |c| (c.position, c.layer));
            let (text, prob) = at.map_or((String::new(), 0.0), |at| said(&lens.cells[at]));
            let text = pad(&clip(&text, WIDE - 1), WIDE - 1);
            line += &out.paint(shade(prob), text);
            line.push(' ');
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    let mut line = pad("leads", first);
    for answer in shown {
        line += &cut(&answer
            .first_layer
            .map_or(String::new(), |l| format!("from {l}")));
    }
    writeln!(out, "{}", out.paint(DIM, line.trim_end()))?;
    if skipped > 0 {
        let note = format!(
            "the last {} of {} positions; --positions selects others",
            shown.len(),
            lens.answers.len()
        );
        writeln!(out, "{}", out.paint(DIM, note))?;
    }
    print_leads(out, lens)
}

/// The text of a cell, and the probability that it is shaded by.
fn said(cell: &Cell) -> (String, f64) {
    match (cell.token_rank, cell.token_logprob, cell.top.first()) {
        (Some(rank), Some(logprob), _) => {
            (format!("{:>8}", human::count(rank as u64)), logprob.exp())
        }
        (_, _, Some(top)) => (quoted(&top.piece), top.prob),
        _ => (String::new(), 0.0),
    }
}

/// The background for a probability.
fn shade(prob: f64) -> Style {
    const BLUES: [u8; 5] = [0, 17, 18, 19, 20];
    let step = ((prob * 5.0) as usize).min(4);
    let colour = |n: u8| Some(Ansi256Color(n).into());
    match step {
        0 => Style::new(),
        _ => Style::new()
            .bg_color(colour(BLUES[step]))
            .fg_color(colour(231)),
    }
}

fn print_leads(out: &mut Output, lens: &Lens) -> std::io::Result<()> {
    if let Some(followed) = &lens.token {
        writeln!(
            out,
            "followed: {} ({})",
            quoted(&followed.piece),
            followed.id
        )?;
    }
    let Some(answer) = lens.answers.last() else {
        return Ok(());
    };
    let leads = match answer.first_layer {
        Some(layer) => format!(
            "leads first after layer {layer} of 0 to {}",
            lens.n_layers - 1
        ),
        None => "leads after none of these layers".to_owned(),
    };
    writeln!(
        out,
        "answer after {}: {} at {}, {leads}",
        quoted(&lens.pieces[answer.position]),
        out.paint(ACCENT, quoted(&answer.choice.piece)),
        percent(answer.choice.prob).trim(),
    )
}
