//! Which of a model's RoPE factors a text is computed with, and the sessions for either.
//!
//! A model with two sets (Phi-3 with a long context) was trained with the short factors on texts
//! of up to a boundary and with the long ones on longer texts. llama.cpp chooses by the size of
//! the context, so a text needs a session that is of the right size for its length.

use super::error::Result;
use super::kv::CONTEXT_STEP;
use super::model::Model;
use super::session::Session;
use super::settings::Settings;

/// A model with two sets of RoPE factors: the short ones are for texts of up to `original`
/// tokens, the long ones for longer texts. llama.cpp chooses by the size of the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rope {
    /// The longest text for the short factors, in tokens.
    pub original: u32,
    /// The largest context that llama.cpp computes with the short factors: `original` rounded
    /// up to the 256 tokens contexts come in.
    pub short_context: u32,
}

impl Rope {
    pub(super) fn new(original: u32) -> Self {
        let short_context = (original.max(1)).checked_next_multiple_of(CONTEXT_STEP);
        Rope {
            original,
            short_context: short_context.unwrap_or(u32::MAX - CONTEXT_STEP + 1),
        }
    }
}

/// The factors a text is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Regime {
    /// The short ones, or the only ones of a model with one set.
    Short,
    /// The long ones.
    Long,
}

impl Regime {
    /// Both.
    pub const ALL: [Regime; 2] = [Regime::Short, Regime::Long];
}

impl Model {
    /// The factors for a text of so many tokens.
    pub fn regime(&self, tokens: usize) -> Regime {
        match self.rope() {
            Some(rope) if tokens > rope.original as usize => Regime::Long,
            _ => Regime::Short,
        }
    }

    /// The longest text for these factors, in tokens.
    pub fn reach(&self, regime: Regime) -> usize {
        match (self.rope(), regime) {
            (Some(rope), Regime::Short) => rope.original as usize,
            _ => usize::MAX,
        }
    }

    /// The size of a context for `tokens` cells that computes with these factors.
    pub fn context_for(&self, regime: Regime, tokens: usize) -> u32 {
        let tokens = u32::try_from(tokens.max(1)).unwrap_or(u32::MAX);
        match (self.rope(), regime) {
            // llama.cpp takes the long factors only in a context beyond the boundary.
            (Some(rope), Regime::Long) => tokens.max(rope.short_context + 1),
            (Some(rope), Regime::Short) => tokens.min(rope.short_context),
            (None, _) => tokens,
        }
    }
}

/// One of a thing for each set of factors.
#[derive(Debug, Default, Clone)]
pub(super) struct PerRegime<T> {
    short: T,
    long: T,
}

impl<T> PerRegime<T> {
    pub fn new(short: T, long: T) -> Self {
        PerRegime { short, long }
    }

    /// That of `regime` and the other.
    pub fn both(&mut self, regime: Regime) -> (&mut T, &mut T) {
        match regime {
            Regime::Short => (&mut self.short, &mut self.long),
            Regime::Long => (&mut self.long, &mut self.short),
        }
    }

    pub fn get(&self, regime: Regime) -> &T {
        match regime {
            Regime::Short => &self.short,
            Regime::Long => &self.long,
        }
    }

    pub fn get_mut(&mut self, regime: Regime) -> &mut T {
        match regime {
            Regime::Short => &mut self.short,
            Regime::Long => &mut self.long,
        }
    }
}

/// Sessions of a model for texts of several lengths, made when they are needed: one for those
/// that are computed with its short RoPE factors, one for those with the long ones. So a text
/// gets the same answer alone and beside a longer one.
#[derive(Debug)]
pub struct Sessions {
    model: Model,
    settings: Settings,
    rooms: PerRegime<usize>,
    made: PerRegime<Option<Session>>,
}

impl Sessions {
    /// Sessions that compute as `settings` say, sizes aside.
    pub fn new(model: &Model, settings: Settings) -> Self {
        Sessions {
            model: model.clone(),
            settings,
            rooms: PerRegime::default(),
            made: PerRegime::default(),
        }
    }

    /// Says beforehand that a text will need `room` tokens, so that one session serves all.
    pub fn reserve(&mut self, room: usize) {
        let most = self.rooms.get_mut(self.model.regime(room));
        *most = room.max(*most);
    }

    /// The session for a text that needs `room` tokens. One that is too small is made anew, and
    /// what was open in it is gone.
    ///
    /// # Errors
    /// See [`Session::new`].
    pub fn of(&mut self, room: usize) -> Result<&mut Session> {
        self.reserve(room);
        let regime = self.model.regime(room);
        let n_ctx = (self.model).context_for(regime, *self.rooms.get(regime));
        let made = self.made.get_mut(regime);
        let fits = made
            .take()
            .filter(|session| session.n_ctx() >= n_ctx as usize);
        let session = match fits {
            Some(session) => session,
            None => {
                let settings = self.settings.clone();
                Session::new(&self.model, &Settings { n_ctx, ..settings })?
            }
        };
        Ok(made.insert(session))
    }
}
