//! The choice between a model's RoPE factors for a text.
//!
//! A model with two sets (Phi-3 with a long context) was trained with the short factors on texts
//! up to a certain length and with the long ones on longer texts. llama.cpp chooses by the size of
//! the context, so a text needs a session whose size fits its length.

use super::kv::CONTEXT_STEP;

/// The boundary between two sets of RoPE factors: the short ones are for texts of up to `original`
/// tokens, the long ones for longer texts. llama.cpp chooses by the size of the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rope {
    /// The longest text for the short factors, in tokens.
    pub original: u32,
    /// The largest context that llama.cpp computes with the short factors: `original` rounded up to
    /// a multiple of 256 tokens, as for all contexts.
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

/// A set of RoPE factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RopeFactors {
    /// The short factors, or the only ones of a model with one set.
    Short,
    /// The long factors.
    Long,
}

impl RopeFactors {
    /// Both sets.
    pub const ALL: [RopeFactors; 2] = [RopeFactors::Short, RopeFactors::Long];
}

/// A value for each set of factors.
#[derive(Debug, Default, Clone)]
pub(super) struct PerRegime<T> {
    short: T,
    long: T,
}

impl<T> PerRegime<T> {
    pub fn new(short: T, long: T) -> Self {
        PerRegime { short, long }
    }

    /// The value for `rope_factors`, and the one for the other set.
    pub fn both(&mut self, rope_factors: RopeFactors) -> (&mut T, &mut T) {
        match rope_factors {
            RopeFactors::Short => (&mut self.short, &mut self.long),
            RopeFactors::Long => (&mut self.long, &mut self.short),
        }
    }

    pub fn get(&self, rope_factors: RopeFactors) -> &T {
        match rope_factors {
            RopeFactors::Short => &self.short,
            RopeFactors::Long => &self.long,
        }
    }

    pub fn get_mut(&mut self, rope_factors: RopeFactors) -> &mut T {
        match rope_factors {
            RopeFactors::Short => &mut self.short,
            RopeFactors::Long => &mut self.long,
        }
    }
}
