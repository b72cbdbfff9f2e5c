//! Renders conversations with a model's chat template, so that text in messages never becomes
//! control tokens.
//!
//! Templates are Jinja, as transformers configures it. minijinja parses them, but they are run
//! here, for two properties that template engines do not offer. Every character records whether it
//! comes from a message, through all operations of the template, so that only text that the
//! template wrote can become control tokens. And every step and byte is counted, so that no
//! template takes all memory or runs forever.

mod compute;
mod eval;
mod filter;
mod format;
mod function;
mod json;
mod method;
mod statement;
mod template;
mod test;
mod text;
mod tokens;
mod value;

use serde::Serialize;

use super::error::{Error, Result};
use super::model::Model;
use super::token::Token;
use template::Surroundings;
use tokens::tokens_of;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What they say.
    pub content: String,
    /// Other fields that templates may read: `tool_calls`, `tool_call_id`, `name`,
    /// `reasoning_content`.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// Makes a turn without other fields.
    pub fn new(role: &str, content: &str) -> Self {
        Message {
            role: role.to_owned(),
            content: content.to_owned(),
            more: serde_json::Map::new(),
        }
    }
}

/// A conversation, and the other variables of its template.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conversation<'a> {
    /// Its turns.
    pub messages: &'a [Message],
    /// The tools that the model may call: a list, in the format of OpenAI's API.
    pub tools: Option<&'a serde_json::Value>,
    /// Other variables of the template, such as `enable_thinking`.
    pub variables: Option<&'a serde_json::Map<String, serde_json::Value>>,
    /// Whether the assistant continues the last message instead of starting a new one.
    pub continues_last: bool,
    /// The start of the assistant's turn, treated as if the template had written it.
    pub answer_start: &'a str,
    /// The template; `None` for the model's own.
    pub template: Option<&'a str>,
}

/// Converts a conversation to tokens, up to the start of the assistant's next turn.
///
/// # Errors
/// [`Error::Template`] if the model has no template, if it fails, or if it leaves out a message;
/// the errors of [`Vocab::tokenize`](crate::Vocab::tokenize).
pub fn tokenize_chat(model: &Model, messages: &[Message]) -> Result<Vec<Token>> {
    let conversation = Conversation {
        messages,
        ..Conversation::default()
    };
    Ok(read_chat(model, &conversation)?.0)
}

/// Converts a conversation to tokens, up to the start of the assistant's next turn; returns them
/// and their text.
///
/// # Errors
/// See [`tokenize_chat`].
pub fn read_chat(model: &Model, conversation: &Conversation<'_>) -> Result<(Vec<Token>, String)> {
    let own = model.facts().chat_template.as_deref();
    let Some(source) = conversation.template.or(own) else {
        return Err(Error::Template("the model has none".to_owned()));
    };
    check_roles(conversation.messages)?;
    let vocab = model.vocab();
    let name = |token: Option<Token>| -> Result<Option<String>> {
        let bytes = token.map(|token| vocab.piece(token, true)).transpose()?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let (bos, eos) = (name(vocab.bos())?, name(vocab.eos())?);
    let surroundings = Surroundings {
        bos: bos.as_deref(),
        eos: eos.as_deref(),
    };
    template::render(source, conversation, &surroundings, |text| {
        let tokens = tokens_of(vocab, &text.pieces(), bos.as_deref())?;
        Ok((tokens, text.as_str().to_owned()))
    })
}

/// Renders a conversation with a template as text, up to the start of the assistant's next turn.
///
/// # Errors
/// [`Error::Template`] if the template does not parse, fails, exceeds a limit of time, memory or
/// depth, or leaves out a message.
pub fn render_chat(
    template: &str,
    messages: &[Message],
    bos: Option<&str>,
    eos: Option<&str>,
) -> Result<String> {
    check_roles(messages)?;
    let surroundings = Surroundings { bos, eos };
    let conversation = Conversation {
        messages,
        ..Conversation::default()
    };
    template::render(template, &conversation, &surroundings, |text| {
        Ok(text.as_str().to_owned())
    })
}

/// Checks that roles are plain words, because they count as text that the template wrote.
fn check_roles(messages: &[Message]) -> Result<()> {
    let is_word = |role: &str| {
        let ok = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ');
        !role.is_empty() && role.chars().all(ok)
    };
    match messages.iter().find(|message| !is_word(&message.role)) {
        Some(message) => Err(Error::Template(format!(
            "{:?} is not a role; roles are system, user and assistant",
            message.role
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
