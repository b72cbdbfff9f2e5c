//! The distribution of the next token.

use serde::Serialize;

use super::math::Distribution;
use super::tree::{Branch, Shape, grow};
use super::{Choice, Error, Piece, Prompt, Result, piece, read};
use modelve_runtime::{Error as RuntimeError, Reading, Seq, Session, Token, Vocab, WantLogits};

/// The distribution of the token after a prompt.
#[derive(Debug, Clone, Serialize)]
pub struct Next {
    /// The prompt.
    pub prompt: String,
    /// Token ids of the prompt.
    pub ids: Vec<Token>,
    /// Entropy of the distribution in bits.
    pub entropy_bits: f64,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<Choice>,
    /// The continuations that were given, in the given order.
    pub candidates: Vec<Candidate>,
    /// The tokens whose probability differs most from that after the first of several prompts;
    /// empty for the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<Moved>,
    /// Tokens that are in the `top` of another distribution shown next to this one, but not in its
    /// own: see [`beside`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Choice>,
    /// The likeliest continuations as a tree, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree: Option<Vec<Branch>>,
    /// Logits of the whole vocabulary, for comparisons between prompts.
    #[serde(skip)]
    pub logits: Vec<f32>,
}

/// A given continuation with its probability.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    /// The text as it was given.
    pub text: String,
    /// Its token ids after this prompt.
    pub ids: Vec<Token>,
    /// The text of each token.
    pub pieces: Vec<Piece>,
    /// The probability that the text continues with exactly these tokens.
    pub prob: f64,
    /// Natural logarithm of the probability.
    pub logprob: f64,
    /// Rank of the first of these tokens, from 1.
    pub rank: usize,
}

/// A token whose probability differs between two prompts.
#[derive(Debug, Clone, Serialize)]
pub struct Moved {
    /// The token.
    pub id: Token,
    /// Its text.
    pub piece: Piece,
    /// Its probability after the first prompt.
    pub prob_first: f64,
    /// Its probability after this one.
    pub prob: f64,
}

/// Options of [`next`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Number of likeliest tokens to return.
    pub top: usize,
    /// Continuations whose probability to compute, see [`candidate_ids`].
    pub candidates: &'a [String],
    /// Depth and width of the tree of continuations; `None` means no tree.
    pub tree: Option<Shape>,
}

/// Computes what the model expects after `prompt`. The session needs room for the prompt and the
/// longest candidate, and for a tree [`Shape::room`] in addition to the prompt. `on_progress` gets
/// the number of tokens of the prompt that are done.
///
/// # Errors
/// [`Error::EmptyCandidate`], [`Error::Tree`], or a prompt that does not fit the session.
pub fn next(
    session: &mut Session,
    prompt: &Prompt,
    options: &Options<'_>,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Next> {
    let model = session.model().clone();
    let vocab = model.vocab();
    if let Some(shape) = options.tree {
        shape.check()?;
    }
    let wanted = options
        .candidates
        .iter()
        .enumerate()
        .map(|(i, text)| candidate_ids(vocab, prompt, text, i + 1))
        .collect::<Result<Vec<_>>>()?;
    let (seq, logits) = read(session, &prompt.ids, on_progress)?;
    let distribution = Distribution::new(&logits);
    let mut judged = Vec::with_capacity(wanted.len());
    for (text, ids) in options.candidates.iter().zip(wanted) {
        let logprob = distribution.logprob(ids[0]) + rest_logprob(session, &seq, prompt, &ids)?;
        judged.push(Candidate {
            text: text.clone(),
            pieces: ids.iter().map(|&id| piece(vocab, id)).collect(),
            prob: logprob.exp(),
            logprob,
            rank: distribution.rank(ids[0]),
            ids,
        });
    }
    let tree = match options.tree {
        Some(shape) => Some(grow(session, vocab, shape, 0, &seq, 0.0, &logits)?),
        None => None,
    };
    session.close(seq);
    Ok(Next {
        prompt: prompt.text.clone(),
        ids: prompt.ids.clone(),
        entropy_bits: distribution.entropy_bits(),
        top: Choice::top(vocab, &distribution, options.top),
        candidates: judged,
        moved: Vec::new(),
        beside: Vec::new(),
        tree,
        logits,
    })
}

/// Returns the log-probability of all tokens of a continuation but the first, and truncates the
/// sequence to the prompt again.
fn rest_logprob(session: &mut Session, seq: &Seq, prompt: &Prompt, ids: &[Token]) -> Result<f64> {
    let Some((_, fed)) = ids.split_last().filter(|(_, fed)| !fed.is_empty()) else {
        return Ok(0.0);
    };
    let mut sum = 0.0;
    session.feed(seq, fed, WantLogits::All, &mut |i, logits| {
        sum += Distribution::new(logits).logprob(ids[i + 1]);
    })?;
    match session.truncate(seq, prompt.ids.len()) {
        // A recurrent memory cannot be truncated, so the prompt is read again.
        Err(RuntimeError::CannotTruncate { .. }) => {
            session.truncate(seq, 0)?;
            session.feed(seq, &prompt.ids, WantLogits::None, &mut |_, _| {})?;
        }
        result => result?,
    }
    Ok(sum)
}

/// Returns the tokens of `text` when it follows the prompt. After a prompt that ends in a word or a
/// punctuation mark, a word is separated by a space: after `and`, the text `boundary` is read as
/// ` boundary`. A text that begins with a space or a mark follows directly.
///
/// # Errors
/// [`Error::EmptyCandidate`] with `index` as the candidate's number.
pub fn candidate_ids(
    vocab: &Vocab,
    prompt: &Prompt,
    text: &str,
    index: usize,
) -> Result<Vec<Token>> {
    let Some(first) = text.chars().next() else {
        return Err(Error::EmptyCandidate { index });
    };
    let last = prompt.text.chars().next_back();
    let apart = first.is_alphanumeric()
        && last.is_some_and(|c| !c.is_whitespace() && !"([{\"'“‘-/<".contains(c));
    let space = if apart { " " } else { "" };
    // The prompt's tokens are fixed. Where the tokenizer would merge the two texts at the seam or
    // split the prompt differently, the tokens are those that the text has after a line feed.
    let line = ("\n", vocab.tokenize("\n", Reading::Prompt)?);
    for (before, ids) in [(prompt.text.as_str(), &prompt.ids), (line.0, &line.1)] {
        let whole = vocab.tokenize(format!("{before}{space}{text}"), Reading::Prompt)?;
        if let Some(ids) = whole.strip_prefix(&ids[..]).filter(|ids| !ids.is_empty()) {
            return Ok(ids.to_vec());
        }
    }
    match vocab.tokenize(text, Reading::PromptPart)? {
        ids if ids.is_empty() => Err(Error::EmptyCandidate { index }),
        ids => Ok(ids),
    }
}

/// Returns the one token that `text` names: an id, the text of a token, or its text after a space.
///
/// # Errors
/// [`Error::NotOneToken`]; [`Error::NoToken`] for a number outside the vocabulary.
pub fn one_token(vocab: &Vocab, text: &str) -> Result<Token> {
    let n_vocab = vocab.len();
    if let Ok(token) = text.parse::<Token>() {
        return match vocab.check(token) {
            Ok(()) => Ok(token),
            Err(_) => Err(Error::NoToken { token, n_vocab }),
        };
    }
    let spaced = format!(" {text}");
    let mut plain = None;
    for id in vocab.all() {
        let piece = vocab.piece(id, true)?;
        if piece == spaced.as_bytes() {
            return Ok(id);
        }
        if piece == text.as_bytes() && plain.is_none() {
            plain = Some(id);
        }
    }
    if let Some(id) = plain {
        return Ok(id);
    }
    let ids = vocab.tokenize(text, Reading::PromptPart)?;
    let pieces: Vec<String> = ids
        .iter()
        .map(|&id| format!("{:?}", &*piece(vocab, id)))
        .collect();
    Err(Error::NotOneToken {
        text: text.to_owned(),
        count: ids.len(),
        pieces: pieces.join(" "),
    })
}

/// Adds to each of several distributions the tokens that are only in the `top` of others, so that
/// they can be shown row by row.
pub fn beside<'a>(vocab: &Vocab, all: impl IntoIterator<Item = &'a mut Next>) {
    let mut all: Vec<&mut Next> = all.into_iter().collect();
    let tops = all
        .iter()
        .flat_map(|next| next.top.iter().map(|choice| choice.id));
    let mut ids: Vec<Token> = Vec::new();
    for id in tops {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    for next in &mut all {
        let distribution = Distribution::new(&next.logits);
        let own = |id: &Token| next.top.iter().any(|choice| choice.id == *id);
        let others = ids.iter().filter(|id| !own(id));
        next.beside = others
            .map(|&id| Choice::new(vocab, &distribution, id))
            .collect();
    }
}

/// Returns the `n` tokens whose probability differs most between two prompts, largest difference
/// first.
pub fn moved(vocab: &Vocab, first: &[f32], other: &[f32], n: usize) -> Vec<Moved> {
    let (first, other) = (Distribution::new(first), Distribution::new(other));
    let changes: Vec<f32> = first
        .probs()
        .zip(other.probs())
        .map(|(a, b)| (a - b).abs() as f32)
        .collect();
    let largest = Distribution::new(&changes).top(n);
    let moved = largest.into_iter().map(|id| Moved {
        id,
        piece: piece(vocab, id),
        prob_first: first.prob(id),
        prob: other.prob(id),
    });
    moved.collect()
}
