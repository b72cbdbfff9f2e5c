//! Admission: gives waiting requests a sequence, lets them reuse prefixes of other sequences, and
//! drops kept sequences to make room.

use super::{Active, Lane, StepContext, Work};
use crate::engine::request::Event;
use crate::error::{Error, Result};
use crate::seq::Seq;
use crate::token::Token;

/// A shared prefix of fewer tokens is cheaper to compute again than to reuse.
const MIN_REUSE: usize = 16;
/// A request waits for a prefix that another one is still computing if it saves this many tokens.
const MIN_WAIT: usize = 64;

/// A sequence whose prefix can be reused.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Active(usize),
    SharedPrefix,
    Kept(usize),
}

impl Lane {
    /// The sequence that shares the longest prefix with `tokens`, and its length; the outer `None`
    /// if it is better to wait for a prefix that is being computed.
    pub(super) fn best_source(&self, tokens: &[Token]) -> Result<Option<Option<(Source, usize)>>> {
        let Some(session) = &self.session else {
            return Ok(Some(None));
        };
        // The last token of a prompt is always computed, for its logits.
        let wanted = &tokens[..tokens.len() - 1];
        let common = |other: &[Token]| wanted.iter().zip(other).take_while(|(a, b)| a == b).count();
        let mut best: Option<(Source, usize)> = None;
        let mut consider = |source, seq: &Seq, least: usize| -> Result<()> {
            let n = common(session.tokens(seq)?);
            let better = n > best.map_or(0, |(_, n)| n);
            if n >= least && better && session.can_truncate(seq, n)? {
                best = Some((source, n));
            }
            Ok(())
        };
        if let Some(seq) = &self.shared_prefix {
            consider(Source::SharedPrefix, seq, session.len(seq)?)?;
        }
        for (i, seq) in self.kept.iter().enumerate().rev() {
            consider(Source::Kept(i), seq, MIN_REUSE)?;
        }
        for (i, active) in self.active.iter().enumerate() {
            consider(Source::Active(i), &active.seq, MIN_REUSE)?;
        }
        let have = best.map_or(0, |(_, n)| n);
        for active in &self.active {
            let (n, read) = (common(active.work.tokens()), session.len(&active.seq)?);
            let whole = matches!(&active.work, Work::SharedPrefix(tokens) if tokens.len() == n);
            if read < n && (whole || n >= have + MIN_WAIT) {
                return Ok(None);
            }
        }
        Ok(Some(best))
    }

    /// A sequence for the first waiting request, with the number of tokens that it reuses, if there
    /// is room for it now.
    fn assign_sequence(&mut self, cells: usize) -> Result<Option<(Seq, usize)>> {
        let Some(job) = self.waiting.front() else {
            return Ok(None);
        };
        let mut source = match job.judges() {
            true => None,
            false => match self.best_source(&job.tokens)? {
                Some(source) => source,
                None => return Ok(None),
            },
        };
        while self.session()?.free_sequences() == 0 {
            // The least recently used sequence is dropped, but not the one that is reused as long
            // as there are others. If it is the only one, it is continued itself instead of forked.
            let taken = match source {
                Some((Source::Kept(i), _)) => Some(i),
                _ => None,
            };
            match (self.kept.len(), taken) {
                // No active request will free a sequence, so the first one gets the shared prefix.
                (0, _) if self.active.is_empty() => {
                    let Some(seq) = self.shared_prefix.take() else {
                        return Ok(None);
                    };
                    let n = match source {
                        Some((Source::SharedPrefix, n)) => n,
                        _ => 0,
                    };
                    self.session()?.truncate(&seq, n)?;
                    return self.make_room(seq, n, cells);
                }
                (0, _) => return Ok(None),
                (1, Some(i)) => {
                    let (Some(seq), Some((_, n))) = (self.kept.remove(i), source) else {
                        return Ok(None);
                    };
                    self.session()?.truncate(&seq, n)?;
                    return self.make_room(seq, n, cells);
                }
                (_, Some(0)) => drop(self.kept.remove(1)),
                _ => {
                    self.kept.pop_front();
                    if let Some((Source::Kept(i), _)) = &mut source {
                        *i -= 1;
                    }
                }
            }
        }
        let Some(session) = &mut self.session else {
            return Ok(None);
        };
        let (seq, n) = match source {
            None => (session.open()?, 0),
            Some((Source::SharedPrefix, n)) => match &self.shared_prefix {
                Some(seq) => (session.fork(seq, n)?, n),
                None => (session.open()?, 0),
            },
            Some((Source::Active(i), n)) => (session.fork(&self.active[i].seq, n)?, n),
            Some((Source::Kept(i), n)) => {
                let fork = session.fork(&self.kept[i], n)?;
                // It was just used, so it is the last to be dropped.
                if let Some(seq) = self.kept.remove(i) {
                    self.kept.push_back(seq);
                }
                (fork, n)
            }
        };
        self.make_room(seq, n, cells)
    }

    /// Makes room for the rest of a sequence that has `n` of its `cells`, by dropping kept
    /// sequences.
    fn make_room(&mut self, seq: Seq, n: usize, cells: usize) -> Result<Option<(Seq, usize)>> {
        while self.spare_cells()? < cells.saturating_sub(n) {
            if self.kept.pop_front().is_some() {
                continue;
            }
            // An active request will free room when it ends; if there is none, only the shared
            // prefix can be dropped.
            if !self.active.is_empty() || self.shared_prefix.take().is_none() {
                return Ok(None);
            }
        }
        Ok(Some((seq, n)))
    }

    /// Admits waiting requests in order, as long as there is room.
    pub(super) fn admit(&mut self, ctx: &mut StepContext<'_>) -> Result<()> {
        let reach = self.reach(ctx);
        let most = ctx.setup.parallel.unwrap_or(u32::MAX) as usize;
        while let Some(job) = self.waiting.front().filter(|_| self.n_active() < most) {
            let cells = job.cells(reach);
            self.restore_for_first(ctx)?;
            let Some((seq, reused)) = self.assign_sequence(cells)? else {
                break;
            };
            let Some(mut job) = self.waiting.pop_front() else {
                break;
            };
            let banned = if job.options.ignore_end {
                ctx.ends
            } else {
                &[]
            };
            if let Err(error) = job.start(ctx.model.vocab(), banned) {
                ctx.events.push((job.id, Event::Failed(error)));
                continue;
            }
            job.reused += reused;
            ctx.report.reused += reused;
            self.active.push(Active {
                seq,
                work: Work::Job(Box::new(job)),
                cells,
            });
        }
        // No other request will free room: the caller holds sequences of this session.
        if self.active.is_empty()
            && let Some(job) = self.waiting.pop_front()
        {
            let error = Error::ContextFull {
                need: job.cells(reach),
                n_ctx: self.spare_cells()?,
            };
            ctx.events.push((job.id, Event::Failed(error)));
        }
        if self.waiting.is_empty()
            && let Some(seq) = self.shared_prefix.take()
        {
            self.kept.push_back(seq);
        }
        Ok(())
    }
}
