//! The state of a request, from its prompt to its completion.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::request::{Event, Request, RequestId};
use crate::completion::{Completion, Finish, Options, Step};
use crate::error::{Error, Result};
use crate::sampling::{Sampler, likeliest, log_sum_exp};
use crate::text::Assembler;
use crate::token::Token;
use crate::vocab::Vocab;

/// The state of a request between two steps.
pub(super) struct Job {
    pub id: RequestId,
    /// The tokens of the prompt and the completion so far.
    pub tokens: Vec<Token>,
    pub n_prompt: usize,
    pub options: Arc<Options>,
    seed: u32,
    /// Made when the request is admitted, because grammars for thousands of waiting requests would
    /// take too much memory.
    sampler: Option<Sampler>,
    assembler: Assembler,
    text: String,
    steps: Vec<Step>,
    /// The token that ended the text.
    end: Option<Step>,
    /// The prompt's tokens from the second on whose log-probabilities are known.
    judged: Vec<Step>,
    /// When the request was admitted.
    started: Option<Instant>,
    prefill: Duration,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    pub reused: usize,
    /// Whether the store was asked for a state that it starts with.
    pub asked_store: bool,
}

/// How a request continues after a token.
#[derive(Debug)]
pub(super) enum Next {
    /// With another token.
    Token,
    /// It has ended.
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
            asked_store: false,
        }
    }

    /// The number of cells that it will occupy at its end, in a context for texts of up to `reach`
    /// tokens. The last token that is chosen is never fed.
    pub fn cells(&self, reach: usize) -> usize {
        let more = self.options.max_tokens.saturating_sub(1);
        let whole = self.n_prompt.saturating_add(more);
        whole.min(reach).max(self.tokens.len())
    }

    /// Starts the request when it is admitted. `banned` are tokens that it must not choose.
    pub fn start(&mut self, vocab: &Vocab, banned: &[Token]) -> Result<()> {
        self.started.get_or_insert_with(Instant::now);
        if self.sampler.is_none() {
            let prompt = &self.tokens[..self.n_prompt];
            let sampling = &self.options.sampling;
            self.sampler = Some(Sampler::new(sampling, self.seed, vocab, prompt, banned)?);
        }
        Ok(())
    }

    /// Returns whether log-probabilities of the prompt's tokens are requested.
    pub fn judges(&self) -> bool {
        self.options.prompt_logprobs
    }

    /// Returns whether the logits after the token at `position` are needed for the log-probability
    /// of the next token of the prompt.
    pub fn is_judged_after(&self, position: usize) -> bool {
        self.judges() && position >= self.judged.len() && position + 1 < self.n_prompt
    }

    /// Computes the log-probability of the next token of the prompt from the logits after the one
    /// before it. After the last one, all of them are sent as an event.
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

    /// Chooses the next token from the logits after the last one.
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

    /// Adds a token. The context computes texts of up to `reach` tokens, and no text may be longer
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

    /// Ends the request and returns its completion.
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
