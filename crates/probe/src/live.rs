//! A text that somebody is writing: what comes next and how surprising each word was, computed
//! anew only where the text changed.
//!
//! A few sequences stay in the session between calls. A text is read on in the one that begins
//! like it, so after a key press it costs the tokens that changed and one more.

use std::collections::VecDeque;

use serde::Serialize;

use super::math::Distribution;
use super::next::Next;
use super::score::{Judged, Score, Windows, judge, summary};
use super::{Choice, Error, Prompt, Result};
use modelve_runtime::{Error as RuntimeError, Seq, Session, Settings, Token, WantLogits};

/// Texts that are kept, at most.
pub const KEPT: u32 = 4;
/// Tokens at the end of a kept text that are given up for one that begins like it. A text that
/// differs earlier gets a sequence of its own, so that going back to the other costs nothing.
const EDIT: usize = 8;
/// Rows of logits that are kept of a text, so that what is changed at its end is judged, and what is
/// taken back there told, without reading a token again.
const TAIL: usize = EDIT + 1;

/// A text as a model reads it.
#[derive(Debug, Clone, Serialize)]
pub struct Live {
    /// What comes next.
    pub next: Next,
    /// How likely each token was after those before it.
    pub score: Score,
    /// The tokens that were asked for besides the likeliest.
    pub also: Vec<Choice>,
    /// Tokens of the text that had been computed before.
    pub reused: usize,
}

/// What to tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// How many of the likeliest tokens.
    pub top: usize,
    /// Tokens whose probability to tell besides.
    pub also: &'a [Token],
}

/// A text in the session.
struct Kept {
    seq: Seq,
    /// What is told of each of its tokens; nothing of the first.
    scores: Vec<Option<Judged>>,
    /// The logits after its last tokens, as far as they are known, up to [`TAIL`].
    tail: VecDeque<Vec<f32>>,
}

impl Kept {
    /// Whether the logits after the first `n` tokens are known.
    fn knows(&self, n: usize) -> bool {
        n > 0 && self.scores.len() - n < self.tail.len()
    }

    /// What is known of its first `n` tokens, of which the last may have to be read again.
    fn cut(&mut self, n: usize) {
        let whole = self.scores.len();
        match self.knows(n) {
            true => {
                self.tail.truncate(self.tail.len() - (whole - n));
                self.scores.truncate(n);
            }
            false => {
                self.tail.clear();
                // Of the token that is read again it is known how likely it was.
                self.scores.truncate(if n == 0 { 0 } else { n + 1 });
            }
        }
    }
}

/// The texts that stay in a session.
#[derive(Default)]
pub struct Texts {
    /// The one that was read last stands last.
    kept: Vec<Kept>,
}

impl std::fmt::Debug for Texts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Texts")
            .field("n", &self.kept.len())
            .finish()
    }
}

/// How a session of [`Texts`] computes: `rows` rows of logits at once, at most.
pub fn settings(base: Settings, rows: u32) -> Settings {
    Settings {
        n_seq: KEPT,
        n_batch: 256,
        n_outputs: rows,
        ..base
    }
}

impl Texts {
    /// Reads a text. The session, made with [`settings`], is the one of the calls before or a
    /// new one, and has room for the text; `on_progress` is told how many tokens are done. The
    /// numbers are those of a pass over the whole text up to rounding, as its tokens may have
    /// been computed in other batches.
    ///
    /// # Errors
    /// A text without tokens; see [`Session::feed`].
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
        // Sequences of a session that is no more are gone with it.
        self.kept.retain(|kept| session.tokens(&kept.seq).is_ok());
        let mut kept = self.begin(session, ids)?;
        let reused = session.len(&kept.seq)?;
        if let Err(error) = go_on(session, &mut kept, ids, on_progress) {
            // What was read before somebody typed on is read no second time.
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

    /// A sequence that holds the beginning of the text, with the logits after it or nothing.
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
        // The logits after what is kept judge the next token: without them a token is read again.
        let keep = |kept: &Kept| match kept.knows(shared) {
            true => shared,
            false => shared.saturating_sub(1),
        };
        let mut kept = match whole - shared <= EDIT {
            true => self.kept.remove(best),
            false => {
                let mut best = best;
                if session.free_sequences() == 0 && self.kept.len() > 1 {
                    // The oldest but the one that is copied.
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
            // A memory that cannot be taken back in part begins again.
            Err(RuntimeError::CannotTruncate { .. }) => {
                session.truncate(&kept.seq, 0)?;
                0
            }
            Err(error) => return Err(error.into()),
        };
        if keep < kept.scores.len() {
            kept.cut(keep);
        }
        // Others give way where the cache is too small for all.
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

/// Reads what is missing of the text.
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

/// Brings what is known of a text that was left half read into line with its sequence.
fn settle(session: &mut Session, kept: &mut Kept) -> Result<()> {
    kept.tail.clear();
    let len = session.len(&kept.seq)?.min(kept.scores.len());
    session.truncate(&kept.seq, len)?;
    kept.scores.truncate(len);
    Ok(())
}
