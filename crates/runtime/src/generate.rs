//! Completing prompts: one, or many at once in one context.
//!
//! Sequences of different lengths share each decode call; when one ends, the next prompt takes
//! its place. A text that grows beyond what the short RoPE factors are for is computed anew in a
//! context with the long ones, as a fresh run at that length would.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::completion::{Completion, ContextReport, Event, Finish, Options, Report, Step};
use super::error::{Error, Result, Token};
use super::model::Model;
use super::plan::{self, Need};
use super::sampling::{Sampler, likeliest, log_sum_exp};
use super::seq::Seq;
use super::session::{Entry, Session, Want};
use super::text::Assembler;
use super::vocab::Vocab;

/// A prompt on its way.
struct Job {
    index: usize,
    /// Prompt and completion.
    tokens: Vec<Token>,
    n_prompt: usize,
    sampler: Sampler,
    assembler: Assembler,
    text: String,
    steps: Vec<Step>,
    started: Option<Instant>,
    prefill: Duration,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Job {
    fn done(mut self, finish: Finish) -> (usize, Completion) {
        self.text += &self.assembler.finish();
        let generate = match (self.first_token, self.last_token) {
            (Some(first), Some(last)) => last - first,
            _ => Duration::ZERO,
        };
        let completion = Completion {
            text: self.text,
            finish,
            steps: self.steps,
            prompt_tokens: self.n_prompt,
            prefill: self.prefill,
            first_token: self.first_token,
            generate,
        };
        (self.index, completion)
    }
}

/// Completes prompts, given as tokens. An empty one begins with the model's BOS token.
///
/// `on_event` hears of each token as it comes and of each completion as it ends, in the order of
/// their ends; `Break` stops everything. When [`Settings::cancel`](super::Settings) is raised, what there is
/// comes as completions that were [cancelled](Finish::Cancelled).
///
/// # Errors
/// A prompt or context that does not fit, told before anything is computed.
pub fn complete(
    model: &Model,
    prompts: Vec<Vec<Token>>,
    options: &Options,
    on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Report> {
    let vocab = model.vocab();
    options.sampling.check(vocab)?;
    let limit = plan::longest_text(model, options.ctx_size)?;
    let ends: Vec<Token> = match options.ignore_end {
        true => (0..vocab.len() as Token)
            .filter(|&token| vocab.is_end(token))
            .collect(),
        false => Vec::new(),
    };
    let mut queues = [VecDeque::new(), VecDeque::new()];
    for (index, mut tokens) in prompts.into_iter().enumerate() {
        for &token in &tokens {
            vocab.check(token)?;
        }
        if tokens.is_empty() {
            tokens.push(vocab.bos().ok_or(Error::EmptyPrompt)?);
        }
        if tokens.len() > limit {
            return Err(Error::ContextFull {
                need: tokens.len(),
                n_ctx: limit,
            });
        }
        let mut sampling = options.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(index as u32);
        let long = plan::is_long(model, tokens.len());
        queues[usize::from(long)].push_back(Job {
            index,
            n_prompt: tokens.len(),
            sampler: Sampler::new(&sampling, vocab, &tokens, &ends)?,
            tokens,
            assembler: Assembler::new(&options.stops),
            text: String::new(),
            steps: Vec::new(),
            started: None,
            prefill: Duration::ZERO,
            first_token: None,
            last_token: None,
        });
    }
    let mut run = Run {
        model,
        vocab,
        options,
        limit,
        on_event,
        report: Report::default(),
    };
    // A context that will be needed later is refused now.
    let jobs = queues.iter().flatten();
    if let Some(most) = jobs.map(|job| run.cells(job.n_prompt, limit)).max() {
        plan::check_fit(model, &options.settings, most)?;
    }
    let [short, long] = queues;
    let grown = run.phase(short, false)?;
    let long = long.into_iter().chain(grown).collect();
    run.phase(long, true)?;
    Ok(run.report)
}

struct Run<'a> {
    model: &'a Model,
    vocab: &'a Vocab,
    options: &'a Options,
    /// The longest text, in tokens.
    limit: usize,
    on_event: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    report: Report,
}

/// A job in the context, and how much of it has been fed.
struct Active {
    job: Job,
    seq: Seq,
    fed: usize,
    /// Cells of the cache kept for it.
    cells: usize,
}

impl Run<'_> {
    /// Cells a prompt and its completion take: the last token chosen is never fed.
    fn cells(&self, n_prompt: usize, longest: usize) -> usize {
        let whole = n_prompt.saturating_add(self.options.max_tokens.saturating_sub(1));
        whole.min(longest).max(n_prompt)
    }

    /// Completes the jobs of a queue in one context; gives back those that outgrew it.
    fn phase(&mut self, mut queue: VecDeque<Job>, long: bool) -> Result<Vec<Job>> {
        if self.options.max_tokens == 0 || self.options.settings.cancel.is_set() {
            let finish = match self.options.max_tokens {
                0 => Finish::Length,
                _ => Finish::Cancelled,
            };
            self.finish_all(queue.drain(..), finish);
            return Ok(Vec::new());
        }
        if queue.is_empty() {
            return Ok(Vec::new());
        }
        let reach = plan::reach(self.model, long).min(self.limit);
        let shared = plan::shared_prefix(queue.iter().map(|job| job.tokens.as_slice()));
        let needs: Vec<Need> = queue
            .iter()
            .map(|job| Need {
                prompt: job.tokens.len() - shared,
                cells: self.cells(job.n_prompt, reach).max(job.tokens.len()) - shared,
            })
            .collect();
        let settings = plan::settings(self.model, self.options, long, shared, &needs);
        let mut session = match Session::new(self.model, &settings) {
            Err(Error::Cancelled) => {
                self.finish_all(queue.drain(..), Finish::Cancelled);
                return Ok(Vec::new());
            }
            made => made?,
        };
        self.report.contexts.push(ContextReport {
            n_ctx: session.n_ctx(),
            kv_bytes: session.kv_bytes(),
            long_rope: session.uses_long_rope(),
            n_seq: settings.n_seq,
            made_in: session.made_in(),
            cache_offloaded: session.cache_offloaded(),
        });

        let mut active: Vec<Active> = Vec::new();
        let mut grown = Vec::new();
        let outcome = self.serve(&mut session, shared, &mut queue, &mut active, &mut grown);
        match outcome {
            Ok(()) => Ok(grown),
            Err(Error::Cancelled) => {
                let left = active.into_iter().map(|a| a.job).chain(grown).chain(queue);
                let mut left: Vec<Job> = left.collect();
                left.sort_by_key(|job| job.index);
                self.finish_all(left, Finish::Cancelled);
                self.options.settings.cancel.set();
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    fn serve(
        &mut self,
        session: &mut Session,
        shared: usize,
        queue: &mut VecDeque<Job>,
        active: &mut Vec<Active>,
        grown: &mut Vec<Job>,
    ) -> Result<()> {
        let room = session.settings().n_batch as usize;
        let reach = session.longest().min(self.limit);
        let mut taken = shared;
        // A beginning that all prompts share is computed once.
        let common = session.open()?;
        if shared > 0 {
            let prefix = queue[0].tokens[..shared].to_vec();
            session.feed(&common, &prefix, Want::None, &mut |_, _| {})?;
            self.report.prefilled += shared;
        }
        loop {
            while let Some(job) = queue.front() {
                let cells = self.cells(job.n_prompt, reach).max(job.tokens.len()) - shared;
                if session.free_sequences() == 0 || taken + cells > session.n_ctx() {
                    break;
                }
                let Some(mut job) = queue.pop_front() else {
                    break;
                };
                job.started.get_or_insert_with(Instant::now);
                let seq = session.fork(&common, shared)?;
                taken += cells;
                active.push(Active {
                    job,
                    seq,
                    fed: shared,
                    cells,
                });
            }
            if active.is_empty() {
                return Ok(());
            }

            // One token of each that generates, then prompts as far as there is room.
            let mut entries = Vec::with_capacity(room);
            let mut owners = Vec::new();
            active.sort_by_key(|a| a.job.tokens.len() - a.fed != 1);
            let mut samplers = Vec::with_capacity(active.len());
            for (slot, a) in active.iter_mut().enumerate() {
                let n = (a.job.tokens.len() - a.fed).min(room - entries.len());
                for &token in &a.job.tokens[a.fed..a.fed + n] {
                    a.fed += 1;
                    let output = a.fed == a.job.tokens.len();
                    if output {
                        owners.push((entries.len(), slot));
                    }
                    entries.push(Entry {
                        seq: &a.seq,
                        token,
                        output,
                    });
                }
                if a.fed <= a.job.n_prompt {
                    self.report.prefilled += n;
                }
                samplers.push(&mut a.job.sampler);
            }
            self.report.calls += 1;
            let mut chosen: Vec<(usize, Result<Step>)> = Vec::new();
            let (logprobs, top) = (self.options.logprobs, self.options.top);
            session.step(&entries, &mut |i, logits| {
                if let Some(&(_, slot)) = owners.iter().find(|(entry, _)| *entry == i) {
                    let step = choose(samplers[slot], logits, logprobs, top);
                    chosen.push((slot, step));
                }
            })?;

            let mut ended = Vec::new();
            for (slot, step) in chosen {
                let a = &mut active[slot];
                let outcome = match step {
                    Ok(step) => self.advance(&mut a.job, step, reach)?,
                    Err(Error::GrammarEnd) => Some(Outcome::Done(Finish::Stop)),
                    Err(error) => return Err(error),
                };
                if let Some(outcome) = outcome {
                    ended.push((slot, outcome));
                }
            }
            ended.sort_by_key(|&(slot, _)| slot);
            for (slot, outcome) in ended.into_iter().rev() {
                let Active {
                    job, seq, cells, ..
                } = active.remove(slot);
                session.close(seq);
                taken -= cells;
                match outcome {
                    Outcome::Done(finish) => {
                        let (index, completion) = job.done(finish);
                        self.tell(Event::Done { index, completion })?;
                    }
                    Outcome::Outgrown => grown.push(job),
                }
            }
        }
    }

    /// Adds a token to a job; how it ends, if it does.
    fn advance(&mut self, job: &mut Job, step: Step, reach: usize) -> Result<Option<Outcome>> {
        let now = Instant::now();
        if job.first_token.is_none() {
            job.first_token = Some(now);
            job.prefill = job.started.map_or(Duration::ZERO, |started| now - started);
        }
        job.last_token = Some(now);
        let token = step.token;
        let follows_grammar = self.options.sampling.grammar.is_some();
        if self.vocab.is_end(token) || follows_grammar && self.vocab.ends_grammar(token) {
            return Ok(Some(Outcome::Done(Finish::Stop)));
        }
        job.sampler.accept(token)?;
        job.tokens.push(token);
        let (text, stopped) = job.assembler.push(&self.vocab.piece(token, false)?);
        job.text += &text;
        let told = self.tell(Event::Token {
            index: job.index,
            step: &step,
            text: &text,
        });
        job.steps.push(step);
        told?;
        Ok(if stopped {
            Some(Outcome::Done(Finish::Stop))
        } else if job.steps.len() >= self.options.max_tokens || job.tokens.len() > self.limit {
            Some(Outcome::Done(Finish::Length))
        } else if job.tokens.len() > reach {
            Some(Outcome::Outgrown)
        } else {
            None
        })
    }

    fn tell(&mut self, event: Event<'_>) -> Result<()> {
        match (self.on_event)(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }

    fn finish_all(&mut self, jobs: impl IntoIterator<Item = Job>, finish: Finish) {
        for job in jobs {
            let (index, completion) = job.done(finish);
            if self.tell(Event::Done { index, completion }).is_err() {
                return;
            }
        }
    }
}

enum Outcome {
    Done(Finish),
    /// It needs the long RoPE factors from here on.
    Outgrown,
}

fn choose(sampler: &mut Sampler, logits: &[f32], logprobs: bool, top: usize) -> Result<Step> {
    let token = sampler.sample(logits)?;
    let logprob = match logprobs || top > 0 {
        true => logits[token as usize] - log_sum_exp(logits),
        false => 0.0,
    };
    Ok(Step {
        token,
        logprob,
        top: likeliest(logits, top),
    })
}
