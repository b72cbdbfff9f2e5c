//! Grammars that a text must follow: llama.cpp's GBNF, and JSON schemas turned into it.

use llama_cpp_2::sampling::LlamaSampler;

use super::error::{Error, Result};
use super::log;
use super::start::start;
use super::vocab::Vocab;

/// A grammar in GBNF whose rule `root` the whole text follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grammar(String);

/// llama.cpp's parser calls itself for every bracket that opens.
const MAX_DEPTH: usize = 200;
const MAX_BYTES: usize = 1 << 20;

impl Grammar {
    /// A grammar written in GBNF.
    ///
    /// # Errors
    /// It is empty, has no rule `root`, or is nested or long beyond reason. Other faults show
    /// when it is put to use, see [`Grammar::check`].
    pub fn gbnf(text: &str) -> Result<Grammar> {
        let fault = |what: &str| Err(Error::Grammar(format!("grammar: {what}")));
        if text.contains('\0') {
            return fault("it holds a zero character");
        }
        if text.len() > MAX_BYTES {
            return fault("it is longer than 1 MiB");
        }
        if nesting(text) > MAX_DEPTH {
            return fault("its brackets are nested too deeply");
        }
        let defines_root = text.lines().any(|line| {
            let rest = line.trim_start().strip_prefix("root");
            rest.is_some_and(|rest| rest.trim_start().starts_with("::="))
        });
        if !defines_root {
            return fault("it does not define a rule named root (root ::= …)");
        }
        Ok(Grammar(text.to_owned()))
    }

    /// The grammar of the JSON texts that fit a JSON schema, by llama.cpp's converter.
    ///
    /// # Errors
    /// It is no JSON, or uses what the converter does not know (references to other files,
    /// contradictions).
    pub fn json_schema(text: &str) -> Result<Grammar> {
        let fault = |what: String| Error::Grammar(format!("JSON schema: {what}"));
        let schema: serde_json::Value =
            serde_json::from_str(text).map_err(|error| fault(error.to_string()))?;
        if !schema.is_object() && !schema.is_boolean() {
            return Err(fault("it is neither an object nor true".to_owned()));
        }
        let text = match schema {
            // Any JSON text at all.
            serde_json::Value::Bool(true) => "{}".to_owned(),
            serde_json::Value::Bool(false) => return Err(fault("false allows nothing".to_owned())),
            schema => schema.to_string(),
        };
        start();
        let grammar = llama_cpp_2::json_schema_to_grammar(&text)
            .map_err(|_| fault("llama.cpp cannot turn it into a grammar".to_owned()))?;
        Ok(Grammar(grammar))
    }

    /// Whether llama.cpp can use the grammar.
    ///
    /// # Errors
    /// It does not parse, refers to rules that are not there, or runs in circles.
    pub fn check(&self, vocab: &Vocab) -> Result<()> {
        self.sampler(vocab).map(drop)
    }

    pub(super) fn sampler(&self, vocab: &Vocab) -> Result<LlamaSampler> {
        LlamaSampler::grammar(vocab.raw(), &self.0, "root").map_err(|_| {
            // What its parser says goes to standard error, past the log.
            let reason = log::take_error();
            let reason =
                reason.unwrap_or_else(|| "it does not parse or refers to nothing".to_owned());
            Error::Grammar(format!("grammar: llama.cpp cannot use it: {reason}"))
        })
    }
}

/// How deep brackets nest outside of strings, character classes and comments.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut closing = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (closing, c) {
            (Some('\n'), '\n') => closing = None,
            (Some('\n'), _) => {}
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(end), c) if c == end => closing = None,
            (Some(_), _) => {}
            (None, '"') => closing = Some('"'),
            (None, '[') => closing = Some(']'),
            (None, '#') => closing = Some('\n'),
            (None, '(') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (None, ')') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_strings_classes_and_comments_do_not_nest() {
        assert_eq!(nesting(r#"root ::= (a (b)) "(((" [(((] # ((("#), 2);
        assert_eq!(nesting(r#"root ::= "\"(" (x)"#), 1);
    }

    #[test]
    fn rejects_grammars_without_root_and_bottomless_ones() {
        assert!(Grammar::gbnf("").is_err());
        assert!(Grammar::gbnf("start ::= \"a\"").is_err());
        assert!(Grammar::gbnf("rooted ::= \"a\"").is_err());
        let deep = format!(
            "root ::= {}\"a\"{}",
            "(".repeat(100_000),
            ")".repeat(100_000)
        );
        assert!(Grammar::gbnf(&deep).is_err());
        assert!(Grammar::gbnf("root ::= \"a\"").is_ok());
    }

    #[test]
    fn a_schema_becomes_a_grammar_or_an_error() {
        let schema = r#"{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}"#;
        let grammar = Grammar::json_schema(schema).unwrap();
        assert!(grammar.0.contains("root ::="), "{}", grammar.0);
        for bad in [
            "",
            "{",
            "[]",
            "false",
            "3",
            r#"{"type":"nonsense"}"#,
            r##"{"$ref":"#/no"}"##,
        ] {
            let error = Grammar::json_schema(bad).map(|g| g.0).unwrap_err();
            assert!(
                error.to_string().starts_with("JSON schema:"),
                "{bad}: {error}"
            );
        }
        let deep = format!("{}{}", r#"{"items":"#.repeat(100_000), "}".repeat(100_000));
        assert!(Grammar::json_schema(&deep).is_err());
    }
}
