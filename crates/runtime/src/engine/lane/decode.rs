//! One decode of a lane: chooses the tokens to compute, and uses their logits.

use std::collections::HashMap;

use super::{Active, Lane, StepContext, Work};
use crate::completion::Finish;
use crate::engine::job::{Job, Next};
use crate::engine::request::Event;
use crate::error::{Error, Result};
use crate::session::{Entry, Session};

/// Maximum number of prompt tokens in one decode while other requests generate, because their next
/// tokens wait for it.
const PREFILL_CHUNK: usize = 128;

/// The purpose of a row of logits.
#[derive(Clone, Copy)]
enum Ask {
    /// To choose the next token.
    Choice,
    /// To compute the log-probability of the next prompt token.
    Judgement,
}

impl Lane {
    /// Computes one decode. Returns the requests whose text outgrew this lane.
    ///
    /// # Errors
    /// Errors of the whole decode: it was cancelled, or a device failed. All requests stay.
    pub fn step(&mut self, ctx: &mut StepContext<'_>) -> Result<Vec<Job>> {
        self.admit(ctx)?;
        let reach = self.reach(ctx);
        let Some(session) = self.session.as_mut().filter(|_| !self.active.is_empty()) else {
            return Ok(Vec::new());
        };
        let room = session.settings().n_batch as usize;
        // One token of each generating sequence, then as many prompt tokens as fit.
        let unread = |session: &Session, active: &Active| -> Result<usize> {
            Ok(active.work.tokens().len() - session.len(&active.seq)?)
        };
        let mut order: Vec<(usize, Active)> = Vec::with_capacity(self.active.len());
        for active in self.active.drain(..) {
            order.push((unread(session, &active).unwrap_or(usize::MAX), active));
        }
        order.sort_by_key(|(unread, _)| *unread != 1);
        let generating = order.iter().filter(|(unread, _)| *unread == 1).count();
        self.active
            .extend(order.into_iter().map(|(_, active)| active));
        let mut entries: Vec<Entry<'_>> = Vec::with_capacity(room);
        let room = match generating {
            0 => room,
            n => room.min(n + PREFILL_CHUNK),
        };
        // The rows of logits that remain for prompt tokens, after one for each sequence's next
        // token.
        let mut rows = session.max_outputs().saturating_sub(self.active.len());
        let mut owners: HashMap<usize, (usize, Ask)> = HashMap::new();
        let mut read_out = Vec::new();
        let mut works: Vec<&mut Work> = Vec::with_capacity(self.active.len());
        for (slot, Active { seq, work, .. }) in self.active.iter_mut().enumerate() {
            let read = session.len(seq)?;
            let n = (work.tokens().len() - read).min(room - entries.len());
            let mut taken = 0;
            for (at, &token) in work.tokens().iter().enumerate().skip(read).take(n) {
                let ask = match &*work {
                    Work::Job(job) if job.is_judged_after(at) && rows == 0 => break,
                    Work::Job(job) if job.is_judged_after(at) => {
                        rows -= 1;
                        Some(Ask::Judgement)
                    }
                    Work::Job(job) if at + 1 == job.tokens.len() => {
                        if job.options.max_tokens == 0 {
                            read_out.push(slot);
                            None
                        } else {
                            Some(Ask::Choice)
                        }
                    }
                    _ => None,
                };
                let output = ask.is_some();
                if let Some(ask) = ask {
                    owners.insert(entries.len(), (slot, ask));
                }
                entries.push(Entry { seq, token, output });
                taken += 1;
            }
            if !matches!(work, Work::Job(job) if read + taken > job.n_prompt) {
                ctx.report.prefilled += taken;
            }
            works.push(work);
        }
        ctx.report.calls += 1;
        let mut chosen = Vec::with_capacity(owners.len());
        let events = &mut *ctx.events;
        session.step(&entries, &mut |i, logits| {
            if let Some(&(slot, ask)) = owners.get(&i)
                && let Work::Job(job) = &mut *works[slot]
            {
                match ask {
                    Ask::Choice => chosen.push((slot, job.choose(logits))),
                    Ask::Judgement => job.judge(logits, events),
                }
            }
        })?;

        let done = read_out.into_iter();
        let mut ended: Vec<(usize, Result<Next>)> = done
            .map(|slot| (slot, Ok(Next::Done(Finish::Length))))
            .collect();
        for (slot, step) in chosen {
            let Work::Job(job) = &mut self.active[slot].work else {
                continue;
            };
            let vocab = ctx.model.vocab();
            let next = match step {
                Ok(step) => job.advance(step, vocab, reach, ctx.limit, ctx.events),
                // The grammar allows no further token.
                Err(Error::GrammarEnd) => Ok(Next::Done(Finish::Stop)),
                Err(error) => Err(error),
            };
            if !matches!(next, Ok(Next::Token)) {
                ended.push((slot, next));
            }
        }
        self.end(ended, ctx)
    }

    /// Removes the sequences that ended, and a shared prefix that is complete.
    fn end(
        &mut self,
        mut ended: Vec<(usize, Result<Next>)>,
        ctx: &mut StepContext<'_>,
    ) -> Result<Vec<Job>> {
        let mut outgrown = Vec::new();
        ended.sort_by_key(|(slot, _)| *slot);
        for (slot, how) in ended.into_iter().rev() {
            let Active { seq, work, .. } = self.active.remove(slot);
            let Work::Job(job) = work else {
                continue;
            };
            match how {
                Ok(Next::Outgrown) => outgrown.push(*job),
                Ok(Next::Done(finish)) => {
                    self.save_ended(ctx, &job, &seq)?;
                    ctx.events.push((job.id, Event::Done(job.done(finish))));
                    if !ctx.setup.discard_ended {
                        self.kept.push_back(seq);
                    }
                }
                Ok(Next::Token) => {}
                Err(error) => ctx.events.push((job.id, Event::Failed(error))),
            }
        }
        let read = |session: &Session, active: &Active| match &active.work {
            Work::SharedPrefix(tokens) => session.len(&active.seq).is_ok_and(|n| n == tokens.len()),
            Work::Job(_) => false,
        };
        if let Some(session) = &self.session
            && let Some(at) = self.active.iter().position(|active| read(session, active))
        {
            self.shared_prefix = Some(self.active.remove(at).seq);
        }
        Ok(outgrown)
    }
}
