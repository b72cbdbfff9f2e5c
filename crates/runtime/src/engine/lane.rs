//! The texts of one set of RoPE factors: who waits, who is computed, what is kept.

use std::collections::{HashMap, VecDeque};

use super::job::{Job, Next};
use super::plan::{self, Need};
use super::request::{Event, RequestId, Setup};
use crate::completion::{ContextReport, Finish, Report};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::rope::Regime;
use crate::seq::Seq;
use crate::session::{Entry, Session};
use crate::settings::Settings;
use crate::token::Token;

/// Tokens of prompts in a step in which others generate: they wait for it.
const PIECE: usize = 128;
/// A beginning of fewer tokens is as well computed again.
const WORTH_TAKING: usize = 16;
/// A beginning of so many tokens that somebody is reading is worth waiting for.
const WORTH_WAITING: usize = 64;

/// A sequence that is computed.
struct Active {
    seq: Seq,
    work: Work,
    /// Cells it will have taken in the end.
    cells: usize,
}

enum Work {
    Job(Box<Job>),
    /// A beginning that those who wait share.
    Beginning(Vec<Token>),
}

impl Work {
    fn tokens(&self) -> &[Token] {
        match self {
            Work::Job(job) => &job.tokens,
            Work::Beginning(tokens) => tokens,
        }
    }
}

/// What a step needs of the engine.
pub(super) struct Around<'a> {
    pub model: &'a Model,
    pub setup: &'a Setup,
    /// The longest text, in tokens.
    pub limit: usize,
    /// Tokens that end a text, for requests that must not choose one.
    pub ends: &'a [Token],
    pub report: &'a mut Report,
    pub events: &'a mut Vec<(RequestId, Event)>,
}

pub(super) struct Lane {
    regime: Regime,
    pub waiting: VecDeque<Job>,
    session: Option<Session>,
    active: Vec<Active>,
    /// A beginning that is kept while anybody waits.
    beginning: Option<Seq>,
    /// What ended, the least recently used first.
    kept: VecDeque<Seq>,
}

/// What a row of logits is wanted for.
#[derive(Clone, Copy)]
enum Ask {
    /// To choose the next token by.
    Choice,
    /// To judge the next token of the prompt by.
    Judgement,
}

/// Where a text can be taken over from.
#[derive(Clone, Copy)]
enum Source {
    Active(usize),
    Beginning,
    Kept(usize),
}

impl Lane {
    pub fn new(regime: Regime) -> Self {
        Lane {
            regime,
            waiting: VecDeque::new(),
            session: None,
            active: Vec::new(),
            beginning: None,
            kept: VecDeque::new(),
        }
    }

    /// Whether anybody is computed.
    pub fn is_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// Whether there is anything to do.
    pub fn is_busy(&self) -> bool {
        self.is_active() || !self.waiting.is_empty()
    }

    /// How many requests are computed.
    pub fn n_active(&self) -> usize {
        let jobs = self.active.iter();
        jobs.filter(|active| matches!(active.work, Work::Job(_)))
            .count()
    }

    /// Gives up the context, if nobody is in it.
    pub fn release(&mut self) {
        if !self.is_active() {
            self.beginning = None;
            self.kept.clear();
            self.session = None;
        }
    }

    /// Takes a request out. What it has computed is kept.
    pub fn cancel(&mut self, id: RequestId) -> Option<Job> {
        if let Some(at) = self.waiting.iter().position(|job| job.id == id) {
            return self.waiting.remove(at);
        }
        let of = |active: &Active| matches!(&active.work, Work::Job(job) if job.id == id);
        let active = self.active.remove(self.active.iter().position(of)?);
        self.kept.push_back(active.seq);
        match active.work {
            Work::Job(job) => Some(*job),
            Work::Beginning(_) => None,
        }
    }

    /// Takes all requests out.
    pub fn cancel_all(&mut self) -> Vec<Job> {
        let mut jobs: Vec<Job> = self.waiting.drain(..).collect();
        for active in self.active.drain(..) {
            self.kept.push_back(active.seq);
            if let Work::Job(job) = active.work {
                jobs.push(*job);
            }
        }
        jobs
    }

    /// How long a text may become in this lane.
    fn reach(&self, around: &Around<'_>) -> usize {
        around.model.reach(self.regime).min(around.limit)
    }

    /// The settings that serve those who wait, and how much of their beginnings they share.
    fn plan(&self, around: &Around<'_>) -> (Settings, usize) {
        let sharing = self.waiting.iter().filter(|job| !job.judges());
        let shared = plan::shared_prefix(sharing.map(|job| job.tokens.as_slice()));
        if let Some(capacity) = around.setup.capacity {
            let n_ctx = (around.model).context_for(self.regime, capacity.cells as usize);
            let settings = plan::fixed(&around.setup.settings, n_ctx, capacity.sequences);
            return (settings, shared);
        }
        let reach = self.reach(around);
        let needs: Vec<Need> = self
            .waiting
            .iter()
            .map(|job| {
                // Whose prompt is judged computes all of it.
                let shared = if job.judges() { 0 } else { shared };
                Need {
                    prompt: job.tokens.len() - shared,
                    cells: job.cells(reach) - shared,
                    judged: job.judges(),
                }
            })
            .collect();
        let settings = plan::settings(around.model, around.setup, self.regime, shared, &needs);
        (settings, shared)
    }

    /// Makes the context that those who wait need, unless there is one that will do. Whoever is
    /// in one is not disturbed.
    ///
    /// # Errors
    /// See [`Session::new`].
    pub fn prepare(&mut self, around: &mut Around<'_>) -> Result<()> {
        if self.is_active() || self.waiting.is_empty() {
            return Ok(());
        }
        let (mut settings, shared) = self.plan(around);
        let reach = self.reach(around);
        let first = self.waiting.front().map_or(0, |job| job.cells(reach));
        // A context that is large enough is kept, unless it keeps most of those who wait out.
        let will_do = self.session.as_ref().is_some_and(|session| {
            let wanted = settings.n_seq.saturating_sub(u32::from(shared > 0));
            session.n_ctx() >= first && 2 * session.settings().n_seq >= wanted
        });
        if will_do {
            return Ok(());
        }
        let carried = self.carried()?;
        if carried.is_some() {
            settings.n_ctx = self.grown(around, settings.n_ctx);
        }
        self.release();
        let session = Session::new(around.model, &settings)?;
        around.report.contexts.push(ContextReport {
            n_ctx: session.n_ctx(),
            kv_bytes: session.kv_bytes(),
            long_rope: session.uses_long_rope(),
            n_seq: settings.n_seq,
            made_in: session.made_in(),
            cache_offloaded: session.cache_offloaded(),
        });
        let session = self.session.insert(session);
        if let Some(bytes) = carried {
            // What does not fit is computed again.
            self.kept.extend(session.restore(&bytes).ok());
        }
        // A beginning that they share is read once, before any of them.
        let first = self.waiting.iter().find(|job| !job.judges());
        if let Some(first) = first.filter(|_| shared > 0) {
            self.active.push(Active {
                seq: session.open()?,
                work: Work::Beginning(first.tokens[..shared].to_vec()),
                cells: shared,
            });
        }
        Ok(())
    }

    /// What the first who waits begins with, of what was computed before, to be taken along into a
    /// larger context.
    fn carried(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(job) = self.waiting.front() else {
            return Ok(None);
        };
        let Some(Some((Source::Kept(i), _))) = self.best_source(&job.tokens)? else {
            return Ok(None);
        };
        match &mut self.session {
            Some(session) => session.save(&self.kept[i]).map(Some),
            None => Ok(None),
        }
    }

    /// The size of a context in the place of one that a growing text has outgrown: twice as large
    /// where there is memory for it, so that it seldom has to be moved.
    fn grown(&self, around: &Around<'_>, n_ctx: u32) -> u32 {
        let now = self.session.as_ref().map_or(0, Session::n_ctx);
        let twice = around
            .model
            .context_for(self.regime, (2 * now).min(self.reach(around)));
        match plan::check_fit(around.model, &around.setup.settings, twice as usize) {
            Ok(()) => n_ctx.max(twice),
            Err(_) => n_ctx,
        }
    }

    /// The session, with `cells` of it and a sequence that nobody counts on.
    ///
    /// # Errors
    /// [`Error::ContextFull`], [`Error::NoSequence`]: they are in use.
    pub fn lend(&mut self, around: &mut Around<'_>, cells: usize) -> Result<&mut Session> {
        if self.session.is_none() {
            let n_ctx = around.model.context_for(self.regime, cells);
            let settings = match around.setup.capacity {
                Some(_) => self.plan(around).0,
                None => plan::fixed(&around.setup.settings, n_ctx, 2),
            };
            self.session = Some(Session::new(around.model, &settings)?);
        }
        while self.spare_cells()? < cells || self.session()?.free_sequences() == 0 {
            if self.kept.pop_front().is_none() {
                let n_ctx = self.spare_cells()?;
                let n_seq = self.session()?.settings().n_seq;
                return Err(match n_ctx < cells {
                    true => Error::ContextFull { need: cells, n_ctx },
                    false => Error::NoSequence { n_seq },
                });
            }
        }
        self.session()
    }

    fn session(&mut self) -> Result<&mut Session> {
        self.session.as_mut().ok_or(Error::ForeignSequence)
    }

    /// Cells that are free and not counted on by those who are computed.
    fn spare_cells(&mut self) -> Result<usize> {
        let Some(session) = &mut self.session else {
            return Ok(0);
        };
        let mut promised = 0;
        for active in &self.active {
            promised += active.cells.saturating_sub(session.len(&active.seq)?);
        }
        Ok(session.free_cells().saturating_sub(promised))
    }

    /// The sequence that shares most of the beginning of `tokens`, and how many tokens; `None` in
    /// place of both if it is better to wait for one that is being read.
    fn best_source(&self, tokens: &[Token]) -> Result<Option<Option<(Source, usize)>>> {
        let Some(session) = &self.session else {
            return Ok(Some(None));
        };
        // The last token of a prompt is always computed: its logits are wanted.
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
        if let Some(seq) = &self.beginning {
            consider(Source::Beginning, seq, session.len(seq)?)?;
        }
        for (i, seq) in self.kept.iter().enumerate().rev() {
            consider(Source::Kept(i), seq, WORTH_TAKING)?;
        }
        for (i, active) in self.active.iter().enumerate() {
            consider(Source::Active(i), &active.seq, WORTH_TAKING)?;
        }
        let have = best.map_or(0, |(_, n)| n);
        for active in &self.active {
            let (n, read) = (common(active.work.tokens()), session.len(&active.seq)?);
            let whole = matches!(&active.work, Work::Beginning(tokens) if tokens.len() == n);
            if read < n && (whole || n >= have + WORTH_WAITING) {
                return Ok(None);
            }
        }
        Ok(Some(best))
    }

    /// A sequence for the first who waits, with what it takes over, if there is room for it now.
    fn seat(&mut self, cells: usize) -> Result<Option<(Seq, usize)>> {
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
            // The least recently used goes, but not the one that is taken over while there are
            // others; that one is then taken over as it is.
            let taken = match source {
                Some((Source::Kept(i), _)) => Some(i),
                _ => None,
            };
            match (self.kept.len(), taken) {
                // Nobody's turn ends: what they share goes to the first of them.
                (0, _) if self.active.is_empty() => {
                    let Some(seq) = self.beginning.take() else {
                        return Ok(None);
                    };
                    let n = match source {
                        Some((Source::Beginning, n)) => n,
                        _ => 0,
                    };
                    self.session()?.truncate(&seq, n)?;
                    return self.fit(seq, n, cells);
                }
                (0, _) => return Ok(None),
                (1, Some(i)) => {
                    let (Some(seq), Some((_, n))) = (self.kept.remove(i), source) else {
                        return Ok(None);
                    };
                    self.session()?.truncate(&seq, n)?;
                    return self.fit(seq, n, cells);
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
            Some((Source::Beginning, n)) => match &self.beginning {
                Some(seq) => (session.fork(seq, n)?, n),
                None => (session.open()?, 0),
            },
            Some((Source::Active(i), n)) => (session.fork(&self.active[i].seq, n)?, n),
            Some((Source::Kept(i), n)) => {
                let fork = session.fork(&self.kept[i], n)?;
                // It was used: it goes to the end of the line of those that may leave.
                if let Some(seq) = self.kept.remove(i) {
                    self.kept.push_back(seq);
                }
                (fork, n)
            }
        };
        self.fit(seq, n, cells)
    }

    /// Makes room for the rest of a sequence that has `n` of its `cells`; what is kept leaves
    /// for it.
    fn fit(&mut self, seq: Seq, n: usize, cells: usize) -> Result<Option<(Seq, usize)>> {
        while self.spare_cells()? < cells.saturating_sub(n) {
            if self.kept.pop_front().is_some() {
                continue;
            }
            // While somebody is computed, room will come; else only a beginning is in the way.
            if !self.active.is_empty() || self.beginning.take().is_none() {
                return Ok(None);
            }
        }
        Ok(Some((seq, n)))
    }

    /// Lets in whoever waits and has room, in order.
    fn admit(&mut self, around: &mut Around<'_>) -> Result<()> {
        let reach = self.reach(around);
        let most = around.setup.parallel.unwrap_or(u32::MAX) as usize;
        while let Some(job) = self.waiting.front().filter(|_| self.n_active() < most) {
            let cells = job.cells(reach);
            let Some((seq, reused)) = self.seat(cells)? else {
                break;
            };
            let Some(mut job) = self.waiting.pop_front() else {
                break;
            };
            let banned = if job.options.ignore_end {
                around.ends
            } else {
                &[]
            };
            if let Err(error) = job.start(around.model.vocab(), banned) {
                around.events.push((job.id, Event::Failed(error)));
                continue;
            }
            job.reused += reused;
            around.report.reused += reused;
            self.active.push(Active {
                seq,
                work: Work::Job(Box::new(job)),
                cells,
            });
        }
        // Whom no end of another will make room for: somebody else has left sequences open.
        if self.active.is_empty()
            && let Some(job) = self.waiting.pop_front()
        {
            let error = Error::ContextFull {
                need: job.cells(reach),
                n_ctx: self.spare_cells()?,
            };
            around.events.push((job.id, Event::Failed(error)));
        }
        if self.waiting.is_empty()
            && let Some(seq) = self.beginning.take()
        {
            self.kept.push_back(seq);
        }
        Ok(())
    }

    /// One decode. Gives back those that outgrew the lane.
    ///
    /// # Errors
    /// What is wrong with all of it: cancelled, a device that failed. Nobody is lost by it.
    pub fn step(&mut self, around: &mut Around<'_>) -> Result<Vec<Job>> {
        self.admit(around)?;
        let reach = self.reach(around);
        let Some(session) = self.session.as_mut().filter(|_| !self.active.is_empty()) else {
            return Ok(Vec::new());
        };
        let room = session.settings().n_batch as usize;
        // One token of each that generates, then prompts as far as there is room.
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
            n => room.min(n + PIECE),
        };
        // Rows of logits for the tokens of prompts, beside the one that each may choose by.
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
                around.report.prefilled += taken;
            }
            works.push(work);
        }
        around.report.calls += 1;
        let mut chosen = Vec::with_capacity(owners.len());
        let events = &mut *around.events;
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
            let vocab = around.model.vocab();
            let next = match step {
                Ok(step) => job.advance(step, vocab, reach, around.limit, around.events),
                // Nothing can follow: the grammar is at its end.
                Err(Error::GrammarEnd) => Ok(Next::Done(Finish::Stop)),
                Err(error) => Err(error),
            };
            if !matches!(next, Ok(Next::Token)) {
                ended.push((slot, next));
            }
        }
        self.part(ended, around)
    }

    /// Takes leave of those that ended, and of a beginning that was read.
    fn part(
        &mut self,
        mut ended: Vec<(usize, Result<Next>)>,
        around: &mut Around<'_>,
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
                    around.events.push((job.id, Event::Done(job.done(finish))));
                    if !around.setup.forget_ended {
                        self.kept.push_back(seq);
                    }
                }
                Ok(Next::Token) => {}
                Err(error) => around.events.push((job.id, Event::Failed(error))),
            }
        }
        let read = |session: &Session, active: &Active| match &active.work {
            Work::Beginning(tokens) => session.len(&active.seq).is_ok_and(|n| n == tokens.len()),
            Work::Job(_) => false,
        };
        if let Some(session) = &self.session
            && let Some(at) = self.active.iter().position(|active| read(session, active))
        {
            self.beginning = Some(self.active.remove(at).seq);
        }
        Ok(outgrown)
    }
}
