//! Conversations in a model's own template, with the people's words kept words.
//!
//! Templates are Jinja, as transformers sets it up. minijinja reads them; they are run here, as
//! neither of two things can be had from an engine that runs them: every character carries along
//! whether a person wrote it, through whatever the template does to it, so that control tokens
//! are looked for in what the template wrote alone; and every step and byte is counted, so that
//! no template takes all memory or runs on.

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
    /// What else templates may ask of it: `tool_calls`, `tool_call_id`, `name`,
    /// `reasoning_content`.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A turn.
    pub fn new(role: &str, content: &str) -> Self {
        Message {
            role: role.to_owned(),
            content: content.to_owned(),
            more: serde_json::Map::new(),
        }
    }
}

/// A conversation, and what its template is told besides.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conversation<'a> {
    /// Its turns.
    pub messages: &'a [Message],
    /// What the model may call, as OpenAI's API describes tools: a list.
    pub tools: Option<&'a serde_json::Value>,
    /// What is told to the template by other names, such as `enable_thinking`.
    pub variables: Option<&'a serde_json::Map<String, serde_json::Value>>,
    /// Whether the assistant goes on with the last message instead of beginning one.
    pub goes_on: bool,
    /// What the assistant's turn begins with, as a template would have written it.
    pub begins: &'a str,
    /// The template; none: the model's own.
    pub template: Option<&'a str>,
}

/// The tokens of a conversation up to where the assistant is to speak.
///
/// # Errors
/// [`Error::Template`]: the model has none, it fails, or it leaves out what somebody says; errors
/// of [`Vocab::tokenize`](crate::Vocab::tokenize).
pub fn tokenize_chat(model: &Model, messages: &[Message]) -> Result<Vec<Token>> {
    let conversation = Conversation {
        messages,
        ..Conversation::default()
    };
    Ok(read_chat(model, &conversation)?.0)
}

/// The tokens of a conversation up to where the assistant is to speak, and the text they are of.
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

/// What a template makes of a conversation, up to where the assistant is to speak, as a text.
///
/// # Errors
/// [`Error::Template`]: it does not parse, fails, goes beyond a limit of time, memory or depth,
/// or leaves out what somebody says.
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

/// Roles become part of what the template writes, so they are words.
fn check_roles(messages: &[Message]) -> Result<()> {
    let is_word = |role: &str| {
        let ok = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ');
        !role.is_empty() && role.chars().all(ok)
    };
    match messages.iter().find(|message| !is_word(&message.role)) {
        Some(message) => Err(Error::Template(format!(
            "{:?} is no role; roles are system, user and assistant",
            message.role
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
