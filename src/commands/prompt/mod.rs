//! Texts on the command line: where they come from and which tokens they become.
//!
//! Every command that takes text goes through here, so that the same text is the same tokens in
//! all of them. `docs/prompts.md` describes it for users.
//!
//! - Arguments are texts as they stand. `-`, or no argument where standard input is no terminal,
//!   reads standard input; `--file` reads a file ([`input`] says how both are cut into texts).
//! - A prompt becomes what `tokenizer(text)` makes of it in transformers: special tokens written
//!   out in it are those tokens, unless `--no-special`. A text to be scored is plain, unless
//!   `--special`.
//! - `--chat` and `--system` put a prompt into the model's template; there it is always plain.

pub mod input;
mod mistaken;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use crate::hint::{Usage, hinted};
use crate::probe;
use crate::runtime::chat::{self, Message};
use crate::runtime::{Model, Reading, Result, Token, Vocab};

/// A text as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// What the model is told before it, if the line it comes from says so.
    pub system: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a text comes from.
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
    /// A text of the command line, or one that was typed.
    pub fn argument(text: impl Into<String>) -> Self {
        Text {
            text: text.into(),
            system: None,
            origin: Origin::Argument,
        }
    }
}

/// Flags that say what is read besides arguments.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Input {
    /// Read a text from a file, `-` for standard input; {"prompt": "…"} lines are one each
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<PathBuf>,

    /// Take each line of what is read as a text of its own
    #[arg(long)]
    pub lines: bool,
}

impl Input {
    fn is_given(&self) -> bool {
        !self.file.is_empty()
    }

    /// All texts, in order: arguments, then files. `None` where there is none and a person sits
    /// at the terminal. `names_model` says that `-m` names the model.
    ///
    /// # Errors
    /// What cannot be read; standard input twice or empty; arguments that are models or files.
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
            return Err(Usage("standard input, `-`, can be read only once".to_owned()).into());
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

/// Prompts, and how they become tokens.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PromptArgs {
    /// The prompt; `-` reads standard input
    #[arg(value_name = "PROMPT", allow_negative_numbers = true)]
    pub prompts: Vec<String>,

    /// Where texts come from besides arguments.
    #[command(flatten)]
    pub input: Input,

    /// How they are read.
    #[command(flatten)]
    pub manner: Manner,
}

/// How a prompt becomes tokens, wherever it comes from.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Manner {
    /// Put the prompt into the model's chat template
    #[arg(long)]
    pub chat: bool,

    /// What the model is told before the prompt; implies --chat
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,

    /// Take `<|end|>` and its like in the prompt as those tokens: the default
    #[arg(long, overrides_with = "no_special", hide_short_help = true)]
    pub special: bool,

    /// Take `<|end|>` and its like in the prompt as plain characters
    #[arg(long, overrides_with = "special")]
    pub no_special: bool,
}

impl PromptArgs {
    /// All prompts; `None` where none was given and a person sits at the terminal.
    ///
    /// # Errors
    /// See [`Input::texts`].
    pub fn texts(&self, names_model: bool) -> anyhow::Result<Option<Vec<Text>>> {
        self.input.texts(&self.prompts, names_model)
    }

    /// All prompts of a command that cannot do without.
    ///
    /// # Errors
    /// See [`Input::texts`]; no prompt.
    pub fn some(&self, command: &str, names_model: bool) -> anyhow::Result<Vec<Text>> {
        match self.texts(names_model)? {
            Some(texts) if !texts.is_empty() => Ok(texts),
            _ => Err(missing(command, "prompt")),
        }
    }

    /// The prompt of a command that takes one.
    ///
    /// # Errors
    /// See [`PromptArgs::some`]; several prompts.
    pub fn one(&self, command: &str, names_model: bool) -> anyhow::Result<Text> {
        let mut texts = self.some(command, names_model)?;
        if texts.len() > 1 {
            let usage = Usage(format!("{command} takes one prompt, not {}", texts.len()));
            let words: Vec<&str> = texts.iter().map(|text| text.text.as_str()).collect();
            if texts.iter().all(|text| text.origin == Origin::Argument) {
                let sentence = super::again::quote(&words.join(" "));
                let hint = format!("quote it: modelve {command} {sentence}");
                return Err(hinted(usage, hint));
            }
            return Err(usage.into());
        }
        Ok(texts.remove(0))
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
    /// What the tokenizer or the template refuses.
    pub fn tokens(&self, model: &Model, text: &Text) -> Result<Vec<Token>> {
        self.manner.tokens(model, text)
    }

    /// A prompt for a probe, see [`Manner::read`].
    ///
    /// # Errors
    /// See [`PromptArgs::tokens`]; no token at all.
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
    /// What the tokenizer or the template refuses.
    pub fn tokens(&self, model: &Model, text: &Text) -> Result<Vec<Token>> {
        if self.is_chat(text) {
            return chat::tokenize_chat(model, &self.messages(text));
        }
        tokens(model.vocab(), &text.text, !self.no_special)
    }

    /// A prompt for a probe. In a conversation its text is all that the model reads, the
    /// template included.
    ///
    /// # Errors
    /// See [`Manner::tokens`]; no token at all.
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

/// The tokens of a text with what the model wants around it; `special` says whether control
/// tokens written out in it are those tokens.
///
/// # Errors
/// What the tokenizer refuses.
pub fn tokens(vocab: &Vocab, text: &str, special: bool) -> Result<Vec<Token>> {
    let reading = match special {
        true => Reading::Prompt,
        false => Reading::Text,
    };
    vocab.tokenize(text, reading)
}

/// The error where a command was given no text.
pub fn missing(command: &str, what: &str) -> anyhow::Error {
    let example = super::again::Again::of([command, "Today is"]);
    hinted(
        Usage(format!("no {what}")),
        format!("give it as an argument, on standard input or with --file FILE: {example}"),
    )
}
