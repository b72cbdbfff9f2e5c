//! Probes of a text while it is being written: what comes next and how surprising each word was,
//! computed again only where the text changed.
//!
//! A few sequences stay in the session between calls. A text continues the sequence that begins
//! like it, so each key press costs the changed tokens and one more.

use std::collections::VecDeque;

use serde::Serialize;

use super::math::Distribution;
use super::next::Next;
use super::score::{Judged, Score, Windows, judge, summary};
use super::{Choice, Error, Prompt, Result};
use modelve_runtime::{Error as RuntimeError, Seq, Session, Settings, Token, WantLogits};

/// Maximum number of texts that are kept.
pub const KEPT: u32 = 4;
/// Number of tokens at the end of a kept text that may be overwritten by a text with the same
/// beginning. A text that differs earlier gets its own sequence, so that going back to the other
/// one costs nothing.
const EDIT: usize = 8;
/// Number of rows of logits kept for the end of a text. With them a changed or deleted token near
/// the end is scored without reading any token again.
const TAIL: usize = EDIT + 1;

/// The prediction and the scores for a text that is being written.
#[derive(Debug, Clone, Serialize)]
pub struct Live {
    /// The distribution of the next token.
    pub next: Next,
    /// How likely each token was after those before it.
    pub score: Score,
    /// The tokens of [`Options::also`], with their probabilities.
    pub also: Vec<Choice>,
    /// Number of tokens of the text that were computed by an earlier call.
    pub reused: usize,
}

/// Options of [`Texts::read`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Number of likeliest tokens to return.
    pub top: usize,
    /// Tokens whose probability to return as well.
    pub also: &'a [Token],
}

/// A text whose sequence is kept in the session.
struct Kept {
    seq: Seq,
    /// The score of each of its tokens; `None` for the first.
    scores: Vec<Option<Judged>>,
    /// The logits after its last tokens, at most [`TAIL`] rows.
    tail: VecDeque<Vec<f32>>,
}

impl Kept {
    /// Returns whether the logits after the first `n` tokens are kept.
    fn knows(&self, n: usize) -> bool {
        n > 0 && self.scores.len() - n < self.tail.len()
    }

    /// Shortens the text to its first `n` tokens. Where the logits after them are not kept, the
    /// last of these has to be read again.
    fn cut(&mut self, n: usize) {
        let whole = self.scores.len();
        match self.knows(n) {
            true => {
                self.tail.truncate(self.tail.len() - (whole - n));
                self.scores.truncate(n);
            }
            false => {
                self.tail.clear();
                // The score of the token that is read again is still known.
                self.scores.truncate(if n == 0 { 0 } else { n + 1 });
            }
        }
    }
}

/// The texts whose sequences stay in a session.
#[derive(Default)]
pub struct Texts {
    /// In order of use, the one read last at the end.
    kept: Vec<Kept>,
}

impl std::fmt::Debug for Texts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Texts")
            .field("n", &self.kept.len())
            .finish()
    }
}

/// Returns the settings of a session for [`Texts`] that computes at most `rows` rows of logits at
/// once.
pub fn settings(base: Settings, rows: u32) -> Settings {
    Settings {
        n_seq: KEPT,
        n_batch: 256,
        n_outputs: rows,
        ..base
    }
}

impl Texts {
    /// Reads a text. The session must have been made with [`settings`] and have room for the text;
    /// it is the one of the previous calls or a new one. `on_progress` gets the number of tokens
    /// done. The numbers are those of a pass over the whole text up to rounding, because its tokens
    /// may have been computed in other batches.
    ///
    /// # Errors
    /// A text without tokens, and the errors of [`Session::feed`].
    pub fn read(
        &mut self,
        session: &mut Session,
        prompt: &Prompt,
        options: Options<'_>,
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<Live> {
        let ids = &prompt.ids;
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let vocab = session.model().clone();
        let vocab = vocab.vocab();
        for &id in ids.iter().chain(options.also) {
            vocab.check(id)?;
        }
        // Sequences of an earlier session no longer exist.
        self.kept.retain(|kept| session.tokens(&kept.seq).is_ok());
        let mut kept = self.begin(session, ids)?;
        let reused = session.len(&kept.seq)?;
        if let Err(error) = go_on(session, &mut kept, ids, on_progress) {
            // What was read before a cancellation is kept, so that it is not read again.
            if settle(session, &mut kept).is_ok() {
                self.kept.push(kept);
            } else {
                session.close(kept.seq);
            }
            return Err(error);
        }
        let last = kept.tail.back().map_or(&[][..], Vec::as_slice);
        let distribution = Distribution::new(last);
        let (n, scores) = (ids.len(), kept.scores.clone());
        let windows = Windows {
            size: n.max(2),
            stride: (n / 2).max(1),
        };
        let live = Live {
            next: Next {
                prompt: prompt.text.clone(),
                ids: ids.clone(),
                entropy_bits: distribution.entropy_bits(),
                top: Choice::top(vocab, &distribution, options.top),
                candidates: Vec::new(),
                moved: Vec::new(),
                beside: Vec::new(),
                tree: None,
                logits: Vec::new(),
            },
            score: summary(session, prompt, scores, windows, true),
            also: (options.also.iter())
                .map(|&id| Choice::new(vocab, &distribution, id))
                .collect(),
            reused,
        };
        self.kept.push(kept);
        Ok(live)
    }

    /// Returns a sequence that holds the beginning of the text. Its logits are kept as far as they
    /// are known.
    fn begin(&mut self, session: &mut Session, ids: &[Token]) -> Result<Kept> {
        let common = |session: &Session, kept: &Kept| {
            let tokens = session.tokens(&kept.seq).unwrap_or_default();
            let pairs = tokens.iter().zip(ids);
            pairs.take_while(|(a, b)| a == b).count()
        };
        let best = (0..self.kept.len()).max_by_key(|&i| common(session, &self.kept[i]));
        let Some(best) = best else {
            return fresh(session);
        };
        let shared = common(session, &self.kept[best]);
        let whole = self.kept[best].scores.len();
        // The logits after the kept tokens score the next one; where they are not known, one token
        // is read again.
        let keep = |kept: &Kept| match kept.knows(shared) {
            true => shared,
            false => shared.saturating_sub(1),
        };
        let mut kept = match whole - shared <= EDIT {
            true => self.kept.remove(best),
            false => {
                let mut best = best;
                if session.free_sequences() == 0 && self.kept.len() > 1 {
                    // The least recently used one, unless it is the one being copied.
                    let oldest = usize::from(best == 0);
                    session.close(self.kept.remove(oldest).seq);
                    best -= usize::from(oldest < best);
                }
                let source = &self.kept[best];
                match session.fork(&source.seq, keep(source)) {
                    Ok(seq) => Kept {
                        seq,
                        scores: source.scores.clone(),
                        tail: source.tail.clone(),
                    },
                    Err(RuntimeError::CannotTruncate { .. }) => return fresh(session),
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let keep = keep(&kept);
        let keep = match session.truncate(&kept.seq, keep) {
            Ok(()) => keep,
            // A recurrent memory cannot be truncated, so the text is read from its beginning.
            Err(RuntimeError::CannotTruncate { .. }) => {
                session.truncate(&kept.seq, 0)?;
                0
            }
            Err(error) => return Err(error.into()),
        };
        if keep < kept.scores.len() {
            kept.cut(keep);
        }
        // Other texts are dropped where the cache is too small for all.
        while session.free_cells() < ids.len() - keep && !self.kept.is_empty() {
            session.close(self.kept.remove(0).seq);
        }
        Ok(kept)
    }
}

fn fresh(session: &mut Session) -> Result<Kept> {
    Ok(Kept {
        seq: session.open()?,
        scores: Vec::new(),
        tail: VecDeque::new(),
    })
}

/// Reads the rest of the text.
fn go_on(
    session: &mut Session,
    kept: &mut Kept,
    ids: &[Token],
    on_progress: &mut dyn FnMut(usize),
) -> Result<()> {
    let model = session.model().clone();
    let judged = |logits: &[f32], id| Some(judge(model.vocab(), logits, id));
    let from = session.len(&kept.seq)?;
    if from == 0 {
        kept.scores = vec![None];
    } else if let (Some(&id), Some(last)) = (ids.get(from), kept.tail.back()) {
        kept.scores.push(judged(last, id));
    }
    if ids.len() - from > TAIL {
        kept.tail.clear();
    }
    let (scores, tail) = (&mut kept.scores, &mut kept.tail);
    let step = session.settings().n_batch as usize;
    let mut done = from;
    while done < ids.len() {
        let part = &ids[done..ids.len().min(done + step)];
        session.feed(&kept.seq, part, WantLogits::All, &mut |i, logits| {
            let next = done + i + 1;
            if let Some(&id) = ids.get(next) {
                scores.push(judged(logits, id));
            }
            if next + TAIL > ids.len() {
                tail.push_back(logits.to_vec());
                if tail.len() > TAIL {
                    tail.pop_front();
                }
            }
        })?;
        done += part.len();
        on_progress(done);
    }
    Ok(())
}

/// After an interrupted pass, cuts the sequence and its scores to their common length and drops the
/// logits.
fn settle(session: &mut Session, kept: &mut Kept) -> Result<()> {
    kept.tail.clear();
    let len = session.len(&kept.seq)?.min(kept.scores.len());
    session.truncate(&kept.seq, len)?;
    kept.scores.truncate(len);
    Ok(())
}
