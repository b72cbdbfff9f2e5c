//! How texts of Python become prompts: the rules of the command line (`docs/prompts.md`).

use anyhow::anyhow;
use modelve::commands::engine::explain;
use modelve::commands::probing::told;
use modelve::commands::prompt::{Manner, Text};
use modelve::hint::UsageError;
use modelve::probe::next::one_token;
use modelve::probe::{self, Prompt};
use modelve::runtime::chat::{self, Message};
use modelve::runtime::{Model, Token};
use pyo3::prelude::*;

use crate::error::Result;

/// A text, or its token ids.
#[derive(Debug, Clone, FromPyObject)]
pub enum Given {
    /// A text.
    Text(String),
    /// Token ids.
    Ids(Vec<i32>),
}

/// One of them, or several.
#[derive(Debug, Clone, FromPyObject)]
pub enum OneOrMore {
    /// One.
    One(Given),
    /// Several.
    More(Vec<Given>),
}

impl OneOrMore {
    /// All of them, and whether they were given as a list.
    pub fn all(self) -> (Vec<Given>, bool) {
        match self {
            // An empty list has no texts, rather than one text without tokens.
            OneOrMore::One(Given::Ids(ids)) if ids.is_empty() => (Vec::new(), true),
            OneOrMore::One(one) => (vec![one], false),
            OneOrMore::More(all) => (all, true),
        }
    }
}

/// A token by its id or text.
#[derive(Debug, Clone, FromPyObject)]
pub enum Named {
    /// Its id.
    Id(i32),
    /// Its text.
    Text(String),
}

impl Named {
    /// The token.
    ///
    /// # Errors
    /// No such id, or a text that is not one token.
    pub fn token(&self, model: &Model) -> Result<Token> {
        match self {
            Named::Id(id) => {
                model.vocab().check(Token(*id)).map_err(explain)?;
                Ok(Token(*id))
            }
            Named::Text(text) => one_token(model.vocab(), text).map_err(told),
        }
    }
}

/// How texts are read.
#[derive(Debug, Clone, Default)]
pub struct Reading(pub Manner);

impl Reading {
    /// With the arguments of Python's methods.
    pub fn new(chat: bool, system: Option<String>, special: bool) -> Self {
        Reading(Manner {
            chat,
            system,
            special,
            no_special: !special,
        })
    }

    /// A prompt for a probe.
    ///
    /// # Errors
    /// What the tokenizer or the template refuses; no token at all.
    pub fn prompt(&self, model: &Model, given: &Given) -> Result<Prompt> {
        match given {
            Given::Text(text) => self.0.read(model, &Text::argument(text)).map_err(told),
            Given::Ids(ids) => {
                let ids = checked(model, ids)?;
                if ids.is_empty() {
                    return Err(told(probe::Error::EmptyPrompt));
                }
                let text = probe::text_of(model.vocab(), &ids);
                Ok(Prompt { text, ids })
            }
        }
    }

    /// The tokens of a text to complete.
    ///
    /// # Errors
    /// See [`Reading::prompt`]; no token is no error.
    pub fn tokens(&self, model: &Model, given: &Given) -> Result<Vec<Token>> {
        match given {
            Given::Text(text) => (self.0)
                .tokens(model, &Text::argument(text))
                .map_err(explain),
            Given::Ids(ids) => checked(model, ids),
        }
    }
}

/// The tokens of a conversation, `{"role", "content"}` each.
///
/// # Errors
/// A message without them; what the template refuses.
pub fn conversation(model: &Model, messages: &[(String, String)]) -> Result<Vec<Token>> {
    if messages.is_empty() {
        return Err(UsageError("the conversation is empty".to_owned()).into());
    }
    let messages = messages.iter();
    let messages: Vec<Message> = messages
        .map(|(role, content)| Message::new(role, content))
        .collect();
    chat::tokenize_chat(model, &messages).map_err(explain)
}

/// Ids as tokens of the model.
///
/// # Errors
/// An id outside the vocabulary.
pub fn checked(model: &Model, ids: &[i32]) -> Result<Vec<Token>> {
    let ids: Vec<Token> = ids.iter().copied().map(Token).collect();
    for &id in &ids {
        model.vocab().check(id).map_err(explain)?;
    }
    Ok(ids)
}

/// Numbers below `len`, from the end where they are negative.
///
/// # Errors
/// A number that is not there.
pub fn numbers(list: Option<&[i64]>, len: usize, what: &str) -> Result<Option<Vec<usize>>> {
    let one = |&n: &i64| {
        let at = match n < 0 {
            true => n.checked_add_unsigned(len as u64),
            false => Some(n),
        };
        let at = at.and_then(|at| usize::try_from(at).ok());
        at.filter(|&at| at < len).ok_or_else(|| {
            anyhow!(
                "{what} {n} of {len}, which are 0 to {}",
                len.saturating_sub(1)
            )
        })
    };
    list.map(|list| list.iter().map(one).collect()).transpose()
}
