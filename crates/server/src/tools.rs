//! Calls in what a model writes, in the ways that templates teach.
//!
//! A call is recognized when it is complete and names a tool that was offered; everything else
//! stays text.

use std::collections::BTreeSet;

use serde_json::Value;

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// Its arguments, as JSON.
    pub arguments: String,
}

/// A part of what a model writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Words.
    Text(String),
    /// A call.
    Call(Call),
}

/// How a family of models writes calls.
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

/// What came of reading the beginning of a text as calls.
enum Read {
    /// It may still become one.
    Open,
    /// It is none.
    No,
    /// Calls, and how many bytes they are.
    Calls(Vec<Call>, usize),
}

impl Syntax {
    /// The one that a template teaches.
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

    /// What calls begin with.
    fn openers(self) -> &'static [&'static str] {
        match self {
            Syntax::Hermes => &["<tool_call>"],
            Syntax::Llama => &["<|python_tag|>"],
            Syntax::Mistral => &["[TOOL_CALLS]"],
            Syntax::Phi => &["<|tool_call|>"],
            Syntax::Functools => &["functools["],
            Syntax::Function => &["<function="],
        }
    }

    /// Names of control tokens that must be seen for calls to be found.
    pub fn marks(self) -> &'static [&'static str] {
        match self {
            Syntax::Hermes => &["<tool_call>", "</tool_call>"],
            Syntax::Llama => &["<|python_tag|>"],
            Syntax::Mistral => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
            Syntax::Phi => &["<|tool_call|>", "<|/tool_call|>"],
            Syntax::Functools | Syntax::Function => &[],
        }
    }

    /// The one in which a call can be forced: after what it [begins with](Syntax::begins) it is
    /// JSON.
    pub fn forced(self) -> Syntax {
        match self {
            Syntax::Function => Syntax::Hermes,
            syntax => syntax,
        }
    }

    /// What a forced call begins with.
    pub fn begins(self) -> &'static str {
        match self {
            Syntax::Hermes | Syntax::Function => "<tool_call>\n",
            Syntax::Llama => "",
            Syntax::Mistral => "[TOOL_CALLS]",
            Syntax::Phi => "<|tool_call|>",
            Syntax::Functools => "functools",
        }
    }

    /// The schema of forced calls of tools with these names and parameters; several calls at
    /// once where the syntax has a list.
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

    /// Reads calls at the beginning of `text`. `last`: nothing follows it.
    fn read(self, text: &str, names: &BTreeSet<String>, last: bool) -> Read {
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

/// What closes calls.
enum Close {
    /// This.
    Must(&'static str),
    /// This, or nothing.
    May(&'static str),
}

/// The calls of `inner`, which was read from `body` at the end of `text` after white space, with
/// what closes them.
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
        // Nothing more comes.
        (true, true) => Read::Calls(calls, text.len()),
        (false, _) if optional => Read::Calls(calls, at),
        (false, _) => Read::No,
    }
}

/// A value of JSON at the beginning of a text, and its length in bytes; none: it may still
/// become one.
fn value(text: &str) -> Result<Option<(Value, usize)>, ()> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => Ok(Some((value, values.byte_offset()))),
        Some(Err(error)) if error.is_eof() => Ok(None),
        Some(Err(_)) => Err(()),
        None => Ok(None),
    }
}

/// A call, or a list of calls, as JSON.
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

/// A call as an object.
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

/// `name{…}`, with `[ARGS]` or `[CALL_ID]…[ARGS]` between them.
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

/// The arguments of a call at the beginning of `text`, which stands `start` bytes after the
/// beginning of the call.
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

/// `<function=name>{…}`.
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

/// `<function=name><parameter=key>value</parameter>…</function>`, as Qwen3-Coder writes it.
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
        // What is JSON but no string is meant so; everything else is a text.
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

/// Finds calls while a text comes in.
#[derive(Debug, Clone)]
pub struct Parser {
    syntax: Syntax,
    names: BTreeSet<String>,
    held: String,
    /// Whether anything but white space was told.
    begun: bool,
    /// Whether a call was told.
    called: bool,
    /// White space that is told when words follow.
    space: String,
    /// Bytes at the beginning that the model did not write.
    hidden: usize,
}

impl Parser {
    /// For calls of these tools.
    pub fn new(syntax: Syntax, names: BTreeSet<String>) -> Self {
        Parser {
            syntax,
            names,
            held: String::new(),
            begun: false,
            called: false,
            space: String::new(),
            hidden: 0,
        }
    }

    /// The text begins with `begun`, which the model did not write.
    pub fn begin(&mut self, begun: &str) {
        self.held.push_str(begun);
        self.hidden = begun.len();
    }

    /// What is certain with `text`.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        self.read(false)
    }

    /// What was held back, when no more comes.
    pub fn finish(&mut self) -> Vec<Part> {
        let mut parts = self.read(true);
        if !self.called && !self.space.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut self.space)));
        }
        parts
    }

    fn read(&mut self, last: bool) -> Vec<Part> {
        let mut parts = Vec::new();
        while !self.held.is_empty() {
            let Some(at) = self.opener() else {
                let sure = match last {
                    true => self.held.len(),
                    false => self.held.len() - overlap(&self.held, self.syntax.openers()),
                };
                self.tell(sure, &mut parts);
                break;
            };
            self.tell(at, &mut parts);
            match self.syntax.read(&self.held, &self.names, last) {
                Read::Calls(calls, len) => {
                    self.held.drain(..len);
                    self.space.clear();
                    self.called = true;
                    parts.extend(calls.into_iter().map(Part::Call));
                }
                Read::Open if !last => break,
                // Not a call: its first character is text, and what follows is looked at anew.
                Read::Open | Read::No => {
                    let first = self.held.chars().next().map_or(0, char::len_utf8);
                    self.tell(first, &mut parts);
                }
            }
        }
        parts
    }

    /// Where a call may begin.
    fn opener(&self) -> Option<usize> {
        let openers = self.syntax.openers().iter();
        let marked = openers.filter_map(|opener| self.held.find(opener)).min();
        if self.syntax == Syntax::Llama && !self.begun {
            let start = self.held.len() - self.held.trim_start().len();
            if self.held[start..].starts_with('{') {
                return Some(start);
            }
        }
        marked
    }

    /// Tells the first `len` bytes as words.
    fn tell(&mut self, len: usize, parts: &mut Vec<Part>) {
        let text: String = self.held.drain(..len).collect();
        let hidden = self.hidden.min(len);
        self.hidden -= hidden;
        let text = &text[hidden..];
        let words = text.trim_end();
        if words.is_empty() {
            self.space.push_str(text);
            return;
        }
        let mut told = std::mem::take(&mut self.space);
        told.push_str(words);
        self.space.push_str(&text[words.len()..]);
        self.begun = true;
        match parts.last_mut() {
            Some(Part::Text(before)) => before.push_str(&told),
            _ => parts.push(Part::Text(told)),
        }
    }
}

/// The longest end of `text` that is the beginning of one of `marks`.
pub fn overlap(text: &str, marks: &[&str]) -> usize {
    let of = |mark: &&str| {
        let longest = mark.len().saturating_sub(1).min(text.len());
        let ends = |&n: &usize| text.as_bytes().ends_with(&mark.as_bytes()[..n]);
        (1..=longest).rev().find(ends).unwrap_or(0)
    };
    marks.iter().map(of).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(syntax: Syntax, text: &str, size: usize) -> (String, Vec<(String, String)>) {
        let names = ["look", "go"].map(str::to_owned).into();
        let mut parser = Parser::new(syntax, names);
        let chars: Vec<char> = text.chars().collect();
        let mut parts = Vec::new();
        for part in chars.chunks(size) {
            parts.extend(parser.push(&part.iter().collect::<String>()));
        }
        parts.extend(parser.finish());
        let (mut words, mut calls) = (String::new(), Vec::new());
        for part in parts {
            match part {
                Part::Text(text) => words += &text,
                Part::Call(call) => calls.push((call.name, call.arguments)),
            }
        }
        (words, calls)
    }

    #[test]
    fn calls_are_found_in_every_family_wherever_the_text_is_cut() {
        use Syntax::*;
        let look = ("look", r#"{"at":"x"}"#);
        let go = ("go", "{}");
        for (syntax, text, words, calls) in [
            (
                Hermes,
                "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": \"x\"}}\n</tool_call>",
                "",
                vec![look],
            ),
            (
                Hermes,
                "Well.\n<tool_call>{\"name\":\"look\",\"arguments\":{\"at\":\"x\"}}</tool_call>\n<tool_call>{\"name\":\"go\"}</tool_call>\n",
                "Well.",
                vec![look, go],
            ),
            (
                Hermes,
                "<tool_call>{\"name\":\"go\",\"arguments\":\"{}\"}",
                "",
                vec![go],
            ),
            (
                Hermes,
                "<tool_call>\n<function=look>\n<parameter=at>\nx\n</parameter>\n</function>\n</tool_call>",
                "",
                vec![look],
            ),
            (
                Llama,
                "{\"name\": \"look\", \"parameters\": {\"at\": \"x\"}}",
                "",
                vec![look],
            ),
            (
                Llama,
                "<|python_tag|>{\"name\": \"go\", \"parameters\": {}}; {\"name\": \"look\", \"parameters\": {\"at\": \"x\"}}",
                "",
                vec![go, look],
            ),
            (
                Mistral,
                "[TOOL_CALLS] [{\"name\": \"look\", \"arguments\": {\"at\": \"x\"}}, {\"name\": \"go\", \"arguments\": {}}]",
                "",
                vec![look, go],
            ),
            (
                Mistral,
                "[TOOL_CALLS]look[CALL_ID]abc[ARGS]{\"at\": \"x\"}[TOOL_CALLS]go[ARGS]{}",
                "",
                vec![look, go],
            ),
            (
                Phi,
                "<|tool_call|>[{\"name\": \"look\", \"arguments\": {\"at\": \"x\"}}]<|/tool_call|>",
                "",
                vec![look],
            ),
            (
                Functools,
                "functools[{\"name\": \"look\", \"arguments\": {\"at\": \"x\"}}]",
                "",
                vec![look],
            ),
            (
                Function,
                "<function=look>{\"at\": \"x\"}</function>",
                "",
                vec![look],
            ),
        ] {
            for size in 1..40 {
                let (told, found) = parse(syntax, text, size);
                let found: Vec<(&str, &str)> = found
                    .iter()
                    .map(|(n, a)| (n.as_str(), a.as_str()))
                    .collect();
                assert_eq!(
                    (&*told, found),
                    (words, calls.clone()),
                    "{text:?} by {size}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_call_stays_text() {
        use Syntax::*;
        for (syntax, text) in [
            (Hermes, "A <tool> and <tool_call> are words.\n"),
            (
                Hermes,
                "<tool_call>{\"name\": \"fly\", \"arguments\": {}}</tool_call>",
            ),
            (Hermes, "<tool_call>{\"name\": \"look\""),
            (Hermes, "<tool_call>{broken}</tool_call> after"),
            (Hermes, "ends in <tool_c"),
            (Llama, "{\"answer\": 42} is JSON"),
            (Llama, "Say {\"name\": \"look\", \"parameters\": {}}"),
            (Llama, "{\"name\": \"fly\", \"parameters\": {}}"),
            (Mistral, "[TOOL_CALLS]fly[ARGS]{}"),
            (Phi, "<|tool_call|>[]<|/tool_call|>"),
            (Functools, "functools are many"),
            (Function, "<function=look>no arguments</function>"),
            (Hermes, "é <tool_call>é"),
            (Hermes, " \n "),
        ] {
            for size in 1..30 {
                let (words, calls) = parse(syntax, text, size);
                assert_eq!((&*words, calls.len()), (text, 0), "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn templates_tell_their_syntax() {
        assert_eq!(Syntax::of("… <tool_call>\\n{ …"), Syntax::Hermes);
        assert_eq!(Syntax::of("[TOOL_CALLS]"), Syntax::Mistral);
        assert_eq!(Syntax::of("Environment: ipython"), Syntax::Llama);
        assert_eq!(Syntax::of("<|tool_call|>"), Syntax::Phi);
        assert_eq!(Syntax::of("nothing"), Syntax::Hermes);
    }
}
