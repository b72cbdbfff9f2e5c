//! Finds tool calls while text is generated.

use std::collections::BTreeSet;

use super::Part;
use super::syntax::{Read, Syntax};

/// Finds tool calls while text is generated.
#[derive(Debug, Clone)]
pub struct Parser {
    syntax: Syntax,
    names: BTreeSet<String>,
    held: String,
    /// Whether anything but white space was returned.
    begun: bool,
    /// Whether a call was returned.
    called: bool,
    /// White space that is returned once text follows it.
    space: String,
    /// Number of bytes at the beginning that were not generated.
    hidden: usize,
}

impl Parser {
    /// Makes a parser for calls of these tools.
    pub fn new(syntax: Syntax, names: BTreeSet<String>) -> Self {
        Parser {
            syntax,
            names,
            held: String::new(),
            begun: false,
            called: false,
            space: String::new(),
            hidden: 0,
        }
    }

    /// Starts with `begun`, which was not generated.
    pub fn begin(&mut self, begun: &str) {
        self.held.push_str(begun);
        self.hidden = begun.len();
    }

    /// Returns the parts that are certain once `text` has been added.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        self.read(false)
    }

    /// Returns what was held back, at the end of the text.
    pub fn finish(&mut self) -> Vec<Part> {
        let mut parts = self.read(true);
        if !self.called && !self.space.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut self.space)));
        }
        parts
    }

    fn read(&mut self, last: bool) -> Vec<Part> {
        let mut parts = Vec::new();
        while !self.held.is_empty() {
            let Some(at) = self.opener() else {
                let sure = match last {
                    true => self.held.len(),
                    false => self.held.len() - overlap(&self.held, self.syntax.openers()),
                };
                self.tell(sure, &mut parts);
                break;
            };
            self.tell(at, &mut parts);
            match self.syntax.read(&self.held, &self.names, last) {
                Read::Calls(calls, len) => {
                    self.held.drain(..len);
                    self.space.clear();
                    self.called = true;
                    parts.extend(calls.into_iter().map(Part::Call));
                }
                Read::Open if !last => break,
                // This is not a call: its first character is text, and the rest is parsed again.
                Read::Open | Read::No => {
                    let first = self.held.chars().next().map_or(0, char::len_utf8);
                    self.tell(first, &mut parts);
                }
            }
        }
        parts
    }

    /// Returns where a call may begin.
    fn opener(&self) -> Option<usize> {
        let openers = self.syntax.openers().iter();
        let marked = openers.filter_map(|opener| self.held.find(opener)).min();
        if self.syntax == Syntax::Llama && !self.begun {
            let start = self.held.len() - self.held.trim_start().len();
            if self.held[start..].starts_with('{') {
                return Some(start);
            }
        }
        marked
    }

    /// Returns the first `len` bytes as text.
    fn tell(&mut self, len: usize, parts: &mut Vec<Part>) {
        let text: String = self.held.drain(..len).collect();
        let hidden = self.hidden.min(len);
        self.hidden -= hidden;
        let text = &text[hidden..];
        let words = text.trim_end();
        if words.is_empty() {
            self.space.push_str(text);
            return;
        }
        let mut told = std::mem::take(&mut self.space);
        told.push_str(words);
        self.space.push_str(&text[words.len()..]);
        self.begun = true;
        match parts.last_mut() {
            Some(Part::Text(before)) => before.push_str(&told),
            _ => parts.push(Part::Text(told)),
        }
    }
}

/// Returns the length of the longest end of `text` that is the beginning of one of `marks`.
pub fn overlap(text: &str, marks: &[&str]) -> usize {
    let of = |mark: &&str| {
        let longest = mark.len().saturating_sub(1).min(text.len());
        let ends = |&n: &usize| text.as_bytes().ends_with(&mark.as_bytes()[..n]);
        (1..=longest).rev().find(ends).unwrap_or(0)
    };
    marks.iter().map(of).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(syntax: Syntax, text: &str, size: usize) -> (String, Vec<(String, String)>) {
        let names = ["look", "go"].map(str::to_owned).into();
        let mut parser = Parser::new(syntax, names);
        let chars: Vec<char> = text.chars().collect();
        let mut parts = Vec::new();
        for part in chars.chunks(size) {
            parts.extend(parser.push(&part.iter().collect::<String>()));
        }
        parts.extend(parser.finish());
        let (mut words, mut calls) = (String::new(), Vec::new());
        for part in parts {
            match part {
                Part::Text(text) => words += &text,
                Part::Call(call) => calls.push((call.name, call.arguments)),
            }
        }
        (words, calls)
    }

    #[test]
    fn calls_are_found_in_every_family_wherever_the_text_is_cut() {
        use Syntax::*;
        let look = ("look", r#"{"at":"x"}"#);
        let go = ("go", "{}");
        for (syntax, text, words, calls) in [
            (
                Hermes,
                "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": \"x\"}}\n</tool_call>",
                "",
                vec![look],
            ),
            (
                Hermes,
                "Well.\n<tool_call>{\"name\":\"look\",\"arguments\":{\"at\":\"x\"}}</tool_call>\n<tool_call>{\"name\":\"go\"}</tool_call>\n",
                "Well.",
                vec![look, go],
            ),
            (
                Hermes,
                "<tool_call>{\"name\":\"go\",\"arguments\":\"{}\"}",
                "",
                vec![go],
            ),
            (
                Hermes,
                "<tool_call>\n<function=look>\n<parameter=at>\nx\n</parameter>\n</function>\n</tool_call>",
                "",
                vec![look],
            ),
            (
                Llama,
                "{\"name\": \"look\", \"parameters\": {\"at\": \"x\"}}",
                "",
                vec![look],
            ),
            (
                Llama,
                "<|python_tag|>{\"name\": \"go\", \"parameters\": {}}; {\"name\": \"look\", \"parameters\": {\"at\": \"x\"}}",
                "",
                vec![go, look],
            ),
            (
                Mistral,
                "[TOOL_CALLS] [{\"name\": \"look\", \"arguments\": {\"at\": \"x\"}}, {\"name\": \"go\", \"arguments\": {}}]",
                "",
                vec![look, go],
            ),
            (
                Mistral,
                "[TOOL_CALLS]look[CALL_ID]abc[ARGS]{\"at\": \"x\"}[TOOL_CALLS]go[ARGS]{}",
                "",
                vec![look, go],
            ),
            (
                Phi,
                "<|tool_call|>[{\"name\": \"look\", \"arguments\": {\"at\": \"x\"}}]<|/tool_call|>",
                "",
                vec![look],
            ),
            (
                Functools,
                "functools[{\"name\": \"look\", \"arguments\": {\"at\": \"x\"}}]",
                "",
                vec![look],
            ),
            (
                Function,
                "<function=look>{\"at\": \"x\"}</function>",
                "",
                vec![look],
            ),
        ] {
            for size in 1..40 {
                let (told, found) = parse(syntax, text, size);
                let found: Vec<(&str, &str)> = found
                    .iter()
                    .map(|(n, a)| (n.as_str(), a.as_str()))
                    .collect();
                assert_eq!(
                    (&*told, found),
                    (words, calls.clone()),
                    "{text:?} by {size}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_call_stays_text() {
        use Syntax::*;
        for (syntax, text) in [
            (Hermes, "A <tool> and <tool_call> are words.\n"),
            (
                Hermes,
                "<tool_call>{\"name\": \"fly\", \"arguments\": {}}</tool_call>",
            ),
            (Hermes, "<tool_call>{\"name\": \"look\""),
            (Hermes, "<tool_call>{broken}</tool_call> after"),
            (Hermes, "ends in <tool_c"),
            (Llama, "{\"answer\": 42} is JSON"),
            (Llama, "Say {\"name\": \"look\", \"parameters\": {}}"),
            (Llama, "{\"name\": \"fly\", \"parameters\": {}}"),
            (Mistral, "[TOOL_CALLS]fly[ARGS]{}"),
            (Phi, "<|tool_call|>[]<|/tool_call|>"),
            (Functools, "functools are many"),
            (Function, "<function=look>no arguments</function>"),
            (Hermes, "é <tool_call>é"),
            (Hermes, " \n "),
        ] {
            for size in 1..30 {
                let (words, calls) = parse(syntax, text, size);
                assert_eq!((&*words, calls.len()), (text, 0), "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn templates_tell_their_syntax() {
        assert_eq!(Syntax::of("… <tool_call>\\n{ …"), Syntax::Hermes);
        assert_eq!(Syntax::of("[TOOL_CALLS]"), Syntax::Mistral);
        assert_eq!(Syntax::of("Environment: ipython"), Syntax::Llama);
        assert_eq!(Syntax::of("<|tool_call|>"), Syntax::Phi);
        assert_eq!(Syntax::of("nothing"), Syntax::Hermes);
    }
}
