//! Texts on the command line: their sources and their conversion to tokens.
//!
//! All commands that take text use this module, so that the same text becomes the same tokens
//! everywhere. `docs/prompts.md` describes it for users.
//!
//! - Arguments are texts, unchanged. `-`, or no argument if standard input is not a terminal, reads
//!   standard input; `--file` reads a file ([`input`] splits both into texts).
//! - A prompt is tokenized like `tokenizer(text)` in transformers: names of special tokens in it
//!   become those tokens, unless `--no-special`. A text to be scored is plain, unless `--special`.
//! - `--chat` and `--system` put a prompt into the model's chat template; there it is always plain.

pub mod input;
mod mistaken;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use super::command_line::CommandLine;
use crate::hint::{UsageError, hinted};
use crate::probe;
use crate::runtime::chat::{self, Message};
use crate::runtime::{Model, Reading, Result, Token, Vocab};

/// A text from the command line, a file, or standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// The system message, if the line of the file has one.
    pub system: Option<String>,
    /// The source of the text.
    pub origin: Origin,
}

/// The source of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Argument,
    /// A file or standard input, by its name.
    File(String),
    /// A line of a file or of standard input, from 1.
    Line(String, usize),
}

impl Text {
    /// A text from the command line, or one that was typed.
    pub fn argument(text: impl Into<String>) -> Self {
        Text {
            text: text.into(),
            system: None,
            origin: Origin::Argument,
        }
    }
}

/// The flags for texts that are not arguments.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Input {
    /// Read a text from a file, `-` for standard input; {"prompt": "…"} lines are one each
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<PathBuf>,

    /// Read each line as a text of its own
    #[arg(long)]
    pub lines: bool,
}

impl Input {
    fn is_given(&self) -> bool {
        !self.file.is_empty()
    }

    /// All texts, in order: arguments, then files. `None` if there is none and standard input is a
    /// terminal. `names_model` is whether `-m` names the model.
    ///
    /// # Errors
    /// A file cannot be read, standard input is empty or named twice, or an argument is a model or
    /// a file.
    pub fn texts(
        &self,
        arguments: &[String],
        names_model: bool,
    ) -> anyhow::Result<Option<Vec<Text>>> {
        mistaken::check(arguments, self, names_model)?;
        let stdin = Path::new("-");
        if arguments.is_empty() && !self.is_given() {
            if std::io::stdin().is_terminal() {
                return Ok(None);
            }
            let texts = input::texts(stdin, self.lines)?;
            let nothing = texts.iter().all(|text| text.text.is_empty());
            return Ok((!nothing).then_some(texts));
        }
        let arguments_read = arguments.iter().filter(|argument| *argument == "-").count();
        let files_read = self.file.iter().filter(|path| *path == stdin).count();
        if arguments_read + files_read > 1 {
            return Err(UsageError("standard input, `-`, can be read only once".to_owned()).into());
        }
        let mut texts = Vec::new();
        for argument in arguments {
            match argument.as_str() {
                "-" => texts.extend(input::texts(stdin, self.lines)?),
                _ => texts.push(Text::argument(argument)),
            }
        }
        for path in &self.file {
            texts.extend(input::texts(path, self.lines)?);
        }
        Ok(Some(texts))
    }
}

/// The arguments for prompts.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PromptArgs {
    /// The prompt; `-` reads standard input
    #[arg(value_name = "PROMPT", allow_negative_numbers = true)]
    pub prompts: Vec<String>,

    /// Sources of texts other than arguments.
    #[command(flatten)]
    pub input: Input,

    /// How prompts become tokens.
    #[command(flatten)]
    pub manner: Manner,
}

/// The flags that say how prompts become tokens.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Manner {
    /// Put the prompt into the model's chat template
    #[arg(long)]
    pub chat: bool,

    /// A system message before the prompt; implies --chat
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,

    /// Read `<|end|>` and other special tokens written in the prompt as those tokens (the default)
    #[arg(long, overrides_with = "no_special", hide_short_help = true)]
    pub special: bool,

    /// Read special tokens written in the prompt as plain characters
    #[arg(long, overrides_with = "special")]
    pub no_special: bool,
}

impl PromptArgs {
    /// All prompts; `None` if none was given and standard input is a terminal.
    ///
    /// # Errors
    /// See [`Input::texts`].
    pub fn texts(&self, names_model: bool) -> anyhow::Result<Option<Vec<Text>>> {
        self.input.texts(&self.prompts, names_model)
    }

    /// All prompts of a command that needs at least one.
    ///
    /// # Errors
    /// See [`Input::texts`]; there is no prompt.
    pub fn some(&self, names_model: bool) -> anyhow::Result<Vec<Text>> {
        match self.texts(names_model)? {
            Some(texts) if !texts.is_empty() => Ok(texts),
            _ => Err(missing("prompt")),
        }
    }

    /// The prompt of a command that takes exactly one.
    ///
    /// # Errors
    /// See [`PromptArgs::some`]; there are several prompts.
    pub fn one(&self, command: &str, names_model: bool) -> anyhow::Result<Text> {
        let texts = self.some(names_model)?;
        Ok(at_most(1, command, texts)?.remove(0))
    }

    /// The prompts of a command that takes one, or two to compare.
    ///
    /// # Errors
    /// See [`PromptArgs::some`]; there are more than two prompts.
    pub fn one_or_two(&self, command: &str, names_model: bool) -> anyhow::Result<Vec<Text>> {
        at_most(2, command, self.some(names_model)?)
    }

    /// The messages that `text` is the last of, in a conversation.
    pub fn messages(&self, text: &Text) -> Vec<Message> {
        self.manner.messages(text)
    }

    /// Returns whether `text` goes into the model's template.
    pub fn is_chat(&self, text: &Text) -> bool {
        self.manner.is_chat(text)
    }

    /// The tokens of a prompt, see [`Manner::tokens`].
    ///
    /// # Errors
    /// Errors of the tokenizer or the template.
    pub fn tokens(&self, model: &Model, text: &Text) -> Result<Vec<Token>> {
        self.manner.tokens(model, text)
    }

    /// A prompt for a probe, see [`Manner::read`].
    ///
    /// # Errors
    /// See [`PromptArgs::tokens`], or a prompt without tokens.
    pub fn read(&self, model: &Model, text: &Text) -> probe::Result<probe::Prompt> {
        self.manner.read(model, text)
    }
}

impl Manner {
    /// Returns whether `text` goes into the model's template.
    pub fn is_chat(&self, text: &Text) -> bool {
        self.chat || self.system.is_some() || text.system.is_some()
    }

    /// The messages that `text` is the last of, in a conversation.
    pub fn messages(&self, text: &Text) -> Vec<Message> {
        let system = text.system.as_ref().or(self.system.as_ref());
        let system = system.map(|system| Message::new("system", system));
        let user = Message::new("user", &text.text);
        system.into_iter().chain([user]).collect()
    }

    /// The tokens of a prompt.
    ///
    /// # Errors
    /// Errors of the tokenizer or the template.
    pub fn tokens(&self, model: &Model, text: &Text) -> Result<Vec<Token>> {
        if self.is_chat(text) {
            return chat::tokenize_chat(model, &self.messages(text));
        }
        tokens(model.vocab(), &text.text, !self.no_special)
    }

    /// A prompt for a probe. In a conversation its text is everything that the model reads,
    /// including the template.
    ///
    /// # Errors
    /// See [`Manner::tokens`], or a prompt without tokens.
    pub fn read(&self, model: &Model, text: &Text) -> probe::Result<probe::Prompt> {
        let ids = self.tokens(model, text)?;
        if ids.is_empty() {
            return Err(probe::Error::EmptyPrompt);
        }
        let text = match self.is_chat(text) {
            true => probe::text_of(model.vocab(), &ids),
            false => text.text.clone(),
        };
        Ok(probe::Prompt { text, ids })
    }
}

/// The tokens of a text, including the special tokens that the model needs around it. With
/// `special`, names of control tokens in the text become those tokens.
///
/// # Errors
/// The errors of the tokenizer.
pub fn tokens(vocab: &Vocab, text: &str, special: bool) -> Result<Vec<Token>> {
    let reading = match special {
        true => Reading::Prompt,
        false => Reading::Text,
    };
    vocab.tokenize(text, reading)
}

/// The error of a command that was given no text. The hint is the typed command with one.
pub fn missing(what: &str) -> anyhow::Error {
    let example = CommandLine::typed().followed_by(["Today is"]);
    hinted(
        UsageError(format!("no {what}")),
        format!("give it as an argument, on standard input or with --file FILE: {example}"),
    )
}

/// The typed command line without these texts.
pub fn without(texts: &[Text]) -> CommandLine {
    let typed = CommandLine::typed();
    let words = texts.iter().map(|text| text.text.as_str());
    words.fold(typed, |line, word| line.without(word))
}

/// Returns the prompts if there are at most `most` (one or two). More words than that are usually a
/// sentence without quotes, so the hint quotes them.
fn at_most(most: usize, command: &str, texts: Vec<Text>) -> anyhow::Result<Vec<Text>> {
    if texts.len() <= most {
        return Ok(texts);
    }
    let taken = if most == 1 {
        "one prompt"
    } else {
        "one prompt or two"
    };
    let usage = UsageError(format!("{command} takes {taken}, not {}", texts.len()));
    if texts.iter().any(|text| text.origin != Origin::Argument) {
        return Err(usage.into());
    }
    let words: Vec<&str> = texts.iter().map(|text| text.text.as_str()).collect();
    let quoted = without(&texts).followed_by([words.join(" ")]);
    Err(hinted(usage, format!("quote it: {quoted}")))
}
