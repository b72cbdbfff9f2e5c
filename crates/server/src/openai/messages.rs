//! Messages, tools and answer forms in the request.

use modelve_runtime::chat::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::error::{ApiError, Result};

/// A message.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text.
    pub content: Option<Content>,
    /// The reasoning of an assistant.
    pub reasoning_content: Option<String>,
    /// Name of the participant or of the tool.
    pub name: Option<String>,
    /// The tool calls of an assistant.
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The id of the call that a tool message answers.
    pub tool_call_id: Option<String>,
}

/// The content of a message: a string or a list of parts.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "a string or a list of parts with a type")]
pub enum Content {
    /// A string.
    Text(String),
    /// A list of parts.
    Parts(Vec<ContentPart>),
}

/// A part of a message.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ContentPart {
    /// `text`, `input_text` or `output_text`; other types are refused.
    pub r#type: String,
    /// The text.
    pub text: Option<String>,
    /// The text of a refusal.
    pub refusal: Option<String>,
}

/// A tool call.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ToolCall {
    /// Its id, which the tool message refers to.
    pub id: Option<String>,
    /// `function`.
    pub r#type: Option<String>,
    /// The tool and its arguments.
    pub function: FunctionCall,
}

/// The tool and its arguments.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct FunctionCall {
    /// Name of the tool.
    pub name: String,
    /// The arguments, as a string of JSON.
    #[serde(default)]
    #[schema(value_type = String)]
    pub arguments: Value,
}

/// A tool that the model may call.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct Tool {
    /// `function`.
    pub r#type: String,
    /// Its description.
    pub function: Function,
}

/// The description of a tool.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A JSON schema of its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
}

/// Whether a tool must be called, and which.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "none, auto, required or a function's name in an object"
)]
pub enum ToolChoice {
    /// `none`, `auto` or `required`.
    Word(String),
    /// A particular tool.
    Named(NamedTool),
}

/// A tool by name.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct NamedTool {
    /// The form of `/v1/chat/completions`.
    pub function: Option<NamedFunction>,
    /// The form of `/v1/responses`.
    pub name: Option<String>,
}

/// The name of a tool.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct NamedFunction {
    /// Its name.
    pub name: String,
}

/// The form of an answer.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    pub r#type: String,
    /// The schema in the form of `/v1/chat/completions`.
    pub json_schema: Option<NamedSchema>,
    /// The schema in the form of `/v1/responses` and llama.cpp's server.
    pub schema: Option<Value>,
}

/// A schema with a name.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct NamedSchema {
    /// The schema.
    pub schema: Option<Value>,
}

impl ChatMessage {
    /// Converts the message to the form that templates expect; `place` is its place in the request.
    ///
    /// # Errors
    /// Content that is not text.
    pub fn read(&self, place: &str) -> Result<Message> {
        let role = match self.role.as_str() {
            "developer" => "system",
            "function" => "tool",
            role => role,
        };
        let mut message = Message::new(role, &self.text(place)?);
        let mut more = |name: &str, value: &Option<String>| {
            if let Some(value) = value {
                message
                    .more
                    .insert(name.to_owned(), Value::String(value.clone()));
            }
        };
        more("name", &self.name);
        more("tool_call_id", &self.tool_call_id);
        more("reasoning_content", &self.reasoning_content);
        let calls = self.tool_calls.iter().flatten().map(|call| {
            // Templates render arguments themselves, most as JSON.
            let arguments = match &call.function.arguments {
                Value::String(text) => match serde_json::from_str(text) {
                    Ok(arguments @ Value::Object(_)) => arguments,
                    _ => Value::String(text.clone()),
                },
                arguments => arguments.clone(),
            };
            json!({
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": arguments},
            })
        });
        let calls: Vec<Value> = calls.collect();
        if !calls.is_empty() {
            message
                .more
                .insert("tool_calls".to_owned(), Value::Array(calls));
        }
        Ok(message)
    }

    /// Returns the text.
    fn text(&self, place: &str) -> Result<String> {
        let parts = match &self.content {
            None => {
                let may_be_silent = self.role == "assistant";
                return match may_be_silent {
                    true => Ok(String::new()),
                    false => Err(ApiError::wrong(
                        format!("{place}.content"),
                        format!("{place}.content is missing"),
                    )),
                };
            }
            Some(Content::Text(text)) => return Ok(text.clone()),
            Some(Content::Parts(parts)) => parts,
        };
        let mut text = String::new();
        for (i, part) in parts.iter().enumerate() {
            let words = match part.r#type.as_str() {
                "text" | "input_text" | "output_text" => &part.text,
                "refusal" => &part.refusal,
                other => {
                    let message = format!("{other:?} is not supported: this model reads text only");
                    return Err(ApiError::wrong(
                        format!("{place}.content[{i}].type"),
                        message,
                    ));
                }
            };
            let Some(words) = words else {
                let message = format!("{place}.content[{i}].text is missing");
                return Err(ApiError::wrong(
                    format!("{place}.content[{i}].text"),
                    message,
                ));
            };
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(words);
        }
        Ok(text)
    }
}
