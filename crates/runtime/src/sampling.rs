//! Chooses a token from logits, with llama.cpp's samplers.

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::token::logit_bias::LlamaLogitBias;

use super::error::{Error, Result};
use super::grammar::{Follower, Grammar};
use super::token::Token;
use super::vocab::Vocab;

/// The number of last tokens that the penalties consider; llama.cpp's default.
const PENALTY_WINDOW: i32 = 64;

/// The lowest temperature above 0. Much higher ones already draw only the most likely token.
const LEAST_TEMPERATURE: f32 = 1e-6;

/// How tokens are chosen. The default is greedy: always the most likely token.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// The divisor of the logits. 0 takes the most likely token; 1 draws from the model's own
    /// distribution; lower values concentrate it, higher ones flatten it.
    pub temperature: f32,
    /// Draw from the k most likely tokens only (0: all).
    pub top_k: u32,
    /// Draw from the fewest tokens that together have this probability (1: all).
    pub top_p: f32,
    /// Draw from tokens at least this many times as likely as the most likely one (0: all).
    pub min_p: f32,
    /// Draw from the tokens of most typical surprise that together have this probability
    /// (1: all).
    pub typical_p: f32,
    /// Divides the logits of the last 64 tokens (1: off).
    pub repeat_penalty: f32,
    /// Subtracted from the logits of tokens that occurred among the last 64 (0: off).
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens, times their occurrences among the last 64 (0: off).
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(Token, f32)>,
    /// The grammar that the text must follow.
    pub grammar: Option<Grammar>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            grammar: None,
        }
    }
}

impl Sampling {
    /// Checks that all parameters are in range, and that the tokens are in the vocabulary.
    ///
    /// # Errors
    /// Names the first parameter that is not.
    pub fn check(&self, vocab: &Vocab) -> Result<()> {
        let finite = [
            ("temperature", self.temperature, 0.0, f32::MAX),
            ("top-p", self.top_p, 0.0, 1.0),
            ("min-p", self.min_p, 0.0, 1.0),
            ("typical-p", self.typical_p, 0.0, 1.0),
            (
                "repeat penalty",
                self.repeat_penalty,
                f32::MIN_POSITIVE,
                f32::MAX,
            ),
            (
                "presence penalty",
                self.presence_penalty,
                f32::MIN,
                f32::MAX,
            ),
            (
                "frequency penalty",
                self.frequency_penalty,
                f32::MIN,
                f32::MAX,
            ),
        ];
        // Logits are divided by the temperature, and must not overflow.
        if self.temperature != 0.0 && self.temperature < LEAST_TEMPERATURE {
            return Err(Error::Temperature {
                value: self.temperature,
                least: LEAST_TEMPERATURE,
            });
        }
        for (name, value, least, most) in finite {
            if !value.is_finite() || value < least || value > most {
                return Err(Error::Sampling { name, value });
            }
        }
        for &(token, bias) in &self.logit_bias {
            vocab.check(token)?;
            if bias.is_nan() {
                return Err(Error::LogitBias { token });
            }
        }
        match &self.grammar {
            Some(grammar) => grammar.check(vocab),
            None => Ok(()),
        }
    }

    fn penalizes(&self) -> bool {
        self.repeat_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// Chooses the tokens of one sequence.
pub(super) struct Sampler {
    /// llama.cpp's chain of samplers; `None` takes the model's most likely token.
    chain: Option<LlamaSampler>,
    grammar: Option<Follower>,
    candidates: Vec<LlamaTokenData>,
}

impl Sampler {
    /// `seed` starts the random numbers, the penalties count the tokens of `prompt`, too, and
    /// tokens in `banned` are never chosen.
    pub fn new(
        sampling: &Sampling,
        seed: u32,
        vocab: &Vocab,
        prompt: &[Token],
        banned: &[Token],
    ) -> Result<Sampler> {
        let n_vocab = i32::try_from(vocab.len()).unwrap_or(i32::MAX);
        let mut chain = Vec::new();
        let banned = banned.iter().map(|&token| (token, f32::NEG_INFINITY));
        let biases: Vec<_> = sampling
            .logit_bias
            .iter()
            .copied()
            .chain(banned)
            .map(|(token, bias)| LlamaLogitBias::new(LlamaToken(token.0), bias))
            .collect();
        if !biases.is_empty() {
            chain.push(LlamaSampler::logit_bias(n_vocab, &biases));
        }
        if sampling.penalizes() {
            let penalties = LlamaSampler::penalties(
                n_vocab,
                PENALTY_WINDOW,
                sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            );
            let from = prompt.len().saturating_sub(PENALTY_WINDOW as usize);
            chain.push(penalties.with_tokens(prompt[from..].iter().map(|&t| LlamaToken(t.0))));
        }
        if sampling.temperature > 0.0 {
            if sampling.top_k > 0 {
                chain.push(LlamaSampler::top_k(
                    i32::try_from(sampling.top_k).unwrap_or(i32::MAX),
                ));
            }
            if sampling.typical_p < 1.0 {
                chain.push(LlamaSampler::typical(sampling.typical_p, 1));
            }
            if sampling.top_p < 1.0 {
                chain.push(LlamaSampler::top_p(sampling.top_p, 1));
            }
            if sampling.min_p > 0.0 {
                chain.push(LlamaSampler::min_p(sampling.min_p, 1));
            }
            chain.push(LlamaSampler::temp(sampling.temperature));
            chain.push(LlamaSampler::dist(seed));
        } else if !chain.is_empty() || sampling.grammar.is_some() {
            chain.push(LlamaSampler::greedy());
        }
        Ok(Sampler {
            chain: (!chain.is_empty()).then(|| LlamaSampler::chain(chain, true)),
            grammar: sampling
                .grammar
                .as_ref()
                .map(|g| g.follower(vocab))
                .transpose()?,
            candidates: Vec::new(),
        })
    }

    /// Chooses the next token, given the logits after the last one.
    pub fn sample(&mut self, logits: &[f32]) -> Result<Token> {
        let likeliest = argmax(logits)?;
        if self.chain.is_none() {
            return Ok(likeliest);
        }
        let token = self.draw(logits, false)?;
        // Most sampled tokens follow the grammar anyway, and checking one token is far cheaper than
        // checking all.
        let allowed = match &mut self.grammar {
            Some(grammar) => grammar.allows(token)?,
            None => true,
        };
        match allowed {
            true => Ok(token),
            false => self.draw(logits, true),
        }
    }

    fn draw(&mut self, logits: &[f32], by_grammar: bool) -> Result<Token> {
        let mut data = std::mem::take(&mut self.candidates);
        data.clear();
        let entries = logits.iter().enumerate();
        data.extend(entries.map(|(id, &l)| LlamaTokenData::new(LlamaToken(id as i32), l, 0.0)));
        let mut array = LlamaTokenDataArray::new(data, false);
        if let Some(grammar) = self.grammar.as_mut().filter(|_| by_grammar) {
            let allowed = grammar.allowed()?;
            array
                .data
                .retain(|candidate| allowed.contains(Token(candidate.id().0)));
            if array.data.is_empty() {
                return Err(match grammar.is_complete()? {
                    true => Error::GrammarEnd,
                    false => {
                        Error::Grammar("grammar: no token of this model can follow here".to_owned())
                    }
                });
            }
        }
        if let Some(chain) = &mut self.chain {
            chain.apply(&mut array);
        }
        // The samplers select a token even if all of them are ruled out.
        let selected = array.selected.and_then(|at| array.data.get(at));
        let token = selected
            .filter(|candidate| candidate.logit() > f32::NEG_INFINITY)
            .map(|candidate| Token(candidate.id().0));
        self.candidates = array.data;
        token.ok_or(Error::NothingToSample)
    }

    /// Records the token that was chosen, for the penalties and the grammar.
    pub fn accept(&mut self, token: Token) -> Result<()> {
        if let Some(chain) = &mut self.chain {
            chain.accept(LlamaToken(token.0));
        }
        match &mut self.grammar {
            None => Ok(()),
            Some(grammar) => grammar.accept(token),
        }
    }
}

/// The most likely token; the first of several.
///
/// # Errors
/// The logits are not finite, because of damaged weights.
pub(super) fn argmax(logits: &[f32]) -> Result<Token> {
    let mut best = 0;
    let mut most = f32::NEG_INFINITY;
    let mut sound = true;
    for (id, &logit) in logits.iter().enumerate() {
        sound &= !logit.is_nan();
        if logit > most {
            (best, most) = (id, logit);
        }
    }
    if !sound || !most.is_finite() {
        return Err(Error::Decode {
            status: 0,
            reason: "the logits are not numbers: the weights are damaged".to_owned(),
        });
    }
    Ok(Token::at(best))
}

/// A token and its log-probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likely {
    /// The token.
    pub token: Token,
    /// The natural logarithm of its probability, before temperature and any other sampler.
    pub logprob: f32,
}

/// The natural logarithm of the sum of the logits' exponentials. A logit minus this is the
/// logarithm of the token's probability.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from((logit - most).exp()))
        .sum();
    most + sum.ln() as f32
}

/// The `n` most likely tokens, most likely first; equally likely ones by id.
pub fn likeliest(logits: &[f32], n: usize) -> Vec<Likely> {
    let n = n.min(logits.len());
    if n == 0 {
        return Vec::new();
    }
    let total = log_sum_exp(logits);
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    let order = |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
    if n < ids.len() {
        ids.select_nth_unstable_by(n, order);
        ids.truncate(n);
    }
    ids.sort_unstable_by(order);
    ids.into_iter()
        .map(|id| Likely {
            token: Token::at(id),
            logprob: logits[id] - total,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first_and_their_probabilities_sum_to_one() {
        let logits = [1.0, 3.0, 3.0, -2.0];
        let all = likeliest(&logits, 10);
        let order: Vec<_> = all.iter().map(|l| l.token).collect();
        assert_eq!(order, [1, 2, 0, 3].map(Token));
        let sum: f32 = all.iter().map(|l| l.logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        assert_eq!(likeliest(&logits, 2), all[..2]);
        assert_eq!(argmax(&logits).unwrap(), Token(1));
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error() {
        assert!(argmax(&[0.0, f32::NAN]).is_err());
        assert!(argmax(&[f32::NAN, 0.0]).is_err());
        assert!(argmax(&[f32::NEG_INFINITY; 3]).is_err());
        assert!(argmax(&[f32::INFINITY, 0.0]).is_err());
        assert!(argmax(&[]).is_err());
    }

    #[test]
    fn large_logits_do_not_overflow() {
        assert!((log_sum_exp(&[1000.0, 1000.0]) - (1000.0 + 2f32.ln())).abs() < 1e-3);
    }
}
