//! Follows a grammar token by token.

use std::sync::Arc;

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use crate::error::{Error, Result};
use crate::token::Token;

/// The state of one text in its grammar.
pub(crate) struct Follower {
    matcher: Matcher,
    /// The tokens that end a text, in ascending order.
    ends: Arc<[Token]>,
    /// Whether a token that ends the text was accepted.
    ended: bool,
}

impl Follower {
    pub(super) fn new(matcher: Matcher, ends: Arc<[Token]>) -> Follower {
        Follower {
            matcher,
            ends,
            ended: false,
        }
    }

    /// Returns whether the text may end here.
    pub fn is_complete(&mut self) -> Result<bool> {
        if self.ended || self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(true);
        }
        self.matcher.is_accepting().map_err(fault)
    }

    /// Returns whether the token may come next.
    pub fn allows(&mut self, token: Token) -> Result<bool> {
        if self.ends.binary_search(&token).is_ok() {
            return self.is_complete();
        }
        let Ok(id) = u32::try_from(token.0) else {
            return Ok(false);
        };
        if self.ended || self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(false);
        }
        let valid = self.matcher.validate_tokens(&[id]).map_err(fault)?;
        Ok(valid == 1)
    }

    /// All tokens that may come next; none if the text is complete and the vocabulary has no token
    /// that ends it.
    pub fn allowed(&mut self) -> Result<Allowed> {
        let complete = self.is_complete()?;
        let stopped = self.ended || self.matcher.is_stopped();
        let mask = match stopped {
            true => None,
            false => Some(self.matcher.compute_mask().map_err(fault)?),
        };
        Ok(Allowed {
            mask,
            ends: Arc::clone(&self.ends),
            complete,
        })
    }

    /// Advances by a token that was chosen.
    ///
    /// # Errors
    /// [`Error::Grammar`] if the grammar does not allow it here.
    pub fn accept(&mut self, token: Token) -> Result<()> {
        if self.ends.binary_search(&token).is_ok() {
            self.ended = true;
            return Ok(());
        }
        let id = u32::try_from(token.0).unwrap_or(u32::MAX);
        self.matcher.consume_token(id).map_err(fault)
    }
}

/// The tokens that may come next.
pub(crate) struct Allowed {
    mask: Option<SimpleVob>,
    ends: Arc<[Token]>,
    /// Whether those that end the text are among them.
    complete: bool,
}

impl Allowed {
    pub fn contains(&self, token: Token) -> bool {
        if self.ends.binary_search(&token).is_ok() {
            return self.complete;
        }
        let id = token.index();
        let mask = self.mask.as_ref();
        mask.is_some_and(|mask| id < mask.len() && mask.get(id))
    }
}

fn fault(error: impl std::fmt::Display) -> Error {
    let reason = super::engine::readable(&error.to_string());
    Error::Grammar(format!("grammar: it cannot be followed here: {reason}"))
}
