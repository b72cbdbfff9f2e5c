//! Splits the assistant's turn into reasoning, text and tool calls while it is generated.

use std::collections::BTreeSet;

use crate::reasoning::Splitter;
use crate::tools::{Call, Parser, Part, Syntax};

/// A part of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Reasoning.
    Thought(String),
    /// Text.
    Text(String),
    /// A tool call.
    Call(Call),
}

/// Splits a turn into its parts.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    thoughts: Option<Splitter>,
    calls: Option<Parser>,
}

impl Turn {
    /// Separates reasoning from the answer.
    pub fn with_thoughts(mut self, thoughts: Splitter) -> Self {
        self.thoughts = Some(thoughts);
        self
    }

    /// Finds calls of these tools. The turn begins with `begun`, which is not part of the output.
    pub fn with_calls(mut self, syntax: Syntax, names: BTreeSet<String>, begun: &str) -> Self {
        let mut parser = Parser::new(syntax, names);
        parser.begin(begun);
        self.calls = Some(parser);
        self
    }

    /// Returns the parts that are certain once `text` has been added.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        let (thoughts, words) = match &mut self.thoughts {
            Some(splitter) => splitter.push(text),
            None => (String::new(), text.to_owned()),
        };
        let mut deltas = Vec::new();
        if !thoughts.is_empty() {
            deltas.push(Delta::Thought(thoughts));
        }
        match &mut self.calls {
            Some(parser) => deltas.extend(parser.push(&words).into_iter().map(Delta::from)),
            None if words.is_empty() => {}
            None => deltas.push(Delta::Text(words)),
        }
        deltas
    }

    /// Returns what was held back, at the end of the turn.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut deltas = Vec::new();
        if let Some(splitter) = &mut self.thoughts {
            let (thoughts, words) = splitter.finish();
            if !thoughts.is_empty() {
                deltas.push(Delta::Thought(thoughts));
            }
            match &mut self.calls {
                Some(parser) => deltas.extend(parser.push(&words).into_iter().map(Delta::from)),
                None if words.is_empty() => {}
                None => deltas.push(Delta::Text(words)),
            }
        }
        if let Some(parser) = &mut self.calls {
            deltas.extend(parser.finish().into_iter().map(Delta::from));
        }
        deltas
    }

    /// Splits a complete text.
    pub fn whole(mut self, text: &str) -> Said {
        let mut deltas = self.push(text);
        deltas.extend(self.finish());
        let mut said = Said::default();
        deltas.into_iter().for_each(|delta| said.add(delta));
        said
    }
}

impl From<Part> for Delta {
    fn from(part: Part) -> Self {
        match part {
            Part::Text(text) => Delta::Text(text),
            Part::Call(call) => Delta::Call(call),
        }
    }
}

/// A complete turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// The reasoning.
    pub thoughts: String,
    /// The text.
    pub text: String,
    /// The tool calls.
    pub calls: Vec<Call>,
}

impl Said {
    /// Adds a part.
    pub fn add(&mut self, delta: Delta) {
        match delta {
            Delta::Thought(thought) => self.thoughts.push_str(&thought),
            Delta::Text(text) => self.text.push_str(&text),
            Delta::Call(call) => self.calls.push(call),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thoughts_words_and_calls_stand_apart() {
        let names: BTreeSet<String> = ["look".to_owned()].into();
        let text = "<think>Hm.</think>\n\nI look.\n<tool_call>\n{\"name\": \"look\"}\n</tool_call>";
        for size in 1..30 {
            let mut turn = Turn::default()
                .with_thoughts(Splitter::after(""))
                .with_calls(Syntax::Hermes, names.clone(), "");
            let mut said = Said::default();
            for part in text.as_bytes().chunks(size) {
                let deltas = turn.push(std::str::from_utf8(part).unwrap());
                deltas.into_iter().for_each(|delta| said.add(delta));
            }
            turn.finish().into_iter().for_each(|delta| said.add(delta));
            assert_eq!(
                (&*said.thoughts, &*said.text),
                ("Hm.", "I look."),
                "by {size}"
            );
            assert_eq!(said.calls[0].name, "look");
        }
        let forced = Turn::default().with_calls(Syntax::Hermes, names, "<tool_call>\n");
        let said = forced.whole(r#"{"name":"look","arguments":{"n":1}}"#);
        assert_eq!(said.calls[0].arguments, r#"{"n":1}"#);
        assert_eq!(said.text, "");
    }

    #[test]
    fn a_forced_call_that_is_cut_short_is_what_the_model_wrote() {
        let names: BTreeSet<String> = ["look".to_owned()].into();
        let forced = Turn::default().with_calls(Syntax::Hermes, names, "<tool_call>\n");
        let said = forced.whole(r#"{"name":"lo"#);
        assert_eq!((&*said.text, said.calls.len()), (r#"{"name":"lo"#, 0));
    }
}
