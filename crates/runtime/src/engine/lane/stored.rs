//! Sequences that an earlier process has computed: restored from the store before a request is
//! admitted, and saved when it ends.

use super::{Lane, StepContext};
use crate::engine::job::Job;
use crate::engine::plan;
use crate::error::{Error, Result};
use crate::seq::Seq;
use crate::settings::Settings;
use crate::state::Origin;
use crate::store::MIN_SAVED;
use crate::token::Token;

impl Lane {
    /// Restores the saved sequence that the first waiting request starts with, where that saves more
    /// than the sequences of the context do.
    pub(super) fn restore_for_first(&mut self, ctx: &StepContext<'_>) -> Result<()> {
        if ctx.setup.store.is_none() {
            return Ok(());
        }
        let Some(job) = self.waiting.front_mut().filter(|job| !job.judges()) else {
            return Ok(());
        };
        // Once is enough: what is computed later is in the context.
        if std::mem::replace(&mut job.asked_store, true) {
            return Ok(());
        }
        let tokens = job.tokens.clone();
        // `None` if an active request is computing it now.
        let Some(source) = self.best_source(&tokens)? else {
            return Ok(());
        };
        let have = source.map_or(0, |(_, n)| n);
        // The last token of a prompt is always computed, for its logits.
        let wanted = &tokens[..tokens.len() - 1];
        if let Some((seq, _)) = self.restored(ctx, wanted, have)? {
            self.kept.push_back(seq);
        }
        Ok(())
    }

    /// A restored sequence that starts like `wanted`, and the number of tokens of which that is
    /// true: at least [`MIN_SAVED`] more than `have`.
    pub(super) fn restored(
        &mut self,
        ctx: &StepContext<'_>,
        wanted: &[Token],
        have: usize,
    ) -> Result<Option<(Seq, usize)>> {
        let (Some(store), Some(session)) = (&ctx.setup.store, &self.session) else {
            return Ok(None);
        };
        let (origin, whole) = (Origin::of(session), session.is_recurrent());
        let Some(found) = store.find(&origin, wanted, have, whole) else {
            return Ok(None);
        };
        // No kept sequence is dropped in vain.
        let promised: usize = self.active.iter().map(|active| active.cells).sum();
        if promised + found.len > session.n_ctx() {
            return Ok(None);
        }
        while self.spare_cells()? < found.len || self.session()?.free_sequences() == 0 {
            if self.kept.pop_front().is_none() {
                return Ok(None);
            }
        }
        let Some(bytes) = store.read(&found) else {
            return Ok(None);
        };
        match self.session()?.restore(&bytes) {
            Ok(seq) => {
                let useful = self.session()?.can_truncate(&seq, found.common)?;
                Ok(useful.then_some((seq, found.common)))
            }
            Err(Error::State(fault)) => {
                tracing::warn!("a saved state is removed: {fault}");
                store.remove(&found);
                Ok(None)
            }
            // It is computed instead.
            Err(error) => {
                tracing::warn!("a saved state is not used: {error}");
                Ok(None)
            }
        }
    }

    /// Saves the sequence of a request that ended, if the next process would have to compute much
    /// of its prompt again.
    pub(super) fn save_ended(&mut self, ctx: &StepContext<'_>, job: &Job, seq: &Seq) -> Result<()> {
        let (Some(store), Some(session)) = (&ctx.setup.store, &mut self.session) else {
            return Ok(());
        };
        let (origin, whole) = (Origin::of(session), session.is_recurrent());
        let prompt = &job.tokens[..job.n_prompt];
        let saved = store.find(&origin, prompt, 0, whole);
        if prompt.len() < saved.map_or(0, |found| found.common) + MIN_SAVED {
            return Ok(());
        }
        // The completion itself is there.
        if let Err(error) = store.keep(session, seq) {
            tracing::warn!("a state is not kept: {error}");
        }
        Ok(())
    }

    /// Makes the size of a new context large enough for the saved sequence that the first waiting
    /// request starts with.
    pub(super) fn add_room_for_stored(&self, ctx: &StepContext<'_>, settings: &mut Settings) {
        let (Some(store), None) = (&ctx.setup.store, ctx.setup.capacity) else {
            return;
        };
        let Some(job) = self.waiting.front().filter(|job| !job.judges()) else {
            return;
        };
        let origin = Origin::new(ctx.model, settings, self.rope_factors);
        let wanted = &job.tokens[..job.tokens.len() - 1];
        let Some(found) = store.find(&origin, wanted, 0, false) else {
            return;
        };
        let cells = found.len + job.cells(self.reach(ctx)) - found.common;
        let n_ctx = ctx.model.context_for(self.rope_factors, cells);
        let fits = plan::check_fit(ctx.model, &ctx.setup.settings, n_ctx as usize).is_ok();
        if n_ctx > settings.n_ctx && fits {
            settings.n_ctx = n_ctx;
        }
    }
}
