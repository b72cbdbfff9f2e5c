//! `modelve steer run`: what the model says without and with a control vector.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::human;
use crate::commands::engine::{EngineArgs, cancel_on_ctrl_c, explain};
use crate::commands::experiments::{partial, told};
use crate::commands::flags::Layers;
use crate::commands::probing::{self, clip, columns, interrupted, pad, percent, quoted, session};
use crate::commands::prompt::PromptArgs;
use crate::commands::results::Form;
use crate::commands::vectors::{self, Share};
use crate::experiment::steer::{self, Run, Source, Steered};
use crate::experiment::{self, html::STEER};
use crate::hint::UsageError;
use crate::output::{self, ACCENT, BOLD, DIM, Output};
use crate::probe::{Prompt, Subject, next};
use crate::progress::{self, Unit};
use crate::runtime::weights::Work;
use crate::runtime::{Cancel, ControlVector, Model, Settings};

/// Flags of `modelve steer run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve steer run 'I think that' --vector love.gguf
  modelve steer run 'I think that' --vector love.gguf --scale=-2,-1,1,2 --html love.html
  modelve steer run 'I think that' --vector love.gguf:1 --vector brief.gguf:0.5",
mut_arg("layers", |arg| arg.help("Add the directions of these layers alone, from 1 [default: all that the vector has]")))]
pub struct Args {
    #[command(flatten)]
    prompts: PromptArgs,

    /// A control vector, FILE or FILE:SCALE; several are added up (repeatable)
    #[arg(long, value_name = "FILE", required = true)]
    vector: Vec<Share>,

    /// Factors of the vector, such as -1,0.5,2, with one answer for each
    #[arg(
        long,
        value_name = "X,…",
        default_value = "1",
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_parser = scale
    )]
    scale: Vec<f32>,

    #[command(flatten)]
    layers: Layers,

    /// Maximum number of tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value_t = 32)]
    max_tokens: usize,

    /// Number of tokens to show of each distribution
    #[arg(long, value_name = "N", default_value_t = 8)]
    top: usize,

    #[command(flatten)]
    form: Form,

    #[command(flatten)]
    engine: EngineArgs,
}

fn scale(text: &str) -> Result<f32, String> {
    let number = text.trim().parse().ok().filter(|x: &f32| x.is_finite());
    number.ok_or_else(|| format!("{text:?} is not a number"))
}

impl Args {
    /// The files that are read, which are never overwritten.
    fn inputs(&self) -> impl Iterator<Item = PathBuf> {
        let vectors = self.vector.iter().map(|share| share.file.clone());
        (self.engine.reading(&self.prompts.input).into_iter()).chain(vectors)
    }
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let text = (args.prompts).one("steer run", args.engine.model.is_given())?;
    let to = args.form.judge(args.inputs())?;
    let cancel = cancel_on_ctrl_c()?;
    let Some(vector) = vectors::sum(&args.vector)? else {
        return Err(UsageError("no control vector".to_owned()).into());
    };
    // The scale and vector of each answer; the first has none.
    let mut given = vec![(0.0, None)];
    let mut work = Work::one(text.text.len() / 3 + 1, args.max_tokens);
    work.prompts = args.scale.len() + 1;
    let model = args.engine.load(work, &cancel)?;
    let to = to.of(&model);
    let vector = match args.layers.of(model.facts().n_layer as usize)? {
        Some(layers) => vector.only(&layers).map_err(explain)?,
        None => vector,
    };
    for &scale in &args.scale {
        let scaled = vector.clone().scaled(scale).map_err(explain)?;
        given.push((scale, Some(Arc::new(scaled))));
    }
    let prompt = (args.prompts.read(&model, &text)).map_err(probing::told)?;
    let progress = progress::stderr(false);
    progress.start("steering", Unit::Items("answers"), given.len() as u64, 0);
    let mut runs: Vec<Run> = Vec::with_capacity(given.len());
    let mut plain: Option<next::Next> = None;
    for (scale, control) in given {
        let answer = match answer(args, &model, &prompt, control, &cancel) {
            Ok(Some(answer)) => answer,
            Ok(None) => break,
            Err(_) if cancel.is_set() => break,
            Err(error) => {
                progress.finish();
                return Err(error);
            }
        };
        let (next, text) = answer;
        runs.push(Run::new(
            model.vocab(),
            plain.as_ref(),
            scale,
            next.clone(),
            text,
        ));
        plain.get_or_insert(next);
        progress.advance(1);
    }
    progress.finish();
    next::beside(model.vocab(), runs.iter_mut().map(|run| &mut run.next));
    let complete = runs.len() == args.scale.len() + 1;
    if runs.is_empty() {
        return Err(probing::nothing_yet());
    }
    let steered = Steered {
        model: Subject::of(&model),
        prompt: prompt.text,
        ids: prompt.ids,
        files: (args.vector.iter())
            .map(|share| Source {
                file: share.file.display().to_string(),
                scale: share.scale,
            })
            .collect(),
        layers: vector.directions().map(|(layer, _)| layer).collect(),
        runs,
        complete,
    };
    to.show_one(STEER, &steered, |out| {
        print(out, &steered)?;
        partial(out, complete)
    })?;
    interrupted(complete)
}

/// Returns the model's answer with a vector or without; `None` if it was cancelled.
fn answer(
    args: &Args,
    model: &Model,
    prompt: &Prompt,
    control: Option<Arc<ControlVector>>,
    cancel: &Cancel,
) -> anyhow::Result<Option<(next::Next, String)>> {
    let settings = Settings {
        control,
        ..experiment::exact(args.engine.settings(cancel))
    };
    let session = session(&args.engine, model, prompt.ids.len(), settings)?;
    let options = steer::Options {
        top: args.top,
        max_tokens: args.max_tokens,
        ctx_size: args.engine.ctx_size,
    };
    steer::answer(session, prompt, options).map_err(told)
}

/// Names a run: `none`, `+1`, `-0.5`.
fn name(run: &Run, at: usize) -> String {
    match at {
        0 => "none".to_owned(),
        _ => format!("{:+}", run.scale),
    }
}

fn print(out: &mut Output, steered: &Steered) -> std::io::Result<()> {
    let title = probing::tail(&steered.prompt, output::width().saturating_sub(2));
    writeln!(out, "{} _", out.paint(BOLD, title))?;
    let names: Vec<String> = (steered.runs.iter().enumerate())
        .map(|(at, run)| name(run, at))
        .collect();
    let wide = names.iter().map(String::len).max().unwrap_or(0).max(5);
    let head = format!("{:>wide$}  KL, nats  what comes next", "scale");
    writeln!(out, "{}", out.paint(DIM, head))?;
    let room = output::width().saturating_sub(wide + 12);
    for (run, name) in steered.runs.iter().zip(&names) {
        let mut line = String::new();
        for choice in &run.next.top {
            let one = format!("{} {}", quoted(&choice.piece), percent(choice.prob).trim());
            if !line.is_empty() && columns(&line) + 2 + columns(&one) > room {
                break;
            }
            if !line.is_empty() {
                line += "  ";
            }
            line += &one;
        }
        let scale = out.paint(ACCENT, format!("{name:>wide$}"));
        writeln!(
            out,
            "{scale}  {:>8.3}  {}",
            run.kl,
            clip(&line, room.max(20))
        )?;
    }
    if steered.runs.iter().all(|run| run.text.is_empty()) {
        return Ok(());
    }
    writeln!(out)?;
    for (run, name) in steered.runs.iter().zip(&names) {
        let text = human::escape(run.text.as_bytes());
        let scale = out.paint(ACCENT, format!("{name:>wide$}"));
        let lines =
            crate::commands::headings::wrap(&text, output::width().saturating_sub(wide + 2));
        for (i, line) in lines.iter().enumerate() {
            match i {
                0 => writeln!(out, "{scale}  {line}")?,
                _ => writeln!(out, "{}{line}", pad("", wide + 2))?,
            }
        }
    }
    Ok(())
}
