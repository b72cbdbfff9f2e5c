//! `modelve attention`: what each head attends to.

use std::io::Write;

use anyhow::anyhow;
use serde::Serialize;

use super::engine::{EngineArgs, cancel_on_ctrl_c};
use super::flags::Layers;
use super::probing::{bar, end, interrupted, load, pad, percent, quoted, session, telling, told};
use super::prompt::PromptArgs;
use super::results::Form;
use crate::base::human;
use crate::hint::{UsageError, hinted};
use crate::output::{self, ACCENT, BOLD, DIM, Output};
use crate::probe::attention::{self, Attention, Habits, Options, Rows};
use crate::probe::html::Page;
use crate::progress::{self, Progress, Unit};
use crate::runtime::{FlashAttention, Model, host};
use crate::table::{Columns, cell, plain};

/// Flags of `modelve attention`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve attention 'The ball hit the bat'                      statistics of all heads
  modelve attention 'The ball hit the bat' --layer 3            a layer, head by head
  modelve attention 'The ball hit the bat' --layer 3 --head 5   one head, token by token
  modelve attention 'The ball hit the bat' --html heads.html    maps to look at

Attention is computed without flash attention, which does not keep the weights.")]
pub struct Args {
    #[command(flatten)]
    pub(crate) prompts: PromptArgs,

    #[command(flatten)]
    pub(crate) layers: Layers,

    /// One head, from 0 [default: all]
    #[arg(long, value_name = "H")]
    pub head: Option<usize>,

    #[command(flatten)]
    pub(crate) form: Form,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Limit in bytes of the maps of all layers on a page.
const MOST_MAPS: usize = 4_000_000;
/// Maximum number of weights on a page, so that browsers draw it quickly.
const MOST_WEIGHTS: usize = 6_000_000;

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let text = args
        .prompts
        .one("attention", args.engine.model.is_given())?;
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
    let model = load(&args.engine, text.text.len(), &cancel)?;
    let to = to.of(&model);
    let prompt = args.prompts.read(&model, &text).map_err(told)?;
    let layer = layer(args, model.facts().n_layer as usize)?;
    let n = prompt.ids.len();
    // The page has all layers as long as it stays small; a layer or head that was named is shown
    // alone.
    let whole = args.form.html.is_some() && layer.is_none() && args.head.is_none();
    let options = Options {
        maps: whole && attention::least_map_bytes(&model, n) <= MOST_MAPS as u64,
        layer,
        head: args.head,
        overview: layer.is_none() || args.form.html.is_some(),
        // Text shows the last token's weights; JSON and pages show every token's.
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
    let found = attention::attention(&mut session, &prompt, options, &mut telling(&*progress));
    progress.finish();
    let mut found = found.map_err(told)?;

    if found.ids.is_empty() {
        return interrupted(found.complete);
    }
    to.text(std::slice::from_ref(&found), |out| print(out, args, &found))?;
    if to.has_page() {
        let maps = match found.maps(MOST_MAPS) {
            Ok(maps) => maps,
            Err(bytes) => {
                alone(&*progress, &found, bytes as u64);
                Vec::new()
            }
        };
        if whole && !options.maps {
            alone(&*progress, &found, attention::least_map_bytes(&model, n));
        }
        let left = found.keep_sharpest(MOST_WEIGHTS);
        if left > 0 {
            progress.note(&format!(
                "the page has the {} heads of lowest entropy, because {left} would make it too large; --head selects one",
                found.heads.len()
            ));
        }
        let attention = &found;
        to.page(Page::ATTENTION, &PageData { attention, maps })?;
    }
    interrupted(found.complete)
}

/// The data of the page: that of `--json`, and the maps of all layers.
#[derive(Serialize)]
struct PageData<'a> {
    #[serde(flatten)]
    attention: &'a Attention,
    /// `[layer][head][query][key]` in 1/100,000.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    maps: attention::PageMaps,
}

/// Prints a note that the page has the maps of one layer, because those of all would take `bytes`
/// or more.
fn alone(progress: &dyn Progress, found: &Attention, bytes: u64) {
    progress.note(&format!(
        "the page has the maps of layer {}, because those of all layers would make it {} or more; --layer selects one",
        found.layer,
        human::bytes(bytes)
    ));
}

/// Returns an error if the weights of all heads over the prompt would not fit into memory.
fn check_memory(model: &Model, n: usize, options: Options) -> anyhow::Result<()> {
    let need = attention::bytes(model, n, options);
    match host::free_memory() {
        Some(free) if need > free => {
            let error = anyhow!(
                "the weights for {} tokens take {}, and {} are free",
                human::count(n as u64),
                human::bytes(need),
                human::bytes(free)
            );
            Err(hinted(
                error,
                "--head H keeps one head; without --json and --html only the weights of the last token are kept",
            ))
        }
        _ => Ok(()),
    }
}

/// The layer that was requested, if any.
fn layer(args: &Args, n_layer: usize) -> anyhow::Result<Option<usize>> {
    match args.layers.of(n_layer)?.as_deref() {
        None => Ok(None),
        Some([layer]) => Ok(Some(*layer)),
        Some(several) => {
            let what = format!("attention shows one layer, not {}", several.len());
            Err(hinted(
                UsageError(what),
                "name one, such as --layer 3; without --layer there are statistics of all",
            ))
        }
    }
}

fn print(out: &mut Output, args: &Args, found: &Attention) -> std::io::Result<()> {
    if let Some(head) = args.head {
        print_looks(out, found, &format!("layer {}, head {head}", found.layer))?;
        return Ok(());
    }
    if args.layers.layers.is_some() {
        print_heads(out, found)?;
        return print_looks(
            out,
            found,
            &format!("layer {}, mean of its heads", found.layer),
        );
    }
    print_overview(out, found)
}

/// A statistic of a head: its name, its value, and the value that fills a block.
type Measure = (&'static str, fn(&Habits) -> f64, f64);

/// Prints a block for every head of every layer, and the heads with the largest values.
fn print_overview(out: &mut Output, found: &Attention) -> std::io::Result<()> {
    let n = found.ids.len();
    let title = format!("all heads over {n} tokens: means, and a block for each head");
    writeln!(out, "{}", out.paint(BOLD, title))?;
    let most = (n as f64).log2().max(1.0);
    let measures: [Measure; 3] = [
        ("entropy", |head| head.entropy_bits, most),
        ("to first", |head| head.to_first, 1.0),
        ("to previous", |head| head.to_previous, 1.0),
    ];
    let heads = found.overview.iter().map(|layer| layer.heads.len()).max();
    // On a terminal that is too narrow for the blocks, only the means are printed.
    let blocks = 3 * (heads.unwrap_or(0) + 2) + 40 <= output::width();
    let mut header = vec!["layer>".to_owned()];
    for (name, ..) in &measures {
        header.push(format!("{name}>"));
        header.extend(blocks.then(|| "by head".to_owned()));
    }
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut rows = Columns::new(out, &header);
    for layer in &found.overview {
        let mut row = vec![plain(layer.layer)];
        for (i, (_, of, most)) in measures.iter().enumerate() {
            let values = layer.heads.iter().map(of);
            let mean = values.clone().sum::<f64>() / layer.heads.len().max(1) as f64;
            row.push(plain(match i {
                0 => format!("{mean:.2}"),
                _ => percent(mean),
            }));
            let shown = blocks.then(|| values.map(|value| block(value / most)).collect::<String>());
            row.extend(shown.map(|shown| cell(shown, ACCENT)));
        }
        rows.add(row);
    }
    out.write_all(rows.lines().as_bytes())?;
    let all = || {
        let layers = found.overview.iter();
        layers.flat_map(|layer| {
            layer
                .heads
                .iter()
                .enumerate()
                .map(move |(h, x)| (layer.layer, h, x))
        })
    };
    let places = [
        (
            "sharpest",
            all().min_by(|a, b| a.2.entropy_bits.total_cmp(&b.2.entropy_bits)),
        ),
        (
            "most on the first token",
            all().max_by(|a, b| a.2.to_first.total_cmp(&b.2.to_first)),
        ),
        (
            "most on the previous token",
            all().max_by(|a, b| a.2.to_previous.total_cmp(&b.2.to_previous)),
        ),
    ];
    for ((name, place), (_, of, _)) in places.into_iter().zip(measures) {
        let Some((layer, head, habits)) = place else {
            continue;
        };
        let value = match name {
            "sharpest" => format!("{:.2} bits", of(habits)),
            _ => percent(of(habits)).trim().to_owned(),
        };
        writeln!(out, "{name}: layer {layer}, head {head}, {value}")?;
    }
    let hint = "--layer L shows one layer's heads, --html FILE draws maps";
    writeln!(out, "{}", out.paint(DIM, hint))
}

/// A block character whose height shows a share of 1.
fn block(share: f64) -> char {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    BLOCKS[((share.clamp(0.0, 1.0) * 7.0).round()) as usize]
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

/// Prints the tokens that the last token attends to.
fn print_looks(out: &mut Output, found: &Attention, title: &str) -> std::io::Result<()> {
    let last = &found.last_row();
    let Some(from) = found.pieces.last().map(quoted) else {
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
            end(&quoted(&found.pieces[at]), 24)
        )?;
    }
    Ok(())
}
