//! `modelve complete`: completes prompts.

mod interactive;
mod render;

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, anyhow};

use crate::commands::cache::CacheArgs;
use crate::commands::engine::{EngineArgs, cancel_on_ctrl_c, explain};
use crate::commands::prompt::{self, PromptArgs, Text};
use crate::commands::vectors::{self, Share};
use crate::hint::{Interrupted, UsageError};
use crate::output::Output;
use crate::runtime::weights::Work;
use crate::runtime::{
    Cancel, ControlVector, Engine, Event, Finish, Grammar, Model, Options, Report, Request,
    Sampling, Settings, Setup, StateStore, Token, engine,
};
use render::Renderer;

const EXAMPLES: &str = "\
Examples:
  modelve complete \"Today is\"                       one prompt, the likeliest text
  modelve complete \"Today is\" \"The bat\" --echo      several at once
  modelve complete --chat \"What is a bat?\" -n 200   in the model's chat template
  modelve complete --temp 0.8 --seed 7 \"Once\"       draw instead of taking the likeliest
  modelve complete --file prompt.txt                a prompt from a file
  modelve complete --file list.txt --lines --json   a prompt per line, an object per answer
  modelve complete < prompts.jsonl                  {\"prompt\": \"…\"} per line
  modelve complete --chat                           talk, line by line

docs/prompts.md says how prompts are read, docs/json.md what --json prints.";

/// Flags of `modelve complete`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, allow_negative_numbers = true)]
pub struct Args {
    #[command(flatten)]
    prompts: PromptArgs,

    /// Maximum number of tokens to add
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,

    /// Print the prompt before its completion
    #[arg(long, conflicts_with = "json")]
    echo: bool,

    /// Print one JSON object per prompt
    #[arg(long)]
    json: bool,

    /// With --json: report the N likeliest tokens at each step
    #[arg(long, value_name = "N", requires = "json", default_value_t = 0)]
    top: usize,

    /// Print timing, memory, backend and context on standard error
    #[arg(long)]
    stats: bool,

    /// 0 takes the likeliest token, 1 samples from the model's distribution [default: 0, or 1 with
    /// another sampling flag]
    #[arg(long, value_name = "T", help_heading = "Sampling", value_parser = temperature)]
    temp: Option<f32>,

    /// Sample from the K likeliest tokens
    #[arg(long, value_name = "K", help_heading = "Sampling")]
    top_k: Option<u32>,

    /// Sample from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", help_heading = "Sampling", value_parser = probability)]
    top_p: Option<f32>,

    /// Sample from tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P", help_heading = "Sampling", hide_short_help = true, value_parser = probability)]
    min_p: Option<f32>,

    /// Sample from the most typical tokens that together have this probability
    #[arg(long, value_name = "P", help_heading = "Sampling", hide_short_help = true, value_parser = probability)]
    typical_p: Option<f32>,

    /// Divide the logits of the last 64 tokens by this number
    #[arg(
        long,
        value_name = "X",
        help_heading = "Sampling", hide_short_help = true,
        default_value_t = 1.0,
        value_parser = divisor
    )]
    repeat_penalty: f32,

    /// Subtract from the logits of tokens that have occurred
    #[arg(
        long,
        value_name = "X",
        help_heading = "Sampling", hide_short_help = true,
        default_value_t = 0.0,
        value_parser = finite
    )]
    presence_penalty: f32,

    /// Subtract from the logits of tokens for each time they have occurred
    #[arg(
        long,
        value_name = "X",
        help_heading = "Sampling", hide_short_help = true,
        default_value_t = 0.0,
        value_parser = finite
    )]
    frequency_penalty: f32,

    /// Seed of the random numbers [default: from the clock; --stats shows it]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    seed: Option<u32>,

    /// End before this text appears (repeatable)
    #[arg(long, value_name = "TEXT", help_heading = "Sampling")]
    stop: Vec<String>,

    /// Continue where the model would end
    #[arg(long, help_heading = "Sampling", hide_short_help = true)]
    ignore_eos: bool,

    /// Add to one token's logit, such as 29889=-100 or 42=+3 (repeatable)
    #[arg(long, value_name = "ID=±X", help_heading = "Sampling", hide_short_help = true, value_parser = parse_bias, allow_hyphen_values = true)]
    logit_bias: Vec<(Token, f32)>,

    /// Follow a grammar (GBNF)
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Sampling",
        conflicts_with = "json_schema"
    )]
    grammar: Option<PathBuf>,

    /// Answer in JSON that fits a schema
    #[arg(long, value_name = "FILE", help_heading = "Sampling")]
    json_schema: Option<PathBuf>,

    /// Add a control vector, FILE or FILE:SCALE, to what the model computes (repeatable)
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    control_vector: Vec<Share>,

    #[command(flatten)]
    cache: CacheArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

/// Parses a finite number for which `fits` holds; otherwise the error says that `what` is needed.
fn number(text: &str, what: &str, fits: impl Fn(f32) -> bool) -> Result<f32, String> {
    let number = text
        .parse()
        .ok()
        .filter(|&x: &f32| x.is_finite() && fits(x));
    number.ok_or_else(|| what.to_owned())
}

fn probability(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))
}

fn temperature(text: &str) -> Result<f32, String> {
    number(text, "a number of 0 or more", |x| x >= 0.0)
}

fn divisor(text: &str) -> Result<f32, String> {
    number(text, "a number above 0", |x| x > 0.0)
}

fn finite(text: &str) -> Result<f32, String> {
    number(text, "a number", |_| true)
}

fn parse_bias(text: &str) -> Result<(Token, f32), String> {
    let parse = || {
        let (id, bias) = text.split_once('=')?;
        let bias: f32 = bias.trim().parse().ok()?;
        Some((id.trim().parse().ok()?, bias)).filter(|(_, bias)| !bias.is_nan())
    };
    parse().ok_or_else(|| "a token id, =, and a number: 29889=-100".to_owned())
}

/// Completes prompts.
pub fn run(args: Args) -> anyhow::Result<()> {
    let start = Instant::now();
    // A prompt that was taken for the folder is told before the prompt that is missing.
    let store = args.cache.open()?;
    let prompts = args.prompts.texts(args.engine.model.is_given())?;
    if let Some(empty) = args.stop.iter().position(String::is_empty) {
        return Err(UsageError(format!("stop text {} is empty", empty + 1)).into());
    }
    let interactive = prompts.is_none() && std::io::stdin().is_terminal();
    if prompts.is_none() && !interactive {
        return Err(prompt::missing("prompt"));
    }
    let cancel = cancel_on_ctrl_c()?;
    let options = args.options()?;
    let control = vectors::control(&args.control_vector)?;
    let prompts = prompts.unwrap_or_default();
    let model = args
        .engine
        .load(args.work(&prompts, interactive), &cancel)?;
    options.sampling.check(model.vocab()).map_err(explain)?;

    let job = Job {
        args: &args,
        model,
        options: options.into(),
        setup: args.setup(&cancel, control, store),
        seed: args.seed.unwrap_or_else(clock_seed),
        cancel,
        start,
    };
    if interactive {
        return interactive::run(&job);
    }
    if prompts.is_empty() {
        return Ok(());
    }
    job.complete(prompts)
}

impl Args {
    fn options(&self) -> anyhow::Result<Options> {
        let draws = self.top_k.is_some()
            || self.top_p.is_some()
            || self.min_p.is_some()
            || self.typical_p.is_some();
        let read = |path: &PathBuf| prompt::input::read_text(path);
        let grammar = match (&self.grammar, &self.json_schema) {
            (Some(path), _) => Some((path, Grammar::gbnf(&read(path)?))),
            (None, Some(path)) => Some((path, Grammar::json_schema(&read(path)?))),
            (None, None) => None,
        };
        let grammar = match grammar {
            Some((path, grammar)) => Some(grammar.with_context(|| path.display().to_string())?),
            None => None,
        };
        Ok(Options {
            max_tokens: self.max_tokens,
            sampling: Sampling {
                temperature: self.temp.unwrap_or(if draws { 1.0 } else { 0.0 }),
                top_k: self.top_k.unwrap_or(0),
                top_p: self.top_p.unwrap_or(1.0),
                min_p: self.min_p.unwrap_or(0.0),
                typical_p: self.typical_p.unwrap_or(1.0),
                repeat_penalty: self.repeat_penalty,
                presence_penalty: self.presence_penalty,
                frequency_penalty: self.frequency_penalty,
                logit_bias: self.logit_bias.clone(),
                grammar,
            },
            stops: self.stop.clone(),
            ignore_end: self.ignore_eos,
            logprobs: self.json,
            top: self.top,
            ..Options::default()
        })
    }

    fn setup(
        &self,
        cancel: &Cancel,
        control: Option<Arc<ControlVector>>,
        store: Option<Arc<StateStore>>,
    ) -> Setup {
        Setup {
            settings: Settings {
                control,
                ..self.engine.settings(cancel)
            },
            ctx_size: self.engine.ctx_size,
            store,
            ..Setup::default()
        }
    }

    /// An estimate of the work ahead, before a tokenizer is loaded.
    fn work(&self, prompts: &[Text], interactive: bool) -> Work {
        if interactive {
            // Several questions are likely, and the user has not typed the first one yet.
            return Work::one(64, self.max_tokens.saturating_mul(4));
        }
        let system = self.prompts.manner.system.as_ref().map_or(0, String::len);
        let bytes: usize = prompts.iter().map(|p| p.text.len() + system).sum();
        Work {
            // English text has about four bytes per token.
            prompt_tokens: bytes / 4 + prompts.len(),
            max_tokens: self.max_tokens,
            prompts: prompts.len(),
            parallel: engine::PARALLEL as usize,
        }
    }
}

/// A seed that differs from call to call.
pub fn clock_seed() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |time| time.subsec_nanos() ^ time.as_secs() as u32)
}

/// A loaded model and the options to complete with it.
struct Job<'a> {
    args: &'a Args,
    model: Model,
    options: Arc<Options>,
    setup: Setup,
    /// The seed of the first prompt; each following prompt has the next number.
    seed: u32,
    cancel: Cancel,
    start: Instant,
}

impl Job<'_> {
    fn complete(&self, prompts: Vec<Text>) -> anyhow::Result<()> {
        let n = prompts.len();
        let mut tokens = Vec::with_capacity(n);
        for (i, prompt) in prompts.iter().enumerate() {
            let result = self
                .args
                .prompts
                .tokens(&self.model, prompt)
                .map_err(explain);
            tokens.push(match n {
                1 => result?,
                _ => result.with_context(|| format!("prompt {}", i + 1))?,
            });
        }
        let mut renderer = Renderer::new(self, Output::stdout(), prompts);
        // All prompts are known, so no later one could reuse an ended sequence.
        let mut engine = self.engine(true)?;
        let (report, cancelled) = self.run(&mut engine, tokens, &mut renderer)?;
        renderer.finish()?;
        if self.args.stats {
            render::stats(self, &report, &renderer);
        }
        match renderer.failed {
            _ if cancelled => Err(Interrupted.into()),
            0 => Ok(()),
            failed => Err(anyhow!("{failed} of {n} prompts were not completed")),
        }
    }

    /// Makes an engine. Ended sequences are kept for reuse unless `discard_ended`.
    fn engine(&self, discard_ended: bool) -> anyhow::Result<Engine> {
        let setup = Setup {
            discard_ended,
            ..self.setup.clone()
        };
        Engine::new(&self.model, setup).map_err(explain)
    }

    /// Completes tokenized prompts and prints the results. Returns the report, and whether it was
    /// cancelled.
    fn run(
        &self,
        engine: &mut Engine,
        tokens: Vec<Vec<Token>>,
        renderer: &mut Renderer<'_>,
    ) -> anyhow::Result<(Report, bool)> {
        let mut broken = None;
        let mut failed = None;
        let mut cancelled = false;
        let alone = tokens.len() == 1;
        let requests = tokens.into_iter().zip(0..).map(|(prompt, i)| Request {
            prompt,
            seed: self.seed.wrapping_add(i),
            options: Arc::clone(&self.options),
        });
        let requests = requests.collect();
        let report = engine.complete(requests, &mut |event| {
            let rendered = match event {
                // The error of a single prompt is the command's error.
                Event::Failed { error, .. } if alone => {
                    failed = Some(error);
                    Ok(())
                }
                event => {
                    if let Event::Done { completion, .. } = &event {
                        cancelled |= completion.finish == Finish::Cancelled;
                    }
                    renderer.event(event)
                }
            };
            match rendered {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    broken = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        match (broken, failed) {
            (Some(error), _) => Err(error.into()),
            (None, Some(error)) => Err(explain(error)),
            (None, None) => Ok((report.map_err(explain)?, cancelled)),
        }
    }
}
