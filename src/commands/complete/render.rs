//! Prints completions as text or JSON, in the order of their prompts.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Job;
use crate::base::human;
use crate::commands::prompt::Text;
use crate::commands::vocab::JsonText;
use crate::commands::{waiting, workers};
use crate::output::{self, Output};
use crate::runtime::{
    self, Completion, Event, Finish, Likely, Report, Step, Token, Vocab, Weights, host,
};

/// Prints completions: the text of a single prompt as it is generated, those of several prompts
/// when they are complete, in order.
pub(super) struct Renderer<'a> {
    job: &'a Job<'a>,
    out: Output,
    prompts: Vec<Text>,
    /// The completions that ended and wait for those before them.
    waiting: BTreeMap<usize, Result<Completion, runtime::Error>>,
    next: usize,
    /// The number of prompts that were not completed.
    pub failed: usize,
    /// The number of bytes of the single text that were printed so far.
    streamed: usize,
    /// The totals for `--stats`.
    pub totals: Totals,
    /// The text that was completed last.
    pub last_text: String,
}

#[derive(Debug, Default)]
pub(super) struct Totals {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub prefill: Duration,
    pub first_token: Option<Instant>,
    pub last_token: Option<Instant>,
}

#[derive(Serialize)]
struct Object<'a> {
    index: usize,
    prompt: &'a str,
    text: &'a str,
    finish_reason: &'static str,
    tokens: Vec<TokenObject>,
    usage: UsageError,
    timing: Timing,
}

#[derive(Serialize)]
struct Failure<'a> {
    index: usize,
    prompt: &'a str,
    error: String,
}

#[derive(Serialize)]
struct TokenObject {
    id: Token,
    piece: Piece,
    logprob: f32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top: Vec<Alternative>,
}

#[derive(Serialize)]
struct Alternative {
    id: Token,
    piece: Piece,
    prob: f32,
    logprob: f32,
}

#[derive(Serialize)]
struct UsageError {
    prompt_tokens: usize,
    completion_tokens: usize,
}

#[derive(Serialize)]
struct Timing {
    load_s: f64,
    prefill_s: f64,
    first_token_s: Option<f64>,
    generate_s: f64,
    tokens_per_s: Option<f64>,
}

impl<'a> Renderer<'a> {
    pub fn new(job: &'a Job<'a>, out: Output, prompts: Vec<Text>) -> Self {
        let (waiting, totals) = (BTreeMap::new(), Totals::default());
        Renderer {
            job,
            out,
            prompts,
            waiting,
            next: 0,
            failed: 0,
            streamed: 0,
            totals,
            last_text: String::new(),
        }
    }

    fn streams(&self) -> bool {
        self.prompts.len() == 1 && !self.job.args.json
    }

    pub fn event(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Token {
                step: _,
                text,
                index: _,
            } => {
                let now = Instant::now();
                if self.totals.first_token.is_none() {
                    self.totals.first_token = Some(now);
                    if self.streams() && self.job.args.echo {
                        self.out.text(self.prompts[0].text.as_bytes())?;
                    }
                }
                self.totals.last_token = Some(now);
                if self.streams() && !text.is_empty() {
                    self.streamed += text.len();
                    self.out.text(text.as_bytes())?;
                    self.out.flush()?;
                }
                Ok(())
            }
            Event::Done { index, completion } => {
                self.totals.prompt_tokens += completion.prompt_tokens;
                self.totals.completion_tokens += completion.steps.len();
                self.totals.prefill = self.totals.prefill.max(completion.prefill);
                self.ended(index, Ok(completion))
            }
            Event::Failed { index, error } => self.ended(index, Err(error)),
        }
    }

    /// Prints the result of a prompt once all before it are printed.
    fn ended(&mut self, index: usize, how: Result<Completion, runtime::Error>) -> io::Result<()> {
        self.waiting.insert(index, how);
        while let Some(how) = self.waiting.remove(&self.next) {
            match how {
                Ok(completion) => {
                    self.print(self.next, &completion)?;
                    self.last_text = completion.text;
                }
                Err(error) => {
                    self.failed += 1;
                    self.refuse(self.next, &error)?;
                }
            }
            self.next += 1;
        }
        self.out.flush()
    }

    /// Reports, in place of a completion, why the prompt was not completed.
    fn refuse(&mut self, index: usize, error: &runtime::Error) -> io::Result<()> {
        self.out.flush()?;
        output::note(&format!("error: prompt {}: {error}", index + 1));
        match self.job.args.json {
            true => self.out.json_line(&Failure {
                index,
                prompt: &self.prompts[index].text,
                error: error.to_string(),
            }),
            false => Ok(()),
        }
    }

    fn print(&mut self, index: usize, completion: &Completion) -> io::Result<()> {
        if self.job.args.json {
            let object = object(self.job, index, &self.prompts[index].text, completion);
            return self.out.json_line(&object);
        }
        if self.streams() {
            // Everything has been printed except what was held back until the end.
            if self.totals.first_token.is_none() && self.job.args.echo {
                self.out.text(self.prompts[0].text.as_bytes())?;
            }
            self.out
                .text(&completion.text.as_bytes()[self.streamed..])?;
        } else {
            if index > 0 {
                writeln!(self.out)?;
            }
            if self.job.args.echo {
                self.out.text(self.prompts[index].text.as_bytes())?;
            }
            self.out.text(completion.text.as_bytes())?;
        }
        if !completion.text.ends_with('\n') {
            writeln!(self.out)?;
        }
        Ok(())
    }

    pub fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn object<'a>(
    job: &Job<'_>,
    index: usize,
    prompt: &'a str,
    completion: &'a Completion,
) -> Object<'a> {
    let vocab = job.model.vocab();
    let n = completion.steps.len();
    let generate = completion.generate.as_secs_f64();
    Object {
        index,
        prompt,
        text: &completion.text,
        finish_reason: match completion.finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Cancelled => "cancelled",
        },
        tokens: completion
            .steps
            .iter()
            .map(|step| token_object(vocab, step))
            .collect(),
        usage: UsageError {
            prompt_tokens: completion.prompt_tokens,
            completion_tokens: n,
        },
        timing: Timing {
            load_s: job.model.load_time().as_secs_f64(),
            prefill_s: completion.prefill.as_secs_f64(),
            first_token_s: completion
                .first_token
                .map(|at| (at - job.start).as_secs_f64()),
            generate_s: generate,
            tokens_per_s: (n > 1 && generate > 0.0).then(|| (n - 1) as f64 / generate),
        },
    }
}

/// The bytes of a token, which may not be whole characters.
struct Piece(Vec<u8>);

impl Serialize for Piece {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        JsonText(&self.0).serialize(serializer)
    }
}

fn piece(vocab: &Vocab, token: Token) -> Piece {
    Piece(vocab.piece(token, true).unwrap_or_default())
}

fn token_object(vocab: &Vocab, step: &Step) -> TokenObject {
    let alternative = |likely: &Likely| Alternative {
        id: likely.token,
        piece: piece(vocab, likely.token),
        prob: likely.logprob.exp(),
        logprob: likely.logprob,
    };
    TokenObject {
        id: step.token,
        piece: piece(vocab, step.token),
        logprob: step.logprob,
        top: step.top.iter().map(alternative).collect(),
    }
}

/// Prints `--stats` on standard error.
pub(super) fn stats(job: &Job<'_>, report: &Report, renderer: &Renderer<'_>) {
    let (model, totals) = (&job.model, &renderer.totals);
    let facts = model.facts();
    let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
    let line = |name: &str, text: String| output::note(&format!("{name:<10} {text}"));
    let types: Vec<_> = facts
        .weights
        .iter()
        .take(2)
        .map(|(ty, _)| ty.name())
        .collect();
    let place = match model.weights() {
        Weights::Mapped => "used in place from the file",
        Weights::Repacked => "repacked for the CPU",
    };
    line(
        "model",
        format!(
            "{}, {}, {}, {place}",
            model.path().display(),
            human::bytes(facts.tensor_bytes),
            types.join(" and "),
        ),
    );
    let threads = job.setup.settings.threads.unwrap_or_else(host::threads);
    line(
        "backend",
        format!(
            "{}, {threads} threads{}, {} of {} layers offloaded",
            model.device(),
            match waiting::sleeps() {
                true => " that sleep while they wait (OMP_WAIT_POLICY=passive)",
                false => "",
            },
            model.gpu_layers(),
            facts.n_layer + 1
        ),
    );
    for context in &report.contexts {
        let rope = match context.long_rope {
            Some(true) => ", long RoPE factors",
            Some(false) => ", short RoPE factors",
            None => "",
        };
        let place = match context.cache_offloaded {
            false if model.gpu_layers() > 0 => " on the CPU, because the device is full",
            _ => "",
        };
        line(
            "context",
            format!(
                "{} tokens, {} of {:?} KV cache{place}, {} at once{rope}, made in {:.2} s",
                context.n_ctx,
                human::bytes(context.kv_bytes),
                job.setup.settings.kv_type,
                context.n_seq,
                context.creation_time.as_secs_f64()
            ),
        );
    }
    for text in model.remote().plan.iter().flat_map(workers::plan_lines) {
        line("plan", text);
    }
    for text in workers::traffic_lines(model.remote()) {
        line("network", text);
    }
    line("load", format!("{:.2} s", model.load_time().as_secs_f64()));
    let (tokens, prefill) = (totals.prompt_tokens, totals.prefill.as_secs_f64());
    let kept = match report.reused {
        0 => String::new(),
        n => format!(", {n} of them computed before"),
    };
    line(
        "prompts",
        match renderer.prompts.len() {
            1 => format!(
                "1 of {tokens} tokens{kept}, {prefill:.2} s to the first token ({:.1} tokens/s)",
                rate(tokens, totals.prefill)
            ),
            // Their prefills were spread over several decode calls, among the tokens of others.
            n => {
                format!(
                    "{n} of {tokens} tokens{kept}, {prefill:.2} s at most to the first token of one"
                )
            }
        },
    );
    if let (Some(first), Some(last)) = (totals.first_token, totals.last_token) {
        let n = totals.completion_tokens;
        line(
            "generated",
            format!(
                "{n} tokens in {:.2} s ({:.1} tokens/s), the first after {:.2} s, {} decode calls",
                (last - first).as_secs_f64(),
                rate(n.saturating_sub(1), last - first),
                (first - job.start).as_secs_f64(),
                report.calls
            ),
        );
    }
    if job.options.sampling.temperature > 0.0 {
        line("seed", job.seed.to_string());
    }
    if let Some((_, most)) = host::resident() {
        line(
            "memory",
            format!("{} at most, mapped file included", human::bytes(most)),
        );
    }
}
