//! The probability of a text under a model, token by token.

use serde::Serialize;

use super::math::{Distribution, bits};
use super::{Choice, Error, Piece, Prompt, Result, piece};
use modelve_runtime::{Error as RuntimeError, Session, Token, Vocab, WantLogits};

/// How a text longer than the context is read: in windows of `size` tokens, each beginning `stride`
/// tokens after the one before. Every token is scored once, by the first window that holds it and a
/// token before it, so outside the first window each has at least `size - stride` tokens before it.
/// Where the model uses a BOS token, it replaces the first token of each window, as in
/// llama-perplexity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Windows {
    /// Number of tokens in a window.
    pub size: usize,
    /// Number of tokens from the start of one window to the start of the next.
    pub stride: usize,
}

impl Windows {
    /// Checks size and stride.
    ///
    /// # Errors
    /// [`Error::Window`] if some token would be scored by no window.
    pub fn check(self) -> Result<()> {
        let Windows { size, stride } = self;
        if stride == 0 || stride >= size {
            return Err(Error::Window { size, stride });
        }
        Ok(())
    }

    /// Returns the windows over `n` tokens.
    pub fn over(self, n: usize) -> impl Iterator<Item = Window> {
        let mut start = 0;
        let mut first = 1;
        std::iter::from_fn(move || {
            if first >= n {
                return None;
            }
            let end = n.min(start + self.size);
            let window = Window { start, end, first };
            first = end;
            start += self.stride;
            Some(window)
        })
    }
}

/// One window over a text; all fields are token indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Index of its first token.
    pub start: usize,
    /// Index after its last token.
    pub end: usize,
    /// Index of the first token it scores.
    pub first: usize,
}

impl Window {
    /// Its tokens as they are fed.
    pub(super) fn tokens(self, vocab: &Vocab, ids: &[Token]) -> Vec<Token> {
        let mut tokens = ids[self.start..self.end].to_vec();
        if vocab.adds_bos()
            && let Some(bos) = vocab.bos()
        {
            tokens[0] = bos;
        }
        tokens
    }

    /// Feeds the window to a sequence of its own and hands over each row of logits with the index
    /// of the token it predicts. The last token is fed, too, although nothing is predicted from it:
    /// the kernels depend on the number of tokens, so the log-probabilities of a quantized model
    /// are the same as in a completion that echoes the text.
    pub(super) fn feed(
        self,
        session: &mut Session,
        ids: &[Token],
        on_row: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let Window { start, first, .. } = self;
        let tokens = self.tokens(session.model().vocab(), ids);
        let seq = session.open()?;
        let unseen = first - 1 - start;
        let scored = tokens.len() - unseen - 1;
        session.feed(&seq, &tokens[..unseen], WantLogits::None, &mut |_, _| {})?;
        session.feed(
            &seq,
            &tokens[unseen..],
            WantLogits::All,
            &mut |i, logits| {
                if i < scored {
                    on_row(first + i, logits);
                }
            },
        )?;
        Ok(())
    }
}

/// A token of a text with its score.
#[derive(Debug, Clone, Serialize)]
pub struct Scored {
    /// The token.
    pub id: Token,
    /// Its text.
    pub piece: Piece,
    /// Natural logarithm of its probability; `None` for the first token.
    pub logprob: Option<f64>,
    /// Rank among all tokens, from 1; `None` for the first token.
    pub rank: Option<usize>,
    /// The likeliest token, where it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead: Option<Choice>,
}

/// The score of a token: its log-probability, its rank, and the likeliest token where it is
/// another.
pub(super) type Judged = (f64, usize, Option<Choice>);

/// Scores the token `id` by the row of logits before it.
pub(super) fn judge(vocab: &Vocab, logits: &[f32], id: Token) -> Judged {
    let distribution = Distribution::new(logits);
    let best = distribution.best();
    let instead = || Choice::new(vocab, &distribution, best);
    (
        distribution.logprob(id),
        distribution.rank(id),
        (best != id).then(instead),
    )
}

impl Scored {
    /// Surprisal in bits; `None` for the first token.
    pub fn surprisal_bits(&self) -> Option<f64> {
        self.logprob.map(|logprob| bits(-logprob))
    }
}

/// The scores of a text.
#[derive(Debug, Clone, Serialize)]
pub struct Score {
    /// The text.
    pub text: String,
    /// One entry for each token.
    pub tokens: Vec<Scored>,
    /// Natural logarithm of the probability of all scored tokens together.
    pub total_logprob: f64,
    /// Mean surprisal of a scored token, in bits.
    pub bits_per_token: f64,
    /// Surprisal of the scored tokens per byte of their text, in bits.
    pub bits_per_byte: f64,
    /// Perplexity: exp of the mean of −logprob.
    pub perplexity: f64,
    /// Number of tokens that were scored.
    pub n_scored: usize,
    /// The windows in which the text was read.
    pub windows: Windows,
    /// Whether the whole text was read.
    pub complete: bool,
}

/// Scores a text. `on_progress` gets the number of tokens done. When the session's
/// [`Cancel`](modelve_runtime::Cancel) is set, the scores so far are returned, and
/// [`Score::complete`] is false.
///
/// # Errors
/// [`Error::TextTooShort`], [`Error::Window`], or a window that does not fit the session.
pub fn score(
    session: &mut Session,
    text: &Prompt,
    windows: Windows,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Score> {
    windows.check()?;
    let ids = &text.ids;
    let n = ids.len();
    if n < 2 {
        return Err(Error::TextTooShort);
    }
    let model = session.model().clone();
    let mut scores: Vec<Option<Judged>> = vec![None; n];
    let mut complete = true;
    for window in windows.over(n) {
        let result = window.feed(session, ids, &mut |target, logits| {
            scores[target] = Some(judge(model.vocab(), logits, ids[target]));
            on_progress(target + 1);
        });
        match result {
            Err(Error::Runtime(RuntimeError::Cancelled)) => {
                complete = false;
                break;
            }
            result => result?,
        }
    }
    Ok(summary(session, text, scores, windows, complete))
}

pub(super) fn summary(
    session: &Session,
    text: &Prompt,
    scores: Vec<Option<Judged>>,
    windows: Windows,
    complete: bool,
) -> Score {
    let vocab = session.model().vocab();
    let mut total = 0.0;
    let (mut n_scored, mut bytes) = (0usize, 0usize);
    let mut tokens = Vec::with_capacity(scores.len());
    for (&id, score) in text.ids.iter().zip(scores) {
        if let Some((logprob, ..)) = &score {
            total += logprob;
            n_scored += 1;
            bytes += vocab.piece(id, true).map_or(0, |piece| piece.len());
        }
        tokens.push(Scored {
            id,
            piece: piece(vocab, id),
            logprob: score.as_ref().map(|judged| judged.0),
            rank: score.as_ref().map(|judged| judged.1),
            instead: score.and_then(|judged| judged.2),
        });
    }
    let per = |n: usize| bits(-total) / n.max(1) as f64;
    Score {
        text: text.text.clone(),
        tokens,
        total_logprob: total,
        bits_per_token: per(n_scored),
        bits_per_byte: per(bytes),
        perplexity: (-total / n_scored.max(1) as f64).exp(),
        n_scored,
        windows,
        complete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_is_scored_once() {
        for (size, stride) in [(8, 4), (8, 7), (8, 1), (2, 1), (100, 50)] {
            let windows = Windows { size, stride };
            windows.check().unwrap();
            for n in 0..40 {
                let mut next = 1;
                for (i, window) in windows.over(n).enumerate() {
                    assert_eq!(window.first, next);
                    assert!(window.start < window.first && window.first < window.end);
                    assert!(window.end - window.start <= size);
                    assert!(i == 0 || window.first - window.start >= size - stride);
                    next = window.end;
                }
                assert_eq!(next, n.max(1));
            }
        }
        for (size, stride) in [(8, 0), (8, 8), (0, 0), (1, 1)] {
            assert!(Windows { size, stride }.check().is_err());
        }
    }
}
