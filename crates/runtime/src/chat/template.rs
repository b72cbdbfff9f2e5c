//! Checks a template's source and runs it on a conversation.

use std::rc::Rc;

use minijinja::machinery::{WhitespaceConfig, parse};

use super::eval::{Fault, Rendered, Run, Scope};
use super::text::{Builder, Text};
use super::value::Value;
use super::{Conversation, Message};
use crate::error::{Error, Result};

/// Maximum length of a template, in bytes. The longest in use have 30,000.
const MAX_SOURCE: usize = 256 << 10;
/// Maximum length and number of tags. They limit the recursion of minijinja's parser for chains of
/// operators or of `elif`.
const MAX_TAG: usize = 16 << 10;
const MAX_TAGS: usize = 10_000;
/// Maximum length and number of lines, which minijinja counts in 16 bits.
const MAX_LINE: usize = 60_000;
/// Stack size, enough for the longest chain. The system allocates only the pages that are used.
const STACK: usize = 512 << 20;

/// The variables of a template besides the messages.
pub(super) struct Surroundings<'a> {
    pub bos: Option<&'a str>,
    pub eos: Option<&'a str>,
}

/// Renders a conversation up to the start of the assistant's next turn. The contents of messages
/// are strings or, if the template only supports lists of typed parts, such lists.
///
/// # Errors
/// [`Error::Template`] if the template does not parse, fails, exceeds a limit, or leaves out a
/// message.
pub(super) fn render<T: Send>(
    source: &str,
    conversation: &Conversation<'_>,
    surroundings: &Surroundings<'_>,
    then: impl FnOnce(&Text) -> Result<T> + Send,
) -> Result<T> {
    check_size(source)?;
    let source = without_generation_tags(&source.replace("\r\n", "\n").replace('\r', "\n"));
    let work = || then(&either_way(&source, conversation, surroundings)?);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("template".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, work)
            .map_err(|error| Error::Template(format!("no thread to run it on: {error}")))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::Template("it cannot be read".to_owned())))
    })
}

/// Renders the messages, followed by what the assistant has already said: the given start of its
/// turn, and the message that it continues.
fn either_way(
    source: &str,
    conversation: &Conversation<'_>,
    surroundings: &Surroundings<'_>,
) -> Result<Text> {
    let begun = match conversation.messages.split_last() {
        Some((last, before)) if conversation.continues_last => {
            let before = Conversation {
                messages: before,
                ..*conversation
            };
            let number = u32::try_from(before.messages.len()).unwrap_or(u32::MAX);
            let said = Text::of_message(&last.content, number);
            (rendered(source, &before, surroundings)?, said)
        }
        _ => (rendered(source, conversation, surroundings)?, Text::own("")),
    };
    let mut whole = Builder::default();
    whole.push(&begun.0);
    whole.push_own(conversation.answer_start);
    whole.push(&begun.1);
    Ok(whole.finish())
}

fn rendered(
    source: &str,
    conversation: &Conversation<'_>,
    surroundings: &Surroundings<'_>,
) -> Result<Text> {
    let messages = conversation.messages;
    let plain = run(source, conversation, surroundings, false);
    let lost = match &plain {
        Ok(rendered) => left_out(&rendered.text, messages),
        Err(_) => None,
    };
    if plain.is_ok() && lost.is_none() {
        return plain.map(|rendered| rendered.text);
    }
    if let Ok(typed) = run(source, conversation, surroundings, true)
        && left_out(&typed.text, messages).is_none()
    {
        return Ok(typed.text);
    }
    let rendered = plain?;
    match lost {
        // A message that is not in the text is accepted if the template branches on it.
        Some(at) if !u32::try_from(at).is_ok_and(|at| rendered.looked_at.contains(&at)) => {
            Err(Error::Template(format!(
                "it leaves out what message {} ({}) says",
                at + 1,
                messages[at].role
            )))
        }
        _ => Ok(rendered.text),
    }
}

/// The first message, except the assistant's, of which nothing is in the text. The assistant's may
/// be left out, because templates remove earlier reasoning.
fn left_out(text: &Text, messages: &[Message]) -> Option<usize> {
    let there: std::collections::BTreeSet<u32> = text.messages().collect();
    messages.iter().enumerate().position(|(at, message)| {
        message.role != "assistant"
            && !message.content.trim().is_empty()
            && !u32::try_from(at).is_ok_and(|at| there.contains(&at))
    })
}

fn run(
    source: &str,
    conversation: &Conversation<'_>,
    surroundings: &Surroundings<'_>,
    typed: bool,
) -> Result<Rendered> {
    let whitespace = WhitespaceConfig {
        keep_trailing_newline: false,
        lstrip_blocks: true,
        trim_blocks: true,
    };
    let template = parse(source, "template", Default::default(), whitespace)
        .map_err(|error| in_words(&error))?;
    let messages = conversation.messages;
    let size = source.len()
        + conversation.tools.map_or(0, json_size)
        + messages
            .iter()
            .map(|m| m.content.len() + m.more.values().map(json_size).sum::<usize>() + 500)
            .sum::<usize>();
    let turns = messages.iter().enumerate().map(|(at, message)| {
        let number = u32::try_from(at).unwrap_or(u32::MAX);
        let text = Value::Text(Text::of_message(&message.content, number));
        let content = match typed {
            false => text,
            true => Value::list(vec![map(vec![
                ("type", Value::own("text")),
                ("text", text),
            ])]),
        };
        let mut members = vec![
            (Value::own("role"), Value::own(&message.role)),
            (Value::own("content"), content),
        ];
        for (name, value) in &message.more {
            members.push((Value::own(name), of_json(value, number)));
        }
        Value::Map(Rc::new(members))
    });
    let mut globals: Scope<'_> = Scope::new();
    for (name, value) in conversation.variables.into_iter().flatten() {
        globals.insert(name, of_json(value, NOBODY));
    }
    globals.insert("messages", Value::list(turns.collect()));
    globals.insert("add_generation_prompt", Value::Bool(true));
    let tools = conversation.tools;
    let tools = tools.map_or(Value::None, |tools| of_json(tools, NOBODY));
    globals.insert("tools", tools);
    globals.insert("documents", Value::None);
    for (name, token) in [
        ("bos_token", surroundings.bos),
        ("eos_token", surroundings.eos),
    ] {
        if let Some(token) = token {
            globals.insert(name, Value::own(token));
        }
    }
    Run::render(source, &template, globals, size).map_err(|Fault { what, line }| {
        Error::Template(match line {
            Some(line) => format!("line {line}: {what}"),
            None => what,
        })
    })
}

/// The source of texts that come from outside but from no message.
const NOBODY: u32 = u32::MAX;

/// Converts a JSON value, whose strings come from the message `source`.
fn of_json<'t>(value: &serde_json::Value, source: u32) -> Value<'t> {
    use serde_json::Value as Json;
    let text = |text: &str| Value::Text(Text::of_message(text, source));
    match value {
        Json::Null => Value::None,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => Value::Int(int),
            (None, float) => Value::Float(float.unwrap_or(f64::NAN)),
        },
        Json::String(string) => text(string),
        Json::Array(items) => Value::list(items.iter().map(|i| of_json(i, source)).collect()),
        Json::Object(members) => {
            let members = members.iter();
            Value::Map(Rc::new(
                members
                    .map(|(k, v)| (text(k), of_json(v, source)))
                    .collect(),
            ))
        }
    }
}

/// The approximate size of a value as JSON, in bytes.
fn json_size(value: &serde_json::Value) -> usize {
    use serde_json::Value as Json;
    8 + match value {
        Json::String(string) => string.len(),
        Json::Array(items) => items.iter().map(json_size).sum(),
        Json::Object(members) => members
            .iter()
            .map(|(k, v)| k.len() + 8 + json_size(v))
            .sum(),
        _ => 0,
    }
}

fn map<'t>(members: Vec<(&str, Value<'t>)>) -> Value<'t> {
    let members = members.into_iter();
    Value::Map(Rc::new(members.map(|(k, v)| (Value::own(k), v)).collect()))
}

fn in_words(error: &minijinja::Error) -> Error {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::Template(match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    })
}

fn check_size(source: &str) -> Result<()> {
    let fault = |what: String| Err(Error::Template(what));
    if source.len() > MAX_SOURCE {
        return fault(format!("it is longer than {} KiB", MAX_SOURCE >> 10));
    }
    if source.lines().count() > MAX_LINE || source.lines().any(|line| line.len() > MAX_LINE) {
        return fault(format!(
            "it has more than {MAX_LINE} lines or a line as long"
        ));
    }
    let mut tags = 0;
    let mut rest = source;
    while let Some(start) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let end = if rest[start..].starts_with("{{") {
            "}}"
        } else {
            "%}"
        };
        rest = &rest[start + 2..];
        let len = rest.find(end).unwrap_or(rest.len());
        tags += 1;
        if len > MAX_TAG {
            return fault(format!("a tag is longer than {} KiB", MAX_TAG >> 10));
        }
        rest = &rest[len..];
    }
    match tags > MAX_TAGS {
        true => fault(format!("it has more than {MAX_TAGS} tags")),
        false => Ok(()),
    }
}

/// Replaces `{% generation %}` by `{% with %}`. It marks the assistant's text for training, and is
/// otherwise a block with a scope of its own.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let name = tag
            .trim_matches(['{', '%', '}'])
            .trim_matches(['-', '+'])
            .trim();
        match name {
            "generation" => out.push_str(&tag.replacen("generation", "with", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}
