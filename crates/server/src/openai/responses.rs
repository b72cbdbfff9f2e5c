//! `/v1/responses`: the newer form of chat completions. Nothing is stored.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use modelve_runtime::{Finish, Request};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use utoipa::ToSchema;

use super::chat::call_id;
use super::completions::{all, check_length};
use super::conversation::Asked;
use super::messages::{
    ChatMessage, Content, Function, FunctionCall, ResponseFormat, Tool, ToolCall, ToolChoice,
};
use super::turn::{Delta, Turn};
use super::types::Usage;
use crate::app::{App, Means, Read};
use crate::body;
use crate::engine_thread::{Control, Told};
use crate::error::{ApiError, Result};
use crate::knobs::{self, Knobs};
use crate::sse::{self, Events, Gone};
use crate::tools::Call;

/// Request to `/v1/responses`, without sampling parameters.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ResponseRequest {
    /// The user's message, or the whole conversation.
    input: Input,
    /// A system message before the conversation.
    instructions: Option<String>,
    /// Maximum number of tokens in the answer.
    max_output_tokens: Option<usize>,
    /// The tools that the model may call.
    tools: Option<Vec<FlatTool>>,
    /// Whether it must call a tool, and which.
    tool_choice: Option<ToolChoice>,
    /// Whether it may call several tools at once.
    parallel_tool_calls: Option<bool>,
    /// The form of the answer.
    text: Option<TextForm>,
    /// Whether to stream the answer.
    stream: Option<bool>,
    /// Not supported, because nothing is stored: an error unless null.
    previous_response_id: Option<String>,
}

/// The input of a request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string or a list of items")]
pub enum Input {
    /// A message of the user.
    Text(String),
    /// The items of a conversation.
    Items(Vec<Item>),
}

/// An item of a conversation: a message, a tool call, or its result.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Item {
    /// `message` (default), `function_call`, `function_call_output` or `reasoning`.
    r#type: Option<String>,
    /// Of a message: the role.
    role: Option<String>,
    /// Of a message: the text.
    content: Option<Content>,
    /// Of a call or its output: the id of the call.
    call_id: Option<String>,
    /// Of a call: the name of the tool.
    name: Option<String>,
    /// Of a call: the arguments, as a string of JSON.
    arguments: Option<String>,
    /// Of a call's output: the text.
    output: Option<Content>,
}

/// A tool in the form of `/v1/responses`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct FlatTool {
    /// `function`.
    r#type: String,
    /// Its name.
    name: Option<String>,
    /// What it does.
    description: Option<String>,
    /// A JSON schema of its arguments.
    parameters: Option<Value>,
}

/// The form of an answer.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TextForm {
    /// The form.
    format: Option<ResponseFormat>,
}

struct Prepared {
    request: Request,
    control: Option<Control>,
    turn: Turn,
    stream: bool,
}

/// `/v1/responses`.
pub async fn respond(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    let ready = app.ready()?;
    let prepared = ready.read(bytes, prepare).await?;
    let (requests, control) = (vec![prepared.request], prepared.control);
    let told = ready.submit(requests, control, ("input", "input")).await?;
    let mut telling = Telling {
        id: crate::name("resp_"),
        created: crate::unix_time(),
        model: app.config.model.clone(),
        turn: prepared.turn,
        output: Vec::new(),
        open: None,
        number: 0,
    };
    if prepared.stream {
        return Ok(sse::answer(move |events| telling.stream(told, events)));
    }
    let mut completions = all(told, 1).await?;
    let completion = completions.pop();
    let completion = completion.ok_or_else(|| ApiError::internal("there is no answer"))?;
    let said = std::mem::take(&mut telling.turn).whole(&completion.text);
    if !said.thoughts.is_empty() {
        telling.output.push(telling.thoughts(&said.thoughts));
    }
    if !said.text.is_empty() || said.calls.is_empty() {
        telling
            .output
            .push(message(&crate::name("msg_"), &said.text, "completed"));
    }
    for call in &said.calls {
        telling.output.push(call_item(
            &crate::name("fc_"),
            &call_id(),
            call,
            "completed",
        ));
    }
    let mut usage = Usage::default();
    usage.add(&completion, true);
    let whole = telling.whole(status(completion.finish), Some(usage));
    Ok(Json(whole).into_response())
}

/// Reads and validates the request.
fn prepare(bytes: &Bytes, means: &Means) -> Result<Prepared> {
    let (model, limit) = (&means.model, means.limit);
    let body = body::json(bytes)?;
    let asked: ResponseRequest = body::parse(&body)?;
    let knobs: Knobs = body::parse(&body)?;
    if asked.previous_response_id.is_some() {
        let message = "nothing is stored: send the earlier messages in input";
        return Err(ApiError::wrong("previous_response_id", message));
    }
    let mut messages = Vec::new();
    if let Some(instructions) = asked.instructions {
        messages.push(said("system", instructions));
    }
    match asked.input {
        Input::Text(text) => messages.push(said("user", text)),
        Input::Items(items) => {
            for (i, item) in items.into_iter().enumerate() {
                item.add_to(&mut messages, &format!("input[{i}]"))?;
            }
        }
    }
    let mut tools = Vec::new();
    for (i, tool) in asked.tools.into_iter().flatten().enumerate() {
        if tool.r#type != "function" {
            let message = format!("{:?} is not a known kind of tool: function", tool.r#type);
            return Err(ApiError::wrong(format!("tools[{i}].type"), message));
        }
        let missing = || ApiError::wrong(format!("tools[{i}].name"), "the name is missing");
        tools.push(Tool {
            r#type: tool.r#type,
            function: Function {
                name: tool.name.ok_or_else(missing)?,
                description: tool.description,
                parameters: tool.parameters,
            },
        });
    }
    let conversation = Asked {
        messages,
        tools,
        choice: asked.tool_choice,
        several: asked.parallel_tool_calls.unwrap_or(true),
        format: asked.text.and_then(|text| text.format),
        ..Asked::default()
    };
    let read = conversation.read(model, means.template.as_deref())?;
    let mut options = knobs.options(knobs::OPENAI, model.vocab(), read.grammar)?;
    options.max_tokens = asked
        .max_output_tokens
        .unwrap_or_else(|| (means.max_tokens).min(limit.saturating_sub(read.ids.len()).max(1)));
    options.shown = read.shown;
    check_length(read.ids.len(), options.max_tokens, limit, "input")?;
    Ok(Prepared {
        control: knobs.control(means)?,
        request: Request {
            prompt: read.ids,
            seed: knobs.seed(),
            options: Arc::new(options),
        },
        turn: read.turn,
        stream: asked.stream.unwrap_or(false),
    })
}

fn said(role: &str, text: String) -> ChatMessage {
    ChatMessage {
        role: role.to_owned(),
        content: Some(Content::Text(text)),
        ..ChatMessage::default()
    }
}

impl Item {
    fn add_to(self, messages: &mut Vec<ChatMessage>, place: &str) -> Result<()> {
        let missing = |field: &str| {
            let param = format!("{place}.{field}");
            ApiError::wrong(param.clone(), format!("{param} is missing"))
        };
        match self.r#type.as_deref().unwrap_or("message") {
            "message" => messages.push(ChatMessage {
                role: self.role.ok_or_else(|| missing("role"))?,
                content: Some(self.content.ok_or_else(|| missing("content"))?),
                ..ChatMessage::default()
            }),
            "function_call" => {
                let call = ToolCall {
                    id: self.call_id,
                    r#type: None,
                    function: FunctionCall {
                        name: self.name.ok_or_else(|| missing("name"))?,
                        arguments: Value::String(self.arguments.unwrap_or_default()),
                    },
                };
                // Calls that follow text or other calls belong to the same turn.
                match messages.last_mut() {
                    Some(last) if last.role == "assistant" => {
                        last.tool_calls.get_or_insert_default().push(call);
                    }
                    _ => messages.push(ChatMessage {
                        role: "assistant".to_owned(),
                        tool_calls: Some(vec![call]),
                        ..ChatMessage::default()
                    }),
                }
            }
            "function_call_output" => messages.push(ChatMessage {
                role: "tool".to_owned(),
                content: Some(self.output.ok_or_else(|| missing("output"))?),
                tool_call_id: self.call_id,
                ..ChatMessage::default()
            }),
            // Earlier reasoning is not part of the prompt.
            "reasoning" => {}
            other => {
                let message = format!("{other:?} is not a known kind of item");
                return Err(ApiError::wrong(format!("{place}.type"), message));
            }
        }
        Ok(())
    }
}

fn status(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "completed",
        Finish::Length | Finish::Cancelled => "incomplete",
    }
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn message(id: &str, text: &str, status: &str) -> Value {
    let content = match status {
        "in_progress" => json!([]),
        _ => json!([text_part(text)]),
    };
    json!({"id": id, "type": "message", "role": "assistant", "status": status, "content": content})
}

fn call_item(id: &str, call_id: &str, call: &Call, status: &str) -> Value {
    let arguments = match status {
        "in_progress" => "",
        _ => &call.arguments,
    };
    json!({
        "id": id, "type": "function_call", "status": status, "call_id": call_id,
        "name": call.name, "arguments": arguments,
    })
}

/// The state of the answer.
struct Telling {
    id: String,
    created: u64,
    model: String,
    turn: Turn,
    output: Vec<Value>,
    /// The item that is being streamed.
    open: Option<Open>,
    /// Number of events that were sent.
    number: u64,
}

/// An item that is being streamed.
struct Open {
    id: String,
    text: String,
    thoughts: bool,
}

impl Telling {
    fn thoughts(&self, text: &str) -> Value {
        json!({
            "id": crate::name("rs_"), "type": "reasoning", "summary": [],
            "content": [{"type": "reasoning_text", "text": text}],
        })
    }

    fn whole(&self, status: &str, usage: Option<Usage>) -> Value {
        let usage = usage.map(|usage| {
            json!({
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": usage.prompt_tokens_details.cached_tokens},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.total_tokens,
            })
        });
        let incomplete = (status == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
        json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status,
            "error": null, "incomplete_details": incomplete, "instructions": null,
            "model": self.model, "output": self.output, "parallel_tool_calls": true,
            "tool_choice": "auto", "tools": [], "store": false, "usage": usage, "metadata": {},
            "temperature": null, "top_p": null,
        })
    }

    async fn send(
        &mut self,
        events: &Events,
        kind: &str,
        mut part: Value,
    ) -> std::result::Result<(), Gone> {
        part["type"] = kind.into();
        part["sequence_number"] = self.number.into();
        self.number += 1;
        events.send_named(kind, &part).await
    }

    /// Streams the answer.
    async fn stream(
        mut self,
        mut told: UnboundedReceiver<(usize, Told)>,
        events: Events,
    ) -> std::result::Result<(), Gone> {
        let begun = self.whole("in_progress", None);
        self.send(&events, "response.created", json!({"response": begun}))
            .await?;
        self.send(&events, "response.in_progress", json!({"response": begun}))
            .await?;
        let mut sent = 0;
        while let Some((_, part)) = told.recv().await {
            match part {
                Told::Prompt(_) => {}
                Told::Token { text, .. } => {
                    sent += text.len();
                    for delta in self.turn.push(&text) {
                        self.tell(&events, delta).await?;
                    }
                }
                Told::Done(completion) => {
                    let rest = completion.text.get(sent..).unwrap_or_default();
                    let mut deltas = self.turn.push(rest);
                    deltas.extend(self.turn.finish());
                    for delta in deltas {
                        self.tell(&events, delta).await?;
                    }
                    if self.open.is_none() && self.output.is_empty() {
                        self.tell(&events, Delta::Text(String::new())).await?;
                    }
                    self.close(&events).await?;
                    let mut usage = Usage::default();
                    usage.add(&completion, true);
                    let status = status(completion.finish);
                    let whole = self.whole(status, Some(usage));
                    let kind = format!("response.{status}");
                    return self.send(&events, &kind, json!({"response": whole})).await;
                }
                Told::Failed(error) => {
                    let mut whole = self.whole("failed", None);
                    whole["error"] = json!({"code": "server_error", "message": error.message()});
                    let part = json!({"response": whole});
                    return self.send(&events, "response.failed", part).await;
                }
            }
        }
        let part = json!({"code": "server_error", "message": "the server is shutting down", "param": null});
        self.send(&events, "error", part).await
    }

    async fn tell(&mut self, events: &Events, delta: Delta) -> std::result::Result<(), Gone> {
        let (text, thoughts) = match delta {
            Delta::Thought(text) => (text, true),
            Delta::Text(text) => (text, false),
            Delta::Call(call) => {
                self.close(events).await?;
                return self.tell_call(events, &call).await;
            }
        };
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.thoughts != thoughts)
        {
            self.close(events).await?;
        }
        let at = self.output.len();
        if self.open.is_none() {
            let (id, item, part) = match thoughts {
                true => {
                    let id = crate::name("rs_");
                    let item = json!({"id": id, "type": "reasoning", "summary": [], "content": []});
                    (id, item, json!({"type": "reasoning_text", "text": ""}))
                }
                false => {
                    let id = crate::name("msg_");
                    let item = message(&id, "", "in_progress");
                    (id, item, text_part(""))
                }
            };
            let added = json!({"output_index": at, "item": item});
            self.send(events, "response.output_item.added", added)
                .await?;
            let added =
                json!({"item_id": id, "output_index": at, "content_index": 0, "part": part});
            self.send(events, "response.content_part.added", added)
                .await?;
            self.open = Some(Open {
                id,
                text: String::new(),
                thoughts,
            });
        }
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        open.text.push_str(&text);
        if text.is_empty() {
            return Ok(());
        }
        let mut part =
            json!({"item_id": open.id, "output_index": at, "content_index": 0, "delta": text});
        let kind = match thoughts {
            true => "response.reasoning_text.delta",
            false => {
                part["logprobs"] = json!([]);
                "response.output_text.delta"
            }
        };
        self.send(events, kind, part).await
    }

    async fn tell_call(&mut self, events: &Events, call: &Call) -> std::result::Result<(), Gone> {
        let (id, call_id, at) = (crate::name("fc_"), call_id(), self.output.len());
        let item = call_item(&id, &call_id, call, "in_progress");
        let added = json!({"output_index": at, "item": item});
        self.send(events, "response.output_item.added", added)
            .await?;
        let part = json!({"item_id": id, "output_index": at, "delta": call.arguments});
        self.send(events, "response.function_call_arguments.delta", part)
            .await?;
        let part = json!({
            "item_id": id, "output_index": at, "name": call.name, "arguments": call.arguments,
        });
        self.send(events, "response.function_call_arguments.done", part)
            .await?;
        let item = call_item(&id, &call_id, call, "completed");
        let done = json!({"output_index": at, "item": item});
        self.output.push(item);
        self.send(events, "response.output_item.done", done).await
    }

    /// Ends the item that is being streamed.
    async fn close(&mut self, events: &Events) -> std::result::Result<(), Gone> {
        let Some(Open { id, text, thoughts }) = self.open.take() else {
            return Ok(());
        };
        let at = self.output.len();
        let mut done = json!({"item_id": id, "output_index": at, "content_index": 0, "text": text});
        let (kind, part, item) = match thoughts {
            true => {
                let part = json!({"type": "reasoning_text", "text": text});
                let item = json!({"id": id, "type": "reasoning", "summary": [], "content": [part]});
                ("response.reasoning_text.done", part, item)
            }
            false => {
                done["logprobs"] = json!([]);
                let item = message(&id, &text, "completed");
                ("response.output_text.done", text_part(&text), item)
            }
        };
        self.send(events, kind, done).await?;
        let done = json!({"item_id": id, "output_index": at, "content_index": 0, "part": part});
        self.send(events, "response.content_part.done", done)
            .await?;
        self.output.push(item.clone());
        let done = json!({"output_index": at, "item": item});
        self.send(events, "response.output_item.done", done).await
    }
}
