//! llama.cpp's notation for grammars, GBNF.
//!
//! What it can write: rules of alternatives of sequences of strings, character classes, `.`,
//! other rules, groups, tokens (`<|end|>`, `<[32007]>`, `!<…>`), and `* + ? {m} {m,} {m,n}`
//! behind any of them. The source of what parses is llama.cpp's `llama-grammar.cpp`; unlike it,
//! a repetition of more than 2,000 is followed as it is written, a range that runs backwards, an
//! empty class and a rule that is defined twice are errors, and left recursion is allowed.

mod lark;
mod read;

/// One thing in a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Item {
    /// One character in one of the ranges, or, negated, in none of them.
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
    /// Characters one after the other.
    Text(String),
    /// One token, or, negated, any other.
    Token { name: TokenName, negated: bool },
    /// A rule, by its index.
    Rule(usize),
    /// Alternatives in parentheses.
    Group(Vec<Sequence>),
    /// An item so many times, without an upper bound if the second number is missing.
    Repeat(Box<Item>, u32, Option<u32>),
}

type Sequence = Vec<Item>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum TokenName {
    Id(u32),
    /// With its angle brackets.
    Text(String),
}

/// The rules of a grammar; every rule that is referred to is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    /// Alternatives by rule.
    rules: Vec<Vec<Sequence>>,
    root: usize,
    names_tokens: bool,
}

impl Rules {
    /// Returns whether it names tokens, which depend on a vocabulary.
    pub fn name_tokens(&self) -> bool {
        self.names_tokens
    }
}
