//! A request on its way from prompt to completion.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::request::{Event, Request, RequestId};
use crate::completion::{Completion, Finish, Options, Step};
use crate::error::{Error, Result};
use crate::sampling::{Sampler, likeliest, log_sum_exp};
use crate::text::Assembler;
use crate::token::Token;
use crate::vocab::Vocab;

/// What is known of a request between two steps.
pub(super) struct Job {
    pub id: RequestId,
    /// Prompt and completion.
    pub tokens: Vec<Token>,
    pub n_prompt: usize,
    pub options: Arc<Options>,
    seed: u32,
    /// Made when its turn comes: a grammar for each of thousands that wait would be too much.
    sampler: Option<Sampler>,
    assembler: Assembler,
    text: String,
    steps: Vec<Step>,
    /// The token that ended the text.
    end: Option<Step>,
    /// The prompt's tokens from the second on, as far as they are judged.
    judged: Vec<Step>,
    /// When its turn came.
    started: Option<Instant>,
    prefill: Duration,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    pub reused: usize,
}

/// How a job goes on after a token.
#[derive(Debug)]
pub(super) enum Next {
    /// With another token.
    Token,
    /// Not at all.
    Done(Finish),
    /// In a context with the long RoPE factors.
    Outgrown,
}

impl Job {
    pub fn new(id: RequestId, request: Request) -> Self {
        Job {
            id,
            n_prompt: request.prompt.len(),
            tokens: request.prompt,
            seed: request.seed,
            sampler: None,
            assembler: Assembler::new(&request.options.stops),
            options: request.options,
            text: String::new(),
            steps: Vec::new(),
            end: None,
            judged: Vec::new(),
            started: None,
            prefill: Duration::ZERO,
            first_token: None,
            last_token: None,
            reused: 0,
        }
    }

    /// Cells it takes in the end, in a context for texts of up to `reach` tokens: the last token
    /// chosen is never fed.
    pub fn cells(&self, reach: usize) -> usize {
        let more = self.options.max_tokens.saturating_sub(1);
        let whole = self.n_prompt.saturating_add(more);
        whole.min(reach).max(self.tokens.len())
    }

    /// Its turn has come. `banned` are tokens it must not choose.
    pub fn start(&mut self, vocab: &Vocab, banned: &[Token]) -> Result<()> {
        self.started.get_or_insert_with(Instant::now);
        if self.sampler.is_none() {
            let prompt = &self.tokens[..self.n_prompt];
            let sampling = &self.options.sampling;
            self.sampler = Some(Sampler::new(sampling, self.seed, vocab, prompt, banned)?);
        }
        Ok(())
    }

    /// Returns whether the prompt's tokens are to be judged.
    pub fn judges(&self) -> bool {
        self.options.prompt_logprobs
    }

    /// Returns whether the logits after the token at `position` judge one of the prompt that is not
    /// judged yet.
    pub fn is_judged_after(&self, position: usize) -> bool {
        self.judges() && position >= self.judged.len() && position + 1 < self.n_prompt
    }

    /// Judges the next token of the prompt by the logits after the one before it. When it was the
    /// last, all of them are told.
    pub fn judge(&mut self, logits: &[f32], events: &mut Vec<(RequestId, Event)>) {
        let token = self.tokens[self.judged.len() + 1];
        self.judged.push(Step {
            token,
            logprob: logits[token.index()] - log_sum_exp(logits),
            top: likeliest(logits, self.options.top),
        });
        if self.judged.len() + 1 == self.n_prompt {
            events.push((self.id, Event::Prompt(self.judged.clone())));
        }
    }

    /// Chooses the next token by the logits after the last.
    pub fn choose(&mut self, logits: &[f32]) -> Result<Step> {
        let Options { logprobs, top, .. } = *self.options;
        let token = match &mut self.sampler {
            Some(sampler) => sampler.sample(logits)?,
            None => return Err(Error::NothingToSample),
        };
        let logprob = match logprobs || top > 0 {
            true => logits[token.index()] - log_sum_exp(logits),
            false => 0.0,
        };
        Ok(Step {
            token,
            logprob,
            top: likeliest(logits, top),
        })
    }

    /// Adds a token. The context is for texts of up to `reach` tokens, and no text may be longer
    /// than `limit`.
    pub fn advance(
        &mut self,
        step: Step,
        vocab: &Vocab,
        reach: usize,
        limit: usize,
        events: &mut Vec<(RequestId, Event)>,
    ) -> Result<Next> {
        let now = Instant::now();
        if self.first_token.is_none() {
            self.first_token = Some(now);
            self.prefill = self.started.map_or(Duration::ZERO, |started| now - started);
        }
        self.last_token = Some(now);
        let token = step.token;
        let follows_grammar = self.options.sampling.grammar.is_some();
        if vocab.is_end(token) || follows_grammar && vocab.ends_grammar(token) {
            self.end = Some(step);
            return Ok(Next::Done(Finish::Stop));
        }
        if let Some(sampler) = &mut self.sampler {
            sampler.accept(token)?;
        }
        self.tokens.push(token);
        let shown = self.options.shown.contains(&token);
        let (text, stopped) = self.assembler.push(&vocab.piece(token, shown)?);
        self.text += &text;
        self.steps.push(step.clone());
        events.push((self.id, Event::Token { step, text }));
        Ok(if stopped {
            Next::Done(Finish::Stop)
        } else if self.steps.len() >= self.options.max_tokens || self.tokens.len() > limit {
            Next::Done(Finish::Length)
        } else if self.tokens.len() > reach {
            Next::Outgrown
        } else {
            Next::Token
        })
    }

    /// All of it.
    pub fn done(mut self, finish: Finish) -> Completion {
        self.text += &self.assembler.finish();
        let generate = match (self.first_token, self.last_token) {
            (Some(first), Some(last)) => last - first,
            _ => Duration::ZERO,
        };
        Completion {
            text: self.text,
            finish,
            steps: self.steps,
            end: self.end,
            prompt: self.judged,
            prompt_tokens: self.n_prompt,
            reused: self.reused,
            prefill: self.prefill,
            first_token: self.first_token,
            generate,
        }
    }
}
