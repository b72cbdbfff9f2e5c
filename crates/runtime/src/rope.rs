//! Which of a model's RoPE factors a text is computed with.
//!
//! A model with two sets (Phi-3 with a long context) was trained with the short factors on texts
//! of up to a boundary and with the long ones on longer texts. llama.cpp chooses by the size of
//! the context, so a text needs a session that is of the right size for its length.

use super::kv::CONTEXT_STEP;

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
