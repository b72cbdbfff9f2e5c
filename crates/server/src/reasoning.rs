//! Separates a model's reasoning, between `<think>` and `</think>`, from its answer.

use crate::tools::overlap;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Separates reasoning from the answer while text is generated.
#[derive(Debug, Clone)]
pub struct Splitter {
    place: Place,
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Only white space so far.
    Start,
    /// Inside the reasoning; whether any of it was returned.
    Thoughts(bool),
    /// After the reasoning; whether any of the answer was returned.
    Answer(bool),
}

/// Returns whether a chat template supports reasoning.
pub fn is_known_to(template: &str) -> bool {
    template.contains(OPEN) || template.contains(CLOSE)
}

/// Returns whether a prompt ends inside reasoning.
pub fn is_open(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPEN)
}

impl Splitter {
    /// Makes a splitter for the text after a prompt.
    pub fn after(prompt: &str) -> Self {
        Splitter {
            place: match is_open(prompt) {
                true => Place::Thoughts(false),
                false => Place::Start,
            },
            held: String::new(),
        }
    }

    /// Returns the reasoning and the answer that are certain once `text` has been added.
    pub fn push(&mut self, text: &str) -> (String, String) {
        self.held.push_str(text);
        let mut thoughts = String::new();
        if self.place == Place::Start {
            let begun = self.held.trim_start();
            if begun.len() < OPEN.len() && OPEN.starts_with(begun) {
                return Default::default();
            }
            match begun.strip_prefix(OPEN) {
                Some(rest) => {
                    self.held = rest.to_owned();
                    self.place = Place::Thoughts(false);
                }
                // There is no reasoning; the answer is returned unchanged.
                None => self.place = Place::Answer(true),
            }
        }
        if let Place::Thoughts(told) = self.place {
            let (sure, closed) = match self.held.find(CLOSE) {
                Some(at) => (at, true),
                None => (self.held.len() - overlap(&self.held, &[CLOSE]), false),
            };
            let sure = &self.held[..sure];
            let begun = if told { sure } else { sure.trim_start() };
            // White space at the end of the reasoning is dropped.
            let kept = begun.trim_end();
            let skipped = sure.len() - begun.len();
            thoughts.push_str(kept);
            if closed {
                let after = skipped + begun.len() + CLOSE.len();
                self.held.drain(..after);
                self.place = Place::Answer(false);
            } else {
                let told = told || !kept.is_empty();
                let taken = if kept.is_empty() && !told {
                    0
                } else {
                    skipped + kept.len()
                };
                self.held.drain(..taken);
                self.place = Place::Thoughts(told);
                return (thoughts, String::new());
            }
        }
        let mut answer = std::mem::take(&mut self.held);
        if self.place == Place::Answer(false) {
            let begun = answer.trim_start();
            if begun.is_empty() {
                return (thoughts, String::new());
            }
            self.place = Place::Answer(true);
            answer = begun.to_owned();
        }
        (thoughts, answer)
    }

    /// Returns what was held back, at the end of the text.
    pub fn finish(&mut self) -> (String, String) {
        let rest = std::mem::take(&mut self.held);
        match self.place {
            Place::Thoughts(_) => (rest.trim_end().to_owned(), String::new()),
            _ => (String::new(), rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(prompt: &str, text: &str, size: usize) -> (String, String) {
        let mut splitter = Splitter::after(prompt);
        let (mut thoughts, mut answer) = (String::new(), String::new());
        let chars: Vec<char> = text.chars().collect();
        for part in chars.chunks(size) {
            let part: String = part.iter().collect();
            let (t, a) = splitter.push(&part);
            thoughts += &t;
            answer += &a;
        }
        let (t, a) = splitter.finish();
        (thoughts + &t, answer + &a)
    }

    #[test]
    fn thoughts_stand_apart_wherever_the_text_is_cut() {
        for (prompt, text, thoughts, answer) in [
            (
                "",
                "<think>\nHm, 2 < 3.\n\nSo.\n</think>\n\nYes.\n",
                "Hm, 2 < 3.\n\nSo.",
                "Yes.\n",
            ),
            ("<|a|><think>\n", "So.</think>Yes.", "So.", "Yes."),
            ("", "<think></think>\nYes.", "", "Yes."),
            ("", "<think>never ends ", "never ends", ""),
            (
                "",
                "  plain <think>x</think>",
                "",
                "  plain <think>x</think>",
            ),
            ("", "<thin air", "", "<thin air"),
            ("", "<th", "", "<th"),
            ("", "", "", ""),
        ] {
            for size in 1..20 {
                let (t, a) = split(prompt, text, size);
                assert_eq!((&*t, &*a), (thoughts, answer), "{text:?} by {size}");
            }
        }
    }
}
