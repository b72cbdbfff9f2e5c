//! Constrains texts to a JSON schema, or to a grammar in llama.cpp's notation (GBNF).
//!
//! Both are enforced by llguidance's Earley parser, whose work and memory are limited at every
//! step, so that an ambiguous or left-recursive grammar causes at most an error. Features that
//! llguidance supports only in part or not at all are rejected, with their position.

mod engine;
mod follow;
mod gbnf;
mod schema;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;

use super::error::{Error, Result};
use super::token::Token;
use super::vocab::Vocab;
use engine::Engine;
pub(super) use follow::Follower;

/// Maximum length of a grammar or schema, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Maximum number of parser items at one position of a text. Only ambiguous grammars have more than
/// a few hundred, and each costs time for every character.
const MOST_ITEMS: usize = 2000;

/// A grammar that a whole text must match. Cheap to clone.
#[derive(Clone)]
pub struct Grammar {
    source: Arc<Source>,
    /// The grammar compiled for bytes; `None` if it names tokens.
    bytes: Option<Arc<Mutex<Matcher>>>,
    /// The grammar compiled for the vocabulary that it was last used with.
    ready: Arc<Mutex<Option<Ready>>>,
}

enum Source {
    Gbnf(gbnf::Rules),
    Schema(schema::Schema),
}

struct Ready {
    vocab: Vocab,
    matcher: Matcher,
    /// The tokens that end a text, in ascending order.
    ends: Arc<[Token]>,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &*self.source {
            Source::Gbnf(_) => "GBNF",
            Source::Schema(_) => "JSON schema",
        };
        f.debug_tuple("Grammar").field(&kind).finish()
    }
}

impl Grammar {
    /// Parses a grammar in GBNF; texts must match its rule `root`.
    ///
    /// # Errors
    /// [`Error::Grammar`] with line and column if it does not parse, refers to an undefined rule,
    /// or exceeds the limits of repetitions or nesting.
    pub fn gbnf(text: &str) -> Result<Grammar> {
        Grammar::of(Source::Gbnf(gbnf::Rules::read(text)?))
    }

    /// Makes the grammar of the JSON texts that match a JSON schema (draft 2020-12; the syntax of
    /// older drafts is accepted).
    ///
    /// In these texts, properties are in the schema's order, numbers with bounds have no exponent,
    /// and `format` is enforced.
    ///
    /// # Errors
    /// [`Error::Grammar`] with the keyword and its position if the text is not JSON or not a
    /// schema, if a keyword cannot be enforced during generation, or if nothing matches the schema.
    pub fn json_schema(text: &str) -> Result<Grammar> {
        Grammar::of(Source::Schema(schema::Schema::read(text)?))
    }

    fn of(source: Source) -> Result<Grammar> {
        let mut grammar = Grammar {
            source: Arc::new(source),
            bytes: None,
            ready: Arc::default(),
        };
        // Errors that do not depend on a vocabulary are reported now.
        if !grammar.names_tokens() {
            let matcher = grammar.compile(&*Engine::bytes()?)?;
            grammar.bytes = Some(Arc::new(Mutex::new(matcher)));
        }
        Ok(grammar)
    }

    /// Checks that the grammar can be used with this vocabulary.
    ///
    /// # Errors
    /// [`Error::Grammar`] if it names tokens that the vocabulary does not have.
    pub fn check(&self, vocab: &Vocab) -> Result<()> {
        self.follower(vocab).map(drop)
    }

    /// Returns whether a whole text matches the grammar, byte by byte.
    ///
    /// # Errors
    /// [`Error::Grammar`] if matching exceeds the limits, or if the grammar names tokens, which a
    /// text does not have.
    pub fn accepts(&self, text: &[u8]) -> Result<bool> {
        let Some(matcher) = &self.bytes else {
            return Err(Error::Grammar(
                "grammar: it names tokens, and a text has none".to_owned(),
            ));
        };
        let matcher = matcher
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut follower = Follower::new(matcher, Arc::default());
        for &byte in text {
            let byte = Token(i32::from(byte));
            if !follower.allows(byte)? {
                return Ok(false);
            }
            follower.accept(byte)?;
        }
        follower.is_complete()
    }

    /// Makes the state for one text, at its start.
    pub(super) fn follower(&self, vocab: &Vocab) -> Result<Follower> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let known = ready
            .as_ref()
            .is_some_and(|r| std::ptr::eq(r.vocab.raw(), vocab.raw()));
        if !known {
            *ready = Some(Ready {
                vocab: vocab.clone(),
                matcher: self.compile(&Engine::of(vocab)?)?,
                ends: vocab
                    .all()
                    .filter(|&token| vocab.is_end(token) || vocab.ends_grammar(token))
                    .collect(),
            });
        }
        match &*ready {
            Some(ready) => Ok(Follower::new(
                ready.matcher.clone(),
                Arc::clone(&ready.ends),
            )),
            None => Err(Error::Grammar("grammar: it is not ready".to_owned())),
        }
    }

    fn names_tokens(&self) -> bool {
        match &*self.source {
            Source::Gbnf(rules) => rules.name_tokens(),
            Source::Schema(_) => false,
        }
    }

    fn compile(&self, engine: &Engine) -> Result<Matcher> {
        match &*self.source {
            Source::Gbnf(rules) => {
                let lark = rules.to_lark(&|name| engine.token_named(name))?;
                engine
                    .compile(TopLevelGrammar::from_lark(lark), MOST_ITEMS)
                    .map_err(|reason| Error::Grammar(format!("grammar: {reason}")))
            }
            Source::Schema(schema) => schema
                .compile(engine)
                .map_err(|reason| Error::Grammar(format!("JSON schema: {reason}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(grammar: &Grammar, text: &str) -> bool {
        grammar.accepts(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_grammar_accepts_its_texts_and_no_others() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "root ::= \"yes\" | \"no\"",
                &["yes", "no"],
                &["", "y", "yesno", "maybe"],
            ),
            (
                "root ::= [a-c]+ \"c\"",
                &["ac", "cc", "abcc"],
                &["c", "ab", "acd"],
            ),
            (
                "root ::= \"ab\" \"c\" | \"a\" \"bd\"",
                &["abc", "abd"],
                &["ab", "abcd"],
            ),
            (
                "root ::= \"ab\"{2,3}",
                &["abab", "ababab"],
                &["ab", "abababab", "aba"],
            ),
            ("root ::= \"a\"{0,5000} \"!\"", &["!", "aaa!"], &["a"]),
            ("root ::= (\"a\"*)* \"b\"?", &["", "aa", "aab"], &["ba"]),
            (
                "root ::= root \"a\" | \"x\"",
                &["x", "xaa"],
                &["", "a", "xx"],
            ),
            (
                "root ::= \"(\" root \")\" | \"\"",
                &["", "(())"],
                &["(", "())"],
            ),
            ("root ::= [^\"\\n] .", &["éa", "a\n"], &["\"a", "a"]),
            (
                "root ::= item (\",\" root)?\nitem ::= [0-9]",
                &["1", "1,2,3"],
                &["1,", ",1"],
            ),
            (
                "root ::= \"a\" | \"b\" x\nx ::= \"c\" x",
                &["a"],
                &["b", "bc"],
            ),
            (
                "root ::= \"\\x41\\u00e9\\U0001F600\\t\\\"\"",
                &["Aé😀\t\""],
                &["A"],
            ),
        ];
        for (text, good, bad) in cases {
            let grammar = Grammar::gbnf(text).unwrap();
            for good in *good {
                assert!(accepts(&grammar, good), "{text} accepts {good:?}");
            }
            for bad in *bad {
                assert!(!accepts(&grammar, bad), "{text} refuses {bad:?}");
            }
        }
    }

    #[test]
    fn overlong_and_broken_utf8_is_no_character() {
        let grammar = Grammar::gbnf("root ::= [^a]+").unwrap();
        assert!(grammar.accepts("é€😀".as_bytes()).unwrap());
        for bytes in [
            &b"\xC0\x80"[..],
            b"\xC1\xA1",
            b"\xE0\x80\xAF",
            b"\xF0\x80\x80\x80",
            b"\xED\xA0\x80",
            b"\xF5\x80\x80\x80",
            b"\x80",
        ] {
            assert!(!grammar.accepts(bytes).unwrap(), "{bytes:x?}");
        }
    }

    #[test]
    fn grammars_that_double_at_every_step_stay_small() {
        let doubling: String = (0..40)
            .map(|i| format!("r{i} ::= r{} \"a\" | r{} \"b\"\n", i + 1, i + 1))
            .collect();
        let grammar = Grammar::gbnf(&format!("root ::= r0\n{doubling}r40 ::= \"x\"")).unwrap();
        assert!(accepts(&grammar, &format!("x{}", "ab".repeat(20))));
        let grammar = Grammar::gbnf("root ::= \"x\" root \"a\" | \"x\" root \"b\" | \"\"").unwrap();
        assert!(accepts(
            &grammar,
            "xxxxxxxxxxxxxxxxxxxxxxxxbabababababababababababa"
        ));
    }

    #[test]
    fn a_long_text_by_a_rule_that_ends_in_itself_is_followed() {
        let grammar = Grammar::gbnf("root ::= [a-z] root | \".\"").unwrap();
        assert!(accepts(&grammar, &format!("{}.", "x".repeat(20_000))));
    }
}
