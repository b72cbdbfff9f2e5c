//! Conversations, and the prompts that the model's chat template makes of them.

use std::collections::BTreeSet;

use modelve_runtime::chat::{self, Conversation, Message};
use modelve_runtime::{Error as RuntimeError, Grammar, Model, Reading, Token};
use serde_json::{Map, Value, json};

use super::messages::{ChatMessage, ResponseFormat, Tool, ToolChoice};
use super::turn::Turn;
use crate::error::{ApiError, Result};
use crate::knobs::schema_of;
use crate::reasoning::{self, Splitter};
use crate::tools::Syntax;

/// Maximum number of tools in a request.
const MOST_TOOLS: usize = 512;

/// A conversation and the options of its answer.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The messages.
    pub messages: Vec<ChatMessage>,
    /// The tools that the model may call.
    pub tools: Vec<Tool>,
    /// Whether it must call a tool, and which.
    pub choice: Option<ToolChoice>,
    /// Whether it may call several tools at once.
    pub several: bool,
    /// The form of the answer.
    pub format: Option<ResponseFormat>,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
    /// Whether the answer continues the last message; `None` means that it does if the message is
    /// the assistant's.
    pub continues_last: Option<bool>,
}

/// A conversation as the model reads it.
#[derive(Debug)]
pub struct Read {
    /// The token ids of the prompt.
    pub ids: Vec<Token>,
    /// The text of the prompt.
    pub text: String,
    /// The grammar that the answer must follow.
    pub grammar: Option<Grammar>,
    /// Control tokens whose names are part of the answer's text.
    pub shown: Vec<Token>,
    /// The parser that separates reasoning, text and calls.
    pub turn: Turn,
}

/// The tools of this turn.
enum Offer {
    /// No tool may be called.
    None,
    /// Any tool may be called.
    Any,
    /// One of these tools must be called.
    Forced(Vec<Tool>),
}

impl Asked {
    /// Renders and tokenizes the conversation with a template.
    ///
    /// # Errors
    /// Names the field at fault: no messages, content that is not text, an error of the template,
    /// or a schema that cannot be followed.
    pub fn read(&self, model: &Model, template: Option<&str>) -> Result<Read> {
        let Some(template) = template else {
            let message = "this model has no chat template: use /v1/completions";
            return Err(ApiError::wrong("messages", message));
        };
        let messages = self.messages()?;
        let continues_last = self.continues_last()?;
        if self.tools.len() > MOST_TOOLS {
            return Err(ApiError::wrong(
                "tools",
                format!("at most {MOST_TOOLS} tools"),
            ));
        }
        let offer = self.offer()?;
        let format = self.format()?;
        let mut grammar = format;
        let mut syntax = Syntax::of(template);
        let mut begins = String::new();
        if let Offer::Forced(tools) = &offer {
            syntax = syntax.forced();
            begins.push_str(syntax.begins());
            grammar = Some(self.forced(syntax, tools)?);
        }
        let knows_tools = template.contains("tools");
        let tools = match offer {
            Offer::None => None,
            _ => Some(serde_json::to_value(&self.tools).unwrap_or_default()),
        };
        let read = |begins: &str| {
            let conversation = Conversation {
                messages: &messages,
                tools: tools.as_ref(),
                variables: Some(&self.variables),
                continues_last,
                answer_start: begins,
                template: Some(template),
            };
            match knows_tools || (tools.is_none() && !is_about_tools(&messages)) {
                true => read_with(model, &conversation),
                false => read_without(model, &conversation, &self.tools),
            }
        };
        let (mut ids, mut text) = read(&begins)?;
        let thinks = reasoning::is_known_to(template);
        if thinks
            && grammar.is_some()
            && reasoning::is_open(text.strip_suffix(&*begins).unwrap_or(&text))
        {
            // A grammar that applies from the first character leaves no room for reasoning, so it
            // is closed at once.
            begins = format!("\n</think>\n\n{begins}");
            (ids, text) = read(&begins)?;
        }
        let mut turn = Turn::default();
        if thinks && grammar.is_none() {
            turn = turn.with_thoughts(Splitter::after(&text));
        }
        let mut shown = Vec::new();
        if !matches!(offer, Offer::None) {
            let names: BTreeSet<String> = self
                .tools
                .iter()
                .map(|tool| tool.function.name.clone())
                .collect();
            let begun = match offer {
                Offer::Forced(_) => syntax.begins(),
                _ => "",
            };
            turn = turn.with_calls(syntax, names, begun);
            for mark in syntax.marks() {
                let tokens = model.vocab().tokenize(mark, Reading::PromptPart)?;
                if let [token] = tokens[..] {
                    shown.push(token);
                }
            }
        }
        Ok(Read {
            ids,
            text,
            grammar,
            shown,
            turn,
        })
    }

    /// Returns the messages in the form that templates expect.
    fn messages(&self) -> Result<Vec<Message>> {
        if self.messages.is_empty() {
            return Err(ApiError::wrong("messages", "there are no messages"));
        }
        let all = self.messages.iter().enumerate();
        all.map(|(i, message)| message.read(&format!("messages[{i}]")))
            .collect()
    }

    /// Returns whether the answer continues the last message.
    fn continues_last(&self) -> Result<bool> {
        let is_said = |message: &&ChatMessage| {
            message.role == "assistant" && message.tool_calls.as_ref().is_none_or(Vec::is_empty)
        };
        let said = self.messages.iter().rev().take_while(is_said).count();
        match said {
            _ if self.continues_last == Some(false) => Ok(false),
            0 if self.continues_last == Some(true) => Err(ApiError::wrong(
                "continue_final_message",
                "the last message is not the assistant's",
            )),
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(ApiError::wrong(
                "messages",
                "the conversation ends with two messages of the assistant; the answer can only continue one",
            )),
        }
    }

    fn offer(&self) -> Result<Offer> {
        for (i, tool) in self.tools.iter().enumerate() {
            if tool.r#type != "function" {
                let message = format!("{:?} is not a known kind of tool: function", tool.r#type);
                return Err(ApiError::wrong(format!("tools[{i}].type"), message));
            }
            if tool.function.name.is_empty() {
                return Err(ApiError::wrong(
                    format!("tools[{i}].function.name"),
                    "the name is empty",
                ));
            }
        }
        let named = match &self.choice {
            None => None,
            Some(ToolChoice::Word(word)) => match word.as_str() {
                "none" => return Ok(Offer::None),
                "auto" => None,
                "required" if self.tools.is_empty() => {
                    return Err(ApiError::wrong(
                        "tool_choice",
                        "there are no tools to choose from",
                    ));
                }
                "required" => return Ok(Offer::Forced(self.tools.clone())),
                _ => {
                    let message = format!("{word:?} is not none, auto or required");
                    return Err(ApiError::wrong("tool_choice", message));
                }
            },
            Some(ToolChoice::Named(named)) => {
                let name = named
                    .function
                    .as_ref()
                    .map(|f| &f.name)
                    .or(named.name.as_ref());
                Some(name.ok_or_else(|| ApiError::wrong("tool_choice", "it names no function"))?)
            }
        };
        match named {
            None if self.tools.is_empty() => Ok(Offer::None),
            None => Ok(Offer::Any),
            Some(name) => match self.tools.iter().find(|tool| tool.function.name == *name) {
                Some(tool) => Ok(Offer::Forced(vec![tool.clone()])),
                None => {
                    let message = format!("there is no tool {name:?}");
                    Err(ApiError::wrong("tool_choice", message))
                }
            },
        }
    }

    /// Returns the grammar of an answer that must be a tool call.
    fn forced(&self, syntax: Syntax, tools: &[Tool]) -> Result<Grammar> {
        let mut described = Vec::with_capacity(tools.len());
        for tool in tools {
            let any = || json!({"type": "object"});
            let parameters = tool.function.parameters.clone().unwrap_or_else(any);
            if tools.len() > 1 {
                // The schemas are compiled one by one first, so that an error names the tool.
                let at = self
                    .tools
                    .iter()
                    .position(|t| t.function.name == tool.function.name);
                let param = format!("tools[{}].function.parameters", at.unwrap_or(0));
                schema_of(&parameters, &param)?;
            }
            described.push((tool.function.name.clone(), closed(parameters)));
        }
        schema_of(&syntax.schema(&described, self.several), "tools")
    }

    /// Returns the grammar of the answer's form.
    fn format(&self) -> Result<Option<Grammar>> {
        let Some(format) = &self.format else {
            return Ok(None);
        };
        let named = format
            .json_schema
            .as_ref()
            .and_then(|named| named.schema.as_ref());
        let (schema, param) = match (named, &format.schema) {
            (Some(schema), _) => (Some(schema), "response_format.json_schema.schema"),
            (None, schema) => (schema.as_ref(), "response_format.schema"),
        };
        match (format.r#type.as_str(), schema) {
            ("text", _) => Ok(None),
            ("json_object" | "json_schema", Some(schema)) => schema_of(schema, param).map(Some),
            ("json_object", None) => {
                schema_of(&json!({"type": "object"}), "response_format").map(Some)
            }
            ("json_schema", None) => Err(ApiError::wrong(
                "response_format.json_schema",
                "there is no schema",
            )),
            (other, _) => {
                let message = format!("{other:?} is not text, json_object or json_schema");
                Err(ApiError::wrong("response_format.type", message))
            }
        }
    }
}

/// Forbids properties that an object of the schema does not name, so that the model does not invent
/// arguments.
fn closed(mut schema: Value) -> Value {
    fn close(schema: &mut Value) {
        match schema {
            Value::Object(members) => {
                for (keyword, value) in members.iter_mut() {
                    match keyword.as_str() {
                        "const" | "enum" | "default" | "examples" => {}
                        "properties" | "$defs" | "definitions" => {
                            let named = value.as_object_mut();
                            named
                                .into_iter()
                                .flatten()
                                .for_each(|(_, schema)| close(schema));
                        }
                        _ => close(value),
                    }
                }
                if members.contains_key("properties") {
                    let open = Value::Bool(false);
                    members.entry("additionalProperties").or_insert(open);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(close),
            _ => {}
        }
    }
    close(&mut schema);
    schema
}

fn is_about_tools(messages: &[Message]) -> bool {
    messages
        .iter()
        .any(|message| message.role == "tool" || message.more.contains_key("tool_calls"))
}

/// Renders a conversation with a template that supports tools.
fn read_with(model: &Model, conversation: &Conversation<'_>) -> Result<(Vec<Token>, String)> {
    match chat::read_chat(model, conversation) {
        Err(RuntimeError::Template(_)) if is_about_tools(conversation.messages) => {
            // Some templates expect arguments as a string of JSON, which is their form in OpenAI's
            // API.
            let mut messages = conversation.messages.to_vec();
            for message in &mut messages {
                let calls = message
                    .more
                    .get_mut("tool_calls")
                    .and_then(Value::as_array_mut);
                for call in calls.into_iter().flatten() {
                    let arguments = &mut call["function"]["arguments"];
                    if !arguments.is_string() {
                        *arguments = Value::String(arguments.to_string());
                    }
                }
            }
            let conversation = Conversation {
                messages: &messages,
                ..*conversation
            };
            Ok(chat::read_chat(model, &conversation)?)
        }
        read => Ok(read?),
    }
}

/// Renders a conversation with a template that does not support tools; they are described in the
/// system message.
fn read_without(
    model: &Model,
    conversation: &Conversation<'_>,
    tools: &[Tool],
) -> Result<(Vec<Token>, String)> {
    let mut messages: Vec<Message> = conversation.messages.iter().map(in_words).collect();
    if conversation.tools.is_some() {
        let described: Vec<String> = tools
            .iter()
            .filter_map(|tool| serde_json::to_string(tool).ok())
            .collect();
        let about = format!(
            "You may call functions. They are:\n<tools>\n{}\n</tools>\n\
             To call one, answer with its name and arguments as JSON:\n\
             <tool_call>\n{{\"name\": \"…\", \"arguments\": {{…}}}}\n</tool_call>",
            described.join("\n")
        );
        let first = messages.iter().position(|message| message.role == "system");
        let mut system = messages.clone();
        match first {
            Some(at) => system[at].content = format!("{}\n\n{about}", system[at].content),
            None => system.insert(0, Message::new("system", &about)),
        }
        let told = Conversation {
            messages: &system,
            tools: None,
            ..*conversation
        };
        match chat::read_chat(model, &told) {
            // The template does not allow a system message.
            Err(RuntimeError::Template(_)) => {
                if let Some(user) = messages.iter_mut().find(|message| message.role == "user") {
                    user.content = format!("{about}\n\n{}", user.content);
                }
            }
            read => return Ok(read?),
        }
    }
    let told = Conversation {
        messages: &messages,
        tools: None,
        ..*conversation
    };
    Ok(chat::read_chat(model, &told)?)
}

/// Renders tool calls and their results as text.
fn in_words(message: &Message) -> Message {
    if message.role == "tool" {
        let text = format!("<tool_response>\n{}\n</tool_response>", message.content);
        return Message::new("user", &text);
    }
    let Some(calls) = message.more.get("tool_calls").and_then(Value::as_array) else {
        return message.clone();
    };
    let mut text = message.content.clone();
    for call in calls {
        if !text.is_empty() {
            text.push('\n');
        }
        let call = &call["function"];
        text.push_str(&format!("<tool_call>\n{call}\n</tool_call>"));
    }
    Message::new(&message.role, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_nobody_described_are_none() {
        let schema = json!({
            "properties": {
                "properties": {"type": "string"},
                "inner": {"anyOf": [{"properties": {"a": {}}}, {"type": "null"}]},
                "open": {"properties": {}, "additionalProperties": true},
                "fixed": {"const": {"properties": 1}},
            },
        });
        let closed = closed(schema);
        assert_eq!(closed["additionalProperties"], false);
        let inner = &closed["properties"];
        assert_eq!(inner["inner"]["anyOf"][0]["additionalProperties"], false);
        assert_eq!(inner["open"]["additionalProperties"], true);
        assert_eq!(inner["fixed"], json!({"const": {"properties": 1}}));
        assert_eq!(inner["properties"], json!({"type": "string"}));
    }
}
