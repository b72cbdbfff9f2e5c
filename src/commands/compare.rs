//! `modelve compare`: what quantization changed.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::engine::{EngineArgs, cancel_on_ctrl_c, explain};
use super::find::open;
use super::headings::file_names;
use super::probing::{interrupted, percent, quoted, session, tail, told, work};
use super::prompt;
use super::results::Form;
use super::score::windows;
use crate::base::human;
use crate::gguf::Gguf;
use crate::hint::UsageError;
use crate::output::{self, ACCENT, BOLD, DIM, Output};
use crate::probe::compare::{self, Comparison, Side};
use crate::probe::html::Page;
use crate::probe::score::Windows;
use crate::probe::swap::{Baseline, Parts, Swap};
use crate::probe::weights::tensor_errors;
use crate::probe::{Error, Prompt, SAMPLE};
use crate::progress::{self, Progress, Unit};
use crate::runtime::{self, Cancel, Model, Session};
use crate::table::{Columns, cell, plain};

/// Flags of `modelve compare`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve compare phi3-F16.gguf phi3-Q4_K_M.gguf            over a built-in text
  modelve compare F16.gguf Q8_0.gguf Q4_K_M.gguf Q4_0.gguf  quality against size
  modelve compare F16.gguf Q4_0.gguf --file wiki.txt -n 4096
  modelve compare F16.gguf Q4_0.gguf --swap 10              which tensors matter most?

The other files are compared with the first. All models read the same text, batch by batch.")]
pub struct Args {
    /// Files of one model, the best first: .gguf files, Hub ids, `tiny`
    #[arg(value_name = "MODEL")]
    pub models: Vec<String>,

    /// The text to read
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    pub text: Option<String>,

    /// Read the text from a file, `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Read `<|end|>` and other special tokens written in the text as those tokens
    #[arg(long, overrides_with = "no_special")]
    pub special: bool,

    /// Read special tokens written in the text as plain characters (the default)
    #[arg(long, overrides_with = "special", hide_short_help = true)]
    pub no_special: bool,

    /// Read no more than N tokens
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub tokens: Option<u32>,

    /// Number of tokens in a window [default: 512, or fewer where the model's RoPE factors change
    /// before]
    #[arg(short, long, value_name = "N")]
    pub window: Option<usize>,

    /// Number of tokens a window moves by [default: half the window]
    #[arg(short, long, value_name = "N")]
    pub stride: Option<usize>,

    /// Number of worst positions to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub worst: usize,

    /// Maximum number of greedy tokens after which the models may diverge
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub greedy: usize,

    /// Replace single tensors of the first file by the second's and measure the effect, for the N
    /// that differ most
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "8")]
    pub swap: Option<usize>,

    #[command(flatten)]
    pub(crate) form: Form,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Default number of tokens of a window.
const WINDOW: usize = 512;
/// The number of tokens that a swap is measured over.
const SWAP_TOKENS: usize = 128;
/// The number of tokens of the prompt that greedy texts start with.
const GREEDY_PROMPT: usize = 12;

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let named: Vec<&String> = args.engine.model.model.iter().chain(&args.models).collect();
    if named.len() < 2 {
        let what =
            "name two files to compare, the better first: modelve compare F16.gguf Q4_K_M.gguf";
        return Err(UsageError(what.to_owned()).into());
    }
    if args.swap.is_some() && named.len() > 2 {
        return Err(UsageError("--swap takes two models".to_owned()).into());
    }
    let text = text(args)?;
    let engine = |name: &String| {
        let mut engine = args.engine.clone();
        engine.model.model = Some(name.clone());
        engine
    };
    let inputs = named.iter().flat_map(|name| engine(name).inputs());
    let mut to = args.form.judge(inputs.chain(args.file.clone()))?;
    let cancel = cancel_on_ctrl_c()?;
    let progress = progress::stderr(false);
    let progress = progress.as_ref();
    let mut sides: Vec<Side> = Vec::with_capacity(named.len());
    let mut files: Vec<Gguf> = Vec::with_capacity(named.len());
    let mut reading: Option<(Prompt, Windows)> = None;
    for name in named {
        let engine = engine(name);
        // A checkpoint is best converted without loss for a comparison.
        let path = engine.locate(" -q F16")?;
        // With an estimate of no work, the weights stay in the mapped file.
        let model = engine.load_file(&path, work(0), &cancel)?;
        let (prompt, windows) = match &reading {
            Some(reading) => reading,
            None => {
                let ids = prompt::tokens(model.vocab(), &text, args.special).map_err(explain)?;
                let text = text.clone();
                let mut read = Prompt { text, ids };
                read.ids
                    .truncate(args.tokens.map_or(usize::MAX, |n| n as usize));
                let windows = windows(&args.engine, &model, args.window, args.stride, WINDOW)?;
                reading.insert((read, windows))
            }
        };
        let room = windows.size.min(prompt.ids.len());
        let settings = compare::settings(args.engine.settings(&cancel));
        let session = session(&args.engine, &model, room, settings)?;
        let file = open(&path)?;
        sides.push(Side {
            name: path.display().to_string(),
            bytes: file.size_bytes(),
            session,
        });
        to = to.of(&model);
        files.push(file);
    }
    let (prompt, windows) = reading.context("no model")?;

    progress.start(
        "comparing",
        Unit::Items("tokens"),
        prompt.ids.len() as u64,
        0,
    );
    let mut before = 0;
    let read = compare::compare(&mut sides, &prompt, windows, args.worst, &mut |done| {
        progress.advance((done - before) as u64);
        before = done;
    });
    progress.finish();
    let mut results = read.map_err(told)?;
    for (i, result) in results.iter_mut().enumerate() {
        if cancel.is_set() {
            result.complete = false;
            continue;
        }
        add_parting(args, &sides[0], &sides[i + 1], &prompt, &cancel, result)?;
    }
    // Weights are read through mappings of their own, so free the models first.
    drop(sides);
    // Rayon takes 0 for as many threads as there are cores.
    let threads = args.engine.threads.unwrap_or(0) as usize;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()?;
    for (i, result) in results.iter_mut().enumerate() {
        if cancel.is_set() {
            result.complete = false;
            continue;
        }
        progress.start("decoding weights", Unit::Bytes, files[0].size_bytes(), 0);
        let advance = |bytes| progress.advance(bytes);
        let (a, b) = (&files[0], &files[i + 1]);
        result.tensors = pool.install(|| tensor_errors(a, b, &cancel, &advance));
        progress.finish();
    }
    if let (Some(n), [result]) = (args.swap, &mut results[..]) {
        swap(args, n, &files, &prompt, &cancel, progress, result)?;
    }

    if results.iter().all(|result| result.n_tokens == 0) {
        return interrupted(false);
    }
    to.show(Page::COMPARE, &results, |out| print(out, &results))?;
    interrupted(results.iter().all(|result| result.complete))
}

fn text(args: &Args) -> anyhow::Result<String> {
    let text = match (&args.text, &args.file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => {
            let text = prompt::input::read_text(path)?;
            text.strip_suffix('\n').unwrap_or(&text).to_owned()
        }
        (None, None) => SAMPLE.to_owned(),
    };
    if text.is_empty() {
        return Err(UsageError("the text is empty".to_owned()).into());
    }
    Ok(text)
}

/// A session for a short text. As everywhere, the length of the text, not the size of the windows,
/// decides between the RoPE factors of a model that has two sets.
fn short_session(
    args: &Args,
    model: &Model,
    tokens: usize,
    cancel: &Cancel,
) -> anyhow::Result<Session> {
    let settings = compare::settings(args.engine.settings(cancel));
    session(&args.engine, model, tokens, settings)
}

fn add_parting(
    args: &Args,
    a: &Side,
    b: &Side,
    text: &Prompt,
    cancel: &Cancel,
    result: &mut Comparison,
) -> anyhow::Result<()> {
    if args.greedy == 0 {
        return Ok(());
    }
    let room = GREEDY_PROMPT.saturating_add(args.greedy);
    let open = |side: &Side| short_session(args, side.session.model(), room, cancel);
    let (a, b) = (&mut open(a)?, &mut open(b)?);
    let ids = text.ids[..text.ids.len().min(GREEDY_PROMPT)].to_vec();
    let bytes = a.model().vocab().detokenize(&ids, true)?;
    let start = Prompt {
        text: String::from_utf8_lossy(&bytes).into_owned(),
        ids,
    };
    match compare::parting(a, b, &start, args.greedy) {
        Ok(parting) => result.parting = Some(parting),
        Err(Error::Runtime(runtime::Error::Cancelled)) => result.complete = false,
        Err(error) => return Err(told(error)),
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn swap(
    args: &Args,
    n: usize,
    files: &[Gguf],
    text: &Prompt,
    cancel: &Cancel,
    progress: &dyn Progress,
    result: &mut Comparison,
) -> anyhow::Result<()> {
    let chosen: Vec<String> = result
        .tensors
        .iter()
        .take(n.min(4096))
        .map(|tensor| tensor.name.clone())
        .collect();
    if chosen.is_empty() || cancel.is_set() {
        return Ok(());
    }
    let ids = &text.ids[..text.ids.len().min(SWAP_TOKENS)];
    let bytes = Parts::bytes(&files[0], &files[1], &chosen);
    let what = format!("writing a copy to {}", std::env::temp_dir().display());
    progress.start(&what, Unit::Bytes, bytes, 0);
    let parts = Parts::write(&files[0], &files[1], &chosen, &mut |n| progress.advance(n));
    progress.finish();
    let parts = parts?;
    let load = |swapped| -> anyhow::Result<Session> {
        let path = parts.with(swapped)?;
        let model = args.engine.load_file(&path, work(0), cancel)?;
        short_session(args, &model, ids.len(), cancel)
    };
    let baseline = Baseline::new(&mut load(None)?, ids).map_err(told)?;
    progress.start("swapping", Unit::Items("tensors"), chosen.len() as u64, 0);
    let mut swaps = Vec::with_capacity(chosen.len());
    for (i, tensor) in result.tensors.iter().take(chosen.len()).enumerate() {
        let measure = || -> anyhow::Result<Swap> {
            let kl = baseline.kl(&mut load(Some(i))?).map_err(told)?;
            Ok(Swap {
                name: tensor.name.clone(),
                type_a: tensor.type_a.clone(),
                type_b: tensor.type_b.clone(),
                kl_mean: kl.mean(),
                kl_error: kl.error(),
            })
        };
        match measure() {
            Ok(swap) => swaps.push(swap),
            Err(_) if cancel.is_set() => {
                result.complete = false;
                break;
            }
            Err(error) => {
                progress.finish();
                return Err(error);
            }
        }
        progress.advance(1);
    }
    progress.finish();
    swaps.sort_by(|a, b| b.kl_mean.total_cmp(&a.kl_mean));
    result.swap = swaps;
    Ok(())
}

/// Formats a number with `after` digits after the point, or in scientific notation if it is too
/// small for them.
fn digits(value: f64, after: usize) -> String {
    let least = 10f64.powi(1 - after as i32);
    match value == 0.0 || value >= least {
        true => format!("{value:.after$}"),
        false => format!("{value:.1e}"),
    }
}

fn print(out: &mut Output, results: &[Comparison]) -> std::io::Result<()> {
    let Some(first) = results.first() else {
        return Ok(());
    };
    let header = [
        "model",
        "size>",
        "mean KL>",
        "±>",
        "largest>",
        "same first choice>",
        "perplexity>",
        "tokens/s>",
    ];
    let mut rows = Columns::new(out, &header);
    let paths = results.iter().map(|result| &*result.b);
    let paths: Vec<&str> = std::iter::once(&*first.a).chain(paths).collect();
    let names = file_names(&paths);
    rows.add([
        plain(&names[0]),
        plain(human::bytes(first.bytes_a)),
        cell("measured by", DIM),
        plain(""),
        plain(""),
        plain(""),
        plain(format!("{:.4}", first.perplexity_a)),
        plain(format!("{:.1}", first.speed_a)),
    ]);
    for (result, name) in results.iter().zip(&names[1..]) {
        rows.add([
            cell(name, ACCENT),
            plain(human::bytes(result.bytes_b)),
            plain(digits(result.kl_mean, 5)),
            plain(digits(result.kl_error, 5)),
            plain(digits(result.kl_max, 3)),
            plain(percent(result.same_top)),
            plain(format!("{:.4}", result.perplexity_b)),
            plain(format!("{:.1}", result.speed_b)),
        ]);
    }
    out.write_all(rows.lines().as_bytes())?;
    let note = format!(
        "{} positions in windows of {} that move by {}; KL in nats",
        human::count(first.n_tokens as u64),
        first.windows.size,
        first.windows.stride
    );
    writeln!(out, "{}", out.paint(DIM, note))?;
    for (result, name) in results.iter().zip(&names[1..]) {
        if results.len() > 1 {
            writeln!(out, "\n{}", out.paint(BOLD, name))?;
        }
        print_one(out, result)?;
    }
    Ok(())
}

fn print_one(out: &mut Output, result: &Comparison) -> std::io::Result<()> {
    let ratio = 100.0 * (result.log_ratio.exp() - 1.0);
    let error = 100.0 * result.log_ratio.exp() * result.log_ratio_error;
    writeln!(out, "perplexity changes by {ratio:+.2} % ± {error:.2} %")?;
    if let Some(parting) = &result.parting {
        let room = output::width().saturating_sub(30).max(20);
        let said = tail(&format!("{}{}", parting.prompt, parting.same), room);
        match (&parting.a, &parting.b) {
            (Some(a), Some(b)) => writeln!(
                out,
                "greedy texts diverge after {} tokens: {said} {} or {}",
                parting.n_same,
                quoted(&a.piece),
                quoted(&b.piece)
            )?,
            _ => writeln!(
                out,
                "greedy texts are the same for {} tokens: {said}",
                parting.n_same
            )?,
        }
    }
    if !result.worst.is_empty() {
        writeln!(out, "\n{}", out.paint(BOLD, "worst positions"))?;
        let mut rows = Columns::new(
            out,
            &["KL>", "at>", "after", "first says", "this says", "text"],
        );
        let says = |choice: &crate::probe::Choice| {
            format!("{} {}", quoted(&choice.piece), percent(choice.prob).trim())
        };
        let room = output::width().saturating_sub(72).clamp(16, 60);
        for worst in &result.worst {
            rows.add([
                plain(digits(worst.kl, 3)),
                plain(worst.position),
                plain(tail(&worst.context, room)),
                plain(says(&worst.top_a)),
                plain(says(&worst.top_b)),
                plain(quoted(&worst.piece)),
            ]);
        }
        out.write_all(rows.lines().as_bytes())?;
    }
    if !result.swap.is_empty() {
        writeln!(
            out,
            "\n{}",
            out.paint(BOLD, "the first with one tensor of this")
        )?;
        let mut rows = Columns::new(out, &["mean KL>", "±>", "tensor", "types"]);
        for swap in &result.swap {
            rows.add([
                plain(format!("{:.3e}", swap.kl_mean)),
                plain(format!("{:.1e}", swap.kl_error)),
                plain(human::escape(swap.name.as_bytes())),
                cell(format!("{} → {}", swap.type_a, swap.type_b), DIM),
            ]);
        }
        out.write_all(rows.lines().as_bytes())?;
    }
    print_tensors(out, result)
}

/// Maximum number of tensors to show.
const SHOWN: usize = 12;

fn print_tensors(out: &mut Output, result: &Comparison) -> std::io::Result<()> {
    if result.tensors.is_empty() {
        // After Ctrl-C the weights have not been compared.
        return match result.complete {
            true => writeln!(out, "tensors of the same name and shape are equal"),
            false => Ok(()),
        };
    }
    writeln!(out, "\n{}", out.paint(BOLD, "weights that differ most"))?;
    let mut rows = Columns::new(out, &["relative error>", "tensor", "types"]);
    for tensor in result.tensors.iter().take(SHOWN) {
        rows.add([
            plain(tensor.error.map_or("not known".to_owned(), percent)),
            plain(human::escape(tensor.name.as_bytes())),
            cell(format!("{} → {}", tensor.type_a, tensor.type_b), DIM),
        ]);
    }
    out.write_all(rows.lines().as_bytes())?;
    if result.tensors.len() > SHOWN {
        let note = format!(
            "and {} more; --json lists all",
            result.tensors.len() - SHOWN
        );
        writeln!(out, "{}", out.paint(DIM, note))?;
    }
    Ok(())
}
