//! `modelve attention`: where each head looks.

use std::io::Write;

use anyhow::anyhow;

use super::engine::{EngineArgs, cancel_on_ctrl_c};
use super::probing::{
    Form, bar, interrupted, load, one_prompt, pad, percent, quoted, session, tail, told,
    write_page, wrote,
};
use crate::hint::{Usage, hinted};
use crate::human;
use crate::output::{ACCENT, BOLD, DIM, Output};
use crate::probe::Prompt;
use crate::probe::attention::{self, Attention, Options, Rows};
use crate::probe::html::Page;
use crate::progress::{self, Unit};
use crate::runtime::{FlashAttention, Model, host};
use crate::table::{Columns, plain};

/// Flags of `modelve attention`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve attention 'The ball hit the bat'                      all heads in numbers
  modelve attention 'The ball hit the bat' --layer 3            a layer, head by head
  modelve attention 'The ball hit the bat' --layer 3 --head 5   one head, token by token
  modelve attention 'The ball hit the bat' --html heads.html    maps to look at

Attention is computed without fusing, which keeps the weights.")]
pub struct Args {
    /// The prompt; `-` reads standard input
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<String>,

    /// The layer, from 0 [default: the last, and all layers in numbers]
    #[arg(short, long, value_name = "L")]
    pub layer: Option<usize>,

    /// One head, from 0 [default: all]
    #[arg(long, value_name = "H")]
    pub head: Option<usize>,

    #[command(flatten)]
    pub(crate) form: Form,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Weights that a browser draws without effort.
const MOST_WEIGHTS: usize = 6_000_000;

/// Computes and prints.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let text = one_prompt(args.prompt.as_deref())?;
    let cancel = cancel_on_ctrl_c()?;
    let base = args.engine.settings(&cancel);
    if base.flash_attention == FlashAttention::On {
        let what = "fused attention keeps no weights to show: leave out --flash-attn on";
        return Err(Usage(what.to_owned()).into());
    }
    let model = load(&args.engine, text.len(), &cancel)?;
    let prompt = Prompt::new(model.vocab(), &text).map_err(told)?;
    let n = prompt.ids.len();
    let options = Options {
        layer: args.layer,
        head: args.head,
        overview: args.layer.is_none() || args.form.html.is_some(),
        // Text tells where the last token looks; JSON and pages tell of every token.
        rows: match args.form.json || args.form.html.is_some() {
            true => Rows::All,
            false => Rows::Last,
        },
    };
    check_memory(&model, n, options)?;
    let settings = attention::settings(&model, n, base);
    let mut session = session(&args.engine, &model, n, settings)?;
    let progress = progress::stderr(false);
    progress.start("looking", Unit::Items("tokens"), n as u64, 0);
    let mut before = 0;
    let found = attention::attention(&mut session, &prompt, options, &mut |done| {
        progress.advance((done - before) as u64);
        before = done;
    });
    progress.finish();
    let mut found = found.map_err(told)?;

    let mut out = Output::stdout();
    if args.form.json {
        out.json_line(&found)?;
    } else {
        print(&mut out, args, &found)?;
    }
    if let Some(path) = &args.form.html {
        let left = found.keep_sharpest(MOST_WEIGHTS);
        if left > 0 {
            progress.note(&format!(
                "the page has the sharpest {} heads, {left} would make it too large; --head selects one",
                found.heads.len()
            ));
        }
        write_page(path, Page::Attention, &found)?;
        wrote(&mut out, &args.form)?;
    }
    out.flush()?;
    interrupted(found.complete)
}

/// Weights of many heads over a long prompt are more than a machine has: says so beforehand.
fn check_memory(model: &Model, n: usize, options: Options) -> anyhow::Result<()> {
    let need = attention::bytes(model, n, options);
    match host::free_memory() {
        Some(free) if need > free => {
            let error = anyhow!(
                "the weights over {} tokens take {}, and {} are free",
                human::count(n as u64),
                human::bytes(need),
                human::bytes(free)
            );
            Err(hinted(
                error,
                "--head H keeps one head; without --json and --html only the last token's weights are kept",
            ))
        }
        _ => Ok(()),
    }
}

fn print(out: &mut Output, args: &Args, found: &Attention) -> std::io::Result<()> {
    if let Some(head) = args.head {
        print_looks(out, found, &format!("layer {}, head {head}", found.layer))?;
        return Ok(());
    }
    if args.layer.is_some() {
        print_heads(out, found)?;
        return print_looks(
            out,
            found,
            &format!("layer {}, mean of its heads", found.layer),
        );
    }
    let title = format!("layers and heads over {} tokens, means", found.ids.len());
    writeln!(out, "{}", out.paint(BOLD, title))?;
    let header = [
        "layer>",
        "entropy bits>",
        "to first>",
        "to previous>",
        "sharpest head>",
        "its bits>",
        "previous-token head>",
        "its weight>",
    ];
    let mut rows = Columns::new(out, &header);
    for layer in &found.overview {
        let heads = &layer.heads;
        let mean = |of: &dyn Fn(usize) -> f64| {
            (0..heads.len()).map(of).sum::<f64>() / heads.len().max(1) as f64
        };
        let order = |of: &dyn Fn(usize) -> f64| {
            (0..heads.len())
                .min_by(|&a, &b| of(a).total_cmp(&of(b)))
                .unwrap_or(0)
        };
        let sharp = order(&|h| heads[h].entropy_bits);
        let previous = order(&|h| -heads[h].to_previous);
        let number = |head: usize, of: &dyn Fn(usize) -> String| match heads.is_empty() {
            true => "–".to_owned(),
            false => of(head),
        };
        rows.add([
            plain(layer.layer),
            plain(format!("{:.2}", mean(&|h| heads[h].entropy_bits))),
            plain(percent(mean(&|h| heads[h].to_first))),
            plain(percent(mean(&|h| heads[h].to_previous))),
            plain(number(sharp, &|h| h.to_string())),
            plain(number(sharp, &|h| format!("{:.2}", heads[h].entropy_bits))),
            plain(number(previous, &|h| h.to_string())),
            plain(number(previous, &|h| percent(heads[h].to_previous))),
        ]);
    }
    out.write_all(rows.lines().as_bytes())?;
    writeln!(
        out,
        "{}",
        out.paint(
            DIM,
            "--layer L shows one layer's heads, --html FILE draws maps"
        )
    )
}

fn print_heads(out: &mut Output, found: &Attention) -> std::io::Result<()> {
    let title = format!("layer {} of 0 to {}", found.layer, found.n_layers - 1);
    writeln!(out, "{}", out.paint(BOLD, title))?;
    let header = [
        "head>",
        "entropy bits>",
        "to first>",
        "to previous>",
        "last token looks at",
    ];
    let mut rows = Columns::new(out, &header);
    for head in &found.heads {
        let most = head
            .weights
            .last()
            .map(|row| strongest(row, 3))
            .unwrap_or_default();
        let most: Vec<String> = most
            .into_iter()
            .map(|(at, weight)| {
                format!(
                    "{} {}",
                    quoted(&found.pieces[at]),
                    percent(weight.into()).trim()
                )
            })
            .collect();
        rows.add([
            plain(head.head),
            plain(format!("{:.2}", head.habits.entropy_bits)),
            plain(percent(head.habits.to_first)),
            plain(percent(head.habits.to_previous)),
            plain(most.join("  ")),
        ]);
    }
    out.write_all(rows.lines().as_bytes())
}

/// The `n` largest weights of a row, largest first.
fn strongest(row: &[f32], n: usize) -> Vec<(usize, f32)> {
    let mut order: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    order.truncate(n);
    order.retain(|&(_, weight)| weight > 0.0);
    order
}

/// Where the last token looks.
fn print_looks(out: &mut Output, found: &Attention, title: &str) -> std::io::Result<()> {
    let last = &found.last_row();
    let Some(from) = found.pieces.last().map(|piece| quoted(piece)) else {
        return Ok(());
    };
    writeln!(
        out,
        "{}",
        out.paint(BOLD, format!("{title}: where {from} looks"))
    )?;
    let looks = strongest(last, 20);
    let most = looks.first().map_or(1.0, |look| look.1);
    for (at, weight) in looks {
        let share = f64::from(weight / most);
        writeln!(
            out,
            "{:>7} {} {:>5} {}",
            percent(weight.into()),
            out.paint(ACCENT, pad(&bar(share, 30), 30)),
            at,
            tail(&quoted(&found.pieces[at]), 24)
        )?;
    }
    Ok(())
}
