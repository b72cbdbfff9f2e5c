//! Command lines in hints: what the user typed, changed so that it works.

use std::fmt;

use crate::program;

/// A command line to propose, displayed with the program's name first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The words after the program's name.
    words: Vec<String>,
}

impl CommandLine {
    /// The command line of this process; empty if the process is not modelve's own.
    pub fn typed() -> Self {
        Self::of(program::arguments())
    }

    /// A command line of these words.
    pub fn of<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        Self {
            words: words.into_iter().map(Into::into).collect(),
        }
    }

    /// The name of the command, such as `complete`.
    pub fn command(&self) -> Option<&str> {
        let mut words = self.words.iter();
        words
            .find(|word| !word.starts_with('-'))
            .map(String::as_str)
    }

    /// Inserts `words` right after the command's name.
    #[must_use]
    pub fn with(mut self, words: &[&str]) -> Self {
        let command = self.words.iter().position(|word| !word.starts_with('-'));
        let at = command.map_or(self.words.len(), |at| at + 1);
        let words = words.iter().map(|&word| word.to_owned());
        self.words.splice(at..at, words);
        self
    }

    /// Appends `words`, such as a text.
    #[must_use]
    pub fn followed_by<W: Into<String>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// Replaces the model that it names, if any, by `model`.
    #[must_use]
    pub fn on_model(mut self, model: &str) -> Self {
        while let Some(at) = self.words.iter().position(|word| names_model(word)) {
            // The name is a separate word unless it is joined to the flag.
            let joined = !matches!(self.words[at].as_str(), "-m" | "--model");
            let end = (at + if joined { 1 } else { 2 }).min(self.words.len());
            self.words.drain(at..end);
        }
        self.with(&["-m", model])
    }

    /// The model that it names, if it names one.
    pub fn model(&self) -> Option<&str> {
        let at = self.words.iter().position(|word| names_model(word))?;
        let word = self.words[at].as_str();
        match word {
            "-m" | "--model" => self.words.get(at + 1).map(String::as_str),
            _ => word.strip_prefix("--model=").or(word.strip_prefix("-m")),
        }
    }

    /// Removes the first `word` after the command's name.
    #[must_use]
    pub fn without(mut self, word: &str) -> Self {
        let command = self.words.iter().position(|word| !word.starts_with('-'));
        let after = command.map_or(0, |at| at + 1);
        if let Some(at) = self.words[after..].iter().position(|other| other == word) {
            self.words.remove(after + at);
        }
        self
    }
}

fn names_model(word: &str) -> bool {
    let short = word.starts_with("-m") && !word.starts_with("--");
    short || word == "--model" || word.starts_with("--model=")
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("modelve")?;
        for word in &self.words {
            write!(f, " {}", quote(word))?;
        }
        Ok(())
    }
}

/// Quotes a word for a POSIX shell, if necessary.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:=@%+,-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_added_after_the_command_and_quoted_for_a_shell() {
        let typed = CommandLine::of(["-v", "complete", "a.gguf", "It's", ""]);
        assert_eq!(typed.command(), Some("complete"));
        let better = typed.without("a.gguf").with(&["-m", "a.gguf"]);
        assert_eq!(
            better.to_string(),
            r"modelve -v complete -m a.gguf 'It'\''s' ''"
        );
    }

    #[test]
    fn one_model_takes_the_place_of_another() {
        for named in [
            &["-m", "x"][..],
            &["-mx"],
            &["--model", "x"],
            &["--model=x"],
            &[],
        ] {
            let words = [&["score", "a"], named, &["--json"]].concat();
            let model = CommandLine::of(words.clone()).model().map(str::to_owned);
            assert_eq!(model.as_deref(), (!named.is_empty()).then_some("x"));
            let better = CommandLine::of(words).on_model("tiny");
            assert_eq!(better.to_string(), "modelve score -m tiny a --json");
        }
    }

    #[test]
    fn the_command_itself_is_no_argument() {
        let typed = CommandLine::of(["complete", "complete", "x"]);
        assert_eq!(typed.without("complete").to_string(), "modelve complete x");
    }
}
