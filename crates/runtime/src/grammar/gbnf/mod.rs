//! llama.cpp's notation for grammars, GBNF.
//!
//! A grammar has rules; a rule is a choice of sequences of strings, character classes, `.`, other
//! rules, groups, and tokens (`<|end|>`, `<[32007]>`, `!<…>`), each optionally followed by
//! `* + ? {m} {m,} {m,n}`. The syntax is that of llama.cpp's `llama-grammar.cpp`, with these
//! differences: repetitions of more than 2,000 are allowed; ranges in descending order, empty
//! classes and rules that are defined twice are errors; and left recursion is allowed.

mod lark;
mod read;

/// An item of a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Item {
    /// One character in one of the ranges, or, negated, in none of them.
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
    /// A string of characters.
    Text(String),
    /// One token, or, negated, any other.
    Token { name: TokenName, negated: bool },
    /// A rule, by its index.
    Rule(usize),
    /// Alternatives in parentheses.
    Group(Vec<Sequence>),
    /// An item repeated from a minimum to a maximum number of times, or without maximum.
    Repeat(Box<Item>, u32, Option<u32>),
}

type Sequence = Vec<Item>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum TokenName {
    Id(u32),
    /// Its name, with angle brackets.
    Text(String),
}

/// The rules of a grammar. All rules that are referred to exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    /// The alternatives of each rule.
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
