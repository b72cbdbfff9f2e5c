//! The tool call syntaxes of model families, and their parsers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Call;

/// The tool call syntax of a model family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`: Hermes, Qwen and most others.
    Hermes,
    /// The answer is `{"name": …, "parameters": …}`: Llama 3.
    Llama,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}]`, or `[TOOL_CALLS]name[ARGS]{…}`: Mistral.
    Mistral,
    /// `<|tool_call|>[{"name": …, "arguments": …}]<|/tool_call|>`: Phi-4.
    Phi,
    /// `functools[{"name": …, "arguments": …}]`: Phi-4-mini, Firefunction.
    Functools,
    /// `<function=name>{…}</function>`: functionary.
    Function,
}

/// The result of parsing the beginning of a text as calls.
pub(super) enum Read {
    /// It may still become a call.
    Open,
    /// It is not a call.
    No,
    /// Calls, and their length in bytes.
    Calls(Vec<Call>, usize),
}

impl Syntax {
    /// Returns the syntax that a chat template describes.
    pub fn of(template: &str) -> Syntax {
        let known = [
            ("[TOOL_CALLS]", Syntax::Mistral),
            ("<tool_call>", Syntax::Hermes),
            ("<|tool_call|>", Syntax::Phi),
            ("functools", Syntax::Functools),
            ("<function=", Syntax::Function),
            ("<|python_tag|>", Syntax::Llama),
            ("ipython", Syntax::Llama),
        ];
        let found = known.iter().find(|(mark, _)| template.contains(mark));
        found.map_or(Syntax::Hermes, |(_, syntax)| *syntax)
    }

    /// Returns the texts that calls begin with.
    pub(super) fn openers(self) -> &'static [&'static str] {
        match self {
            Syntax::Hermes => &["<tool_call>"],
            Syntax::Llama => &["<|python_tag|>"],
            Syntax::Mistral => &["[TOOL_CALLS]"],
            Syntax::Phi => &["<|tool_call|>"],
            Syntax::Functools => &["functools["],
            Syntax::Function => &["<function="],
        }
    }

    /// Returns the names of control tokens that have to be visible for calls to be found.
    pub fn marks(self) -> &'static [&'static str] {
        match self {
            Syntax::Hermes => &["<tool_call>", "</tool_call>"],
            Syntax::Llama => &["<|python_tag|>"],
            Syntax::Mistral => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
            Syntax::Phi => &["<|tool_call|>", "<|/tool_call|>"],
            Syntax::Functools | Syntax::Function => &[],
        }
    }

    /// Returns the syntax in which a call can be forced: after the text that it [begins
    /// with](Syntax::begins) it is pure JSON.
    pub fn forced(self) -> Syntax {
        match self {
            Syntax::Function => Syntax::Hermes,
            syntax => syntax,
        }
    }

    /// Returns the text that a forced call begins with.
    pub fn begins(self) -> &'static str {
        match self {
            Syntax::Hermes | Syntax::Function => "<tool_call>\n",
            Syntax::Llama => "",
            Syntax::Mistral => "[TOOL_CALLS]",
            Syntax::Phi => "<|tool_call|>",
            Syntax::Functools => "functools",
        }
    }

    /// Returns the schema of forced calls of tools with these names and parameters; of several
    /// calls at once where the syntax allows a list.
    pub fn schema(self, tools: &[(String, Value)], several: bool) -> Value {
        let arguments = match self {
            Syntax::Llama => "parameters",
            _ => "arguments",
        };
        let one = |(name, parameters): &(String, Value)| {
            serde_json::json!({
                "type": "object",
                "properties": {"name": {"const": name}, arguments: parameters},
                "required": ["name", arguments],
                "additionalProperties": false,
            })
        };
        let mut calls: Vec<Value> = tools.iter().map(one).collect();
        let call = match calls.len() {
            1 => calls.remove(0),
            _ => serde_json::json!({"anyOf": calls}),
        };
        match self {
            Syntax::Mistral | Syntax::Phi | Syntax::Functools => {
                let mut list = serde_json::json!({"type": "array", "items": call, "minItems": 1});
                if !several {
                    list["maxItems"] = 1.into();
                }
                list
            }
            _ => call,
        }
    }

    /// Parses calls at the beginning of `text`. `last` means that no text follows.
    pub(super) fn read(self, text: &str, names: &BTreeSet<String>, last: bool) -> Read {
        match self {
            Syntax::Hermes => {
                let Some(body) = text.strip_prefix("<tool_call>") else {
                    return Read::No;
                };
                let inner = match body.trim_start() {
                    inner if inner.starts_with("<function=") => xml(inner, names),
                    inner if "<function=".starts_with(inner) => Read::Open,
                    inner => json(inner, names),
                };
                closed(text, body, inner, Close::Must("</tool_call>"), last)
            }
            Syntax::Llama => {
                let body = text.strip_prefix("<|python_tag|>").unwrap_or(text);
                let inner = json(body.trim_start(), names);
                closed(text, body, inner, Close::May(";"), last)
            }
            Syntax::Mistral => {
                let Some(body) = text.strip_prefix("[TOOL_CALLS]") else {
                    return Read::No;
                };
                let inner = body.trim_start();
                let inner = match inner.starts_with('[') || inner.is_empty() {
                    true => json(inner, names),
                    false => named(inner, names),
                };
                closed(text, body, inner, Close::May(""), last)
            }
            Syntax::Phi => {
                let Some(body) = text.strip_prefix("<|tool_call|>") else {
                    return Read::No;
                };
                let inner = json(body.trim_start(), names);
                closed(text, body, inner, Close::May("<|/tool_call|>"), last)
            }
            Syntax::Functools => {
                let Some(body) = text.strip_prefix("functools") else {
                    return Read::No;
                };
                closed(
                    text,
                    body,
                    json(body.trim_start(), names),
                    Close::May(""),
                    last,
                )
            }
            Syntax::Function => {
                let inner = tagged(text, names);
                closed(text, text, inner, Close::Must("</function>"), last)
            }
        }
    }
}

/// The text that closes calls.
enum Close {
    /// This text is required.
    Must(&'static str),
    /// This text is optional.
    May(&'static str),
}

/// Checks what closes the calls of `inner`, which were parsed from `body` at the end of `text`.
fn closed(text: &str, body: &str, inner: Read, close: Close, last: bool) -> Read {
    let Read::Calls(calls, len) = inner else {
        return inner;
    };
    let (mark, optional) = match close {
        Close::Must(mark) => (mark, false),
        Close::May(mark) => (mark, true),
    };
    let at = text.len() - body.len() + (body.len() - body.trim_start().len()) + len;
    let after = text[at..].trim_start();
    if let Some(behind) = after.strip_prefix(mark) {
        return Read::Calls(calls, text.len() - behind.len());
    }
    match (mark.starts_with(after), last) {
        (true, false) => Read::Open,
        // No more text comes.
        (true, true) => Read::Calls(calls, text.len()),
        (false, _) if optional => Read::Calls(calls, at),
        (false, _) => Read::No,
    }
}

/// Parses a JSON value at the beginning of a text, and returns its length in bytes as well; `None`
/// if it may still become one.
fn value(text: &str) -> Result<Option<(Value, usize)>, ()> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => Ok(Some((value, values.byte_offset()))),
        Some(Err(error)) if error.is_eof() => Ok(None),
        Some(Err(_)) => Err(()),
        None => Ok(None),
    }
}

/// Parses a call, or a list of calls, as JSON.
fn json(text: &str, names: &BTreeSet<String>) -> Read {
    match value(text) {
        Ok(None) => Read::Open,
        Err(()) => Read::No,
        Ok(Some((Value::Array(items), len))) => {
            let calls: Option<Vec<Call>> = items.iter().map(|item| call(item, names)).collect();
            match calls {
                Some(calls) if !calls.is_empty() => Read::Calls(calls, len),
                _ => Read::No,
            }
        }
        Ok(Some((value, len))) => match call(&value, names) {
            Some(call) => Read::Calls(vec![call], len),
            None => Read::No,
        },
    }
}

/// Parses a call that is an object.
fn call(value: &Value, names: &BTreeSet<String>) -> Option<Call> {
    let object = match value.get("function") {
        Some(function @ Value::Object(_)) => function,
        _ => value,
    };
    let name = object.get("name")?.as_str()?;
    if !names.contains(name) {
        return None;
    }
    let arguments = object.get("arguments").or_else(|| object.get("parameters"));
    Some(Call {
        name: name.to_owned(),
        arguments: match arguments {
            None | Some(Value::Null) => "{}".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(arguments) => arguments.to_string(),
        },
    })
}

/// Parses `name{…}`, with `[ARGS]` or `[CALL_ID]…[ARGS]` between name and arguments.
fn named(text: &str, names: &BTreeSet<String>) -> Read {
    let Some(end) = text.find(['{', '[']) else {
        return match names.iter().any(|name| name.starts_with(text.trim_end())) {
            true => Read::Open,
            false => Read::No,
        };
    };
    let name = text[..end].trim();
    if !names.contains(name) {
        return Read::No;
    }
    let Some(start) = text.find('{') else {
        return Read::Open;
    };
    arguments(name, &text[start..], start)
}

/// Parses the arguments of a call at the beginning of `text`, `start` bytes after the beginning of
/// the call.
fn arguments(name: &str, text: &str, start: usize) -> Read {
    match value(text) {
        Ok(None) => Read::Open,
        Ok(Some((arguments @ Value::Object(_), len))) => {
            let call = Call {
                name: name.to_owned(),
                arguments: arguments.to_string(),
            };
            Read::Calls(vec![call], start + len)
        }
        _ => Read::No,
    }
}

/// Parses `<function=name>{…}`.
fn tagged(text: &str, names: &BTreeSet<String>) -> Read {
    let Some(rest) = text.strip_prefix("<function=") else {
        return Read::No;
    };
    let Some(end) = rest.find('>') else {
        return Read::Open;
    };
    let name = rest[..end].trim();
    if !names.contains(name) {
        return Read::No;
    }
    let start = text.len() - rest.len() + end + 1;
    let body = &text[start..];
    let space = body.len() - body.trim_start().len();
    arguments(name, body.trim_start(), start + space)
}

/// Parses `<function=name><parameter=key>value</parameter>…</function>`, the syntax of Qwen3-Coder.
fn xml(text: &str, names: &BTreeSet<String>) -> Read {
    let Some(end) = text.find("</function>") else {
        return Read::Open;
    };
    let inner = &text["<function=".len()..end];
    let Some((name, mut rest)) = inner.split_once('>') else {
        return Read::No;
    };
    if !names.contains(name.trim()) {
        return Read::No;
    }
    let mut members = serde_json::Map::new();
    while let Some(start) = rest.find("<parameter=") {
        let Some((key, behind)) = rest[start + "<parameter=".len()..].split_once('>') else {
            return Read::No;
        };
        let (said, behind) = behind.split_once("</parameter>").unwrap_or((behind, ""));
        let said = said.strip_prefix('\n').unwrap_or(said);
        let said = said.strip_suffix('\n').unwrap_or(said);
        // JSON that is not a string keeps its type; everything else is a string.
        let value = match serde_json::from_str(said) {
            Ok(
                value @ (Value::Number(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_)),
            ) => value,
            _ => Value::String(said.to_owned()),
        };
        members.insert(key.trim().to_owned(), value);
        rest = behind;
    }
    let call = Call {
        name: name.trim().to_owned(),
        arguments: Value::Object(members).to_string(),
    };
    Read::Calls(vec![call], end + "</function>".len())
}
