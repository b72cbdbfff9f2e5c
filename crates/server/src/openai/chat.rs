//! `/v1/chat/completions`: the next turn of a conversation.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use modelve_runtime::{Completion, Request, Step, Vocab};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::mpsc::UnboundedReceiver;
use utoipa::ToSchema;

use super::completions::{all, check_length, within};
use super::conversation::Asked;
use super::messages::{ChatMessage, ResponseFormat, Tool, ToolChoice};
use super::turn::{Delta, Said, Turn};
use super::types::{FINGERPRINT, StreamOptions, Usage, finish_reason};
use crate::app::{App, Means, Read};
use crate::body;
use crate::engine_thread::{Control, Told};
use crate::error::{ApiError, Result};
use crate::knobs::{self, Knobs};
use crate::logprobs::{self, ChatLogprobs};
use crate::sse::{self, Events, Gone};

/// Maximum number of answers to one conversation.
const MOST_ANSWERS: usize = 128;
/// Maximum number of likeliest tokens per generated token, as in OpenAI's API.
const MOST_LOGPROBS: usize = 20;

/// Request to `/v1/chat/completions`, without sampling parameters.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ChatRequest {
    /// The conversation. If the last message is the assistant's, the answer continues it.
    messages: Vec<ChatMessage>,
    /// Maximum number of tokens in the answer.
    max_completion_tokens: Option<usize>,
    /// The older name of `max_completion_tokens`.
    max_tokens: Option<usize>,
    /// Number of answers.
    #[schema(minimum = 1, maximum = 128)]
    n: Option<usize>,
    /// Whether to return the log-probability of each token.
    logprobs: Option<bool>,
    /// Number of likeliest tokens to return per generated token.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<usize>,
    /// The form of the answer.
    response_format: Option<ResponseFormat>,
    /// The tools that the model may call.
    tools: Option<Vec<Tool>>,
    /// Whether it must call a tool, and which.
    tool_choice: Option<ToolChoice>,
    /// Whether it may call several tools at once.
    parallel_tool_calls: Option<bool>,
    /// Whether to stream the answer.
    stream: Option<bool>,
    /// Options of a stream.
    stream_options: Option<StreamOptions>,
    /// Whether the answer continues the last message; default: true if it is the assistant's.
    continue_final_message: Option<bool>,
    /// Whether a new turn of the assistant begins: the opposite of `continue_final_message`.
    add_generation_prompt: Option<bool>,
    /// Further variables of the template, such as `enable_thinking`.
    chat_template_kwargs: Option<Map<String, Value>>,
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatAnswer {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: &'static str,
    choices: Vec<ChatChoice>,
    usage: Usage,
}

/// One of the answers to a conversation.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    index: usize,
    message: AnswerMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
}

/// The assistant's message.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnswerMessage {
    role: &'static str,
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<AnswerCall>,
}

/// A tool call of the assistant.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnswerCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: AnswerFunction,
}

/// The tool and its arguments.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnswerFunction {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

/// A part of a streamed answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChunk {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: &'static str,
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

/// A part of one of the answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChunkChoice {
    index: usize,
    delta: ChunkDelta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

/// The new part of the message.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ChunkDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Null together with the role, before any text.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<AnswerCall>,
}

/// A request that is ready to be computed.
struct Prepared {
    requests: Vec<Request>,
    control: Option<Control>,
    turn: Turn,
    logprobs: bool,
    stream: bool,
    include_usage: bool,
}

/// `/v1/chat/completions`.
pub async fn chat(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    let ready = app.ready()?;
    let mut prepared = ready.read(bytes, prepare).await?;
    let requests = std::mem::take(&mut prepared.requests);
    let count = requests.len();
    let control = prepared.control.take();
    let told = ready.submit(requests, control, ("n", "messages")).await?;
    let telling = Telling {
        id: crate::name("chatcmpl-"),
        created: crate::unix_time(),
        model: app.config.model.clone(),
        vocab: ready.means.model.vocab().clone(),
        prepared,
        count,
    };
    if telling.prepared.stream {
        return Ok(sse::answer(move |events| telling.stream(told, events)));
    }
    let completions = all(told, count).await?;
    Ok(Json(telling.whole(completions)).into_response())
}

/// Reads and validates the request.
fn prepare(bytes: &Bytes, means: &Means) -> Result<Prepared> {
    let (model, limit) = (&means.model, means.limit);
    let body = body::json(bytes)?;
    let asked: ChatRequest = body::parse(&body)?;
    let knobs: Knobs = body::parse(&body)?;
    let n = within("n", asked.n.unwrap_or(1), 1, MOST_ANSWERS)?;
    let top = asked.top_logprobs.unwrap_or(0);
    within("top_logprobs", top, 0, MOST_LOGPROBS)?;
    let logprobs = asked.logprobs.unwrap_or(false);
    if top > 0 && !logprobs {
        let message = "top_logprobs needs logprobs: true";
        return Err(ApiError::wrong("top_logprobs", message));
    }
    let continues_last = match (asked.continue_final_message, asked.add_generation_prompt) {
        (Some(true), Some(true)) => {
            let message = "the answer cannot both continue a message and begin a new one";
            return Err(ApiError::wrong("continue_final_message", message));
        }
        (None, Some(true)) => Some(false),
        (continues_last, _) => continues_last,
    };
    let conversation = Asked {
        messages: asked.messages,
        tools: asked.tools.unwrap_or_default(),
        choice: asked.tool_choice,
        several: asked.parallel_tool_calls.unwrap_or(true),
        format: asked.response_format,
        variables: asked.chat_template_kwargs.unwrap_or_default(),
        continues_last,
    };
    let read = conversation.read(model, means.template.as_deref())?;
    let mut options = knobs.options(knobs::OPENAI, model.vocab(), read.grammar)?;
    options.max_tokens = (asked.max_completion_tokens.or(asked.max_tokens))
        .unwrap_or_else(|| (means.max_tokens).min(limit.saturating_sub(read.ids.len()).max(1)));
    options.logprobs = logprobs;
    options.top = top;
    options.shown = read.shown;
    check_length(read.ids.len(), options.max_tokens, limit, "messages")?;
    let options = Arc::new(options);
    let seed = knobs.seed();
    let requests = (0..n as u32).map(|i| Request {
        prompt: read.ids.clone(),
        seed: seed.wrapping_add(i),
        options: Arc::clone(&options),
    });
    Ok(Prepared {
        requests: requests.collect(),
        control: knobs.control(means)?,
        turn: read.turn,
        logprobs,
        stream: asked.stream.unwrap_or(false),
        include_usage: asked
            .stream_options
            .is_some_and(|options| options.include_usage.unwrap_or(false)),
    })
}

/// The form of the answer.
struct Telling {
    id: String,
    created: u64,
    model: String,
    vocab: Vocab,
    prepared: Prepared,
    count: usize,
}

/// Returns an id for a tool call.
pub fn call_id() -> String {
    format!("call_{:016x}", crate::random())
}

impl Telling {
    fn logprobs(&self, steps: &[Step]) -> Option<ChatLogprobs> {
        self.prepared.logprobs.then(|| ChatLogprobs {
            content: steps
                .iter()
                .map(|step| logprobs::chat(&self.vocab, step))
                .collect(),
        })
    }

    /// Returns the complete answer.
    fn whole(&self, completions: Vec<Completion>) -> ChatAnswer {
        let mut usage = Usage::default();
        let mut choices = Vec::with_capacity(completions.len());
        for (index, completion) in completions.into_iter().enumerate() {
            usage.add(&completion, index == 0);
            let Said {
                thoughts,
                text,
                calls,
            } = self.prepared.turn.clone().whole(&completion.text);
            let finish_reason = match calls.is_empty() {
                true => finish_reason(completion.finish),
                false => "tool_calls",
            };
            let tool_calls = calls.into_iter().map(|call| AnswerCall {
                index: None,
                id: Some(call_id()),
                r#type: Some("function"),
                function: AnswerFunction {
                    name: Some(call.name),
                    arguments: call.arguments,
                },
            });
            let tool_calls: Vec<AnswerCall> = tool_calls.collect();
            choices.push(ChatChoice {
                index,
                message: AnswerMessage {
                    role: "assistant",
                    content: (!text.is_empty() || tool_calls.is_empty()).then_some(text),
                    refusal: None,
                    reasoning_content: (!thoughts.is_empty()).then_some(thoughts),
                    tool_calls,
                },
                logprobs: self.logprobs(&completion.steps),
                finish_reason,
            });
        }
        ChatAnswer {
            id: self.id.clone(),
            object: "chat.completion",
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: FINGERPRINT,
            choices,
            usage,
        }
    }

    fn chunk(
        &self,
        index: usize,
        delta: ChunkDelta,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<&'static str>,
    ) -> ChatChunk {
        let choice = ChunkChoice {
            index,
            delta,
            logprobs,
            finish_reason,
        };
        self.chunk_of(vec![choice], self.prepared.include_usage.then_some(None))
    }

    fn chunk_of(&self, choices: Vec<ChunkChoice>, usage: Option<Option<Usage>>) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: FINGERPRINT,
            choices,
            usage,
        }
    }

    /// Streams the answer.
    async fn stream(
        self,
        mut told: UnboundedReceiver<(usize, Told)>,
        events: Events,
    ) -> std::result::Result<(), Gone> {
        let one = || Spoken {
            turn: self.prepared.turn.clone(),
            steps: Vec::new(),
            sent: 0,
            calls: 0,
        };
        let mut spoken: Vec<Spoken> = (0..self.count).map(|_| one()).collect();
        for index in 0..self.count {
            let delta = ChunkDelta {
                role: Some("assistant"),
                content: Some(None),
                ..ChunkDelta::default()
            };
            events.send(&self.chunk(index, delta, None, None)).await?;
        }
        let mut usage = Usage::default();
        let mut left = self.count;
        while left > 0 {
            let Some((index, said)) = told.recv().await else {
                let error = ApiError::unavailable("the server is shutting down");
                return events.send(&error.body()).await;
            };
            let spoken = &mut spoken[index];
            match said {
                Told::Prompt(_) => {}
                Told::Token { step, text } => {
                    spoken.sent += text.len();
                    spoken.steps.push(step);
                    let deltas = spoken.turn.push(&text);
                    self.tell(index, spoken, deltas, &events).await?;
                }
                Told::Done(completion) => {
                    left -= 1;
                    usage.add(&completion, index == 0);
                    let rest = completion.text.get(spoken.sent..).unwrap_or_default();
                    let mut deltas = spoken.turn.push(rest);
                    deltas.extend(spoken.turn.finish());
                    self.tell(index, spoken, deltas, &events).await?;
                    let finish_reason = match spoken.calls {
                        0 => finish_reason(completion.finish),
                        _ => "tool_calls",
                    };
                    let steps = std::mem::take(&mut spoken.steps);
                    let logprobs = self
                        .logprobs(&steps)
                        .filter(|told| !told.content.is_empty());
                    let delta = ChunkDelta::default();
                    let last = self.chunk(index, delta, logprobs, Some(finish_reason));
                    events.send(&last).await?;
                }
                Told::Failed(error) => return events.send(&error.body()).await,
            }
        }
        if self.prepared.include_usage {
            events
                .send(&self.chunk_of(Vec::new(), Some(Some(usage))))
                .await?;
        }
        events.done().await
    }

    async fn tell(
        &self,
        index: usize,
        spoken: &mut Spoken,
        deltas: Vec<Delta>,
        events: &Events,
    ) -> std::result::Result<(), Gone> {
        for delta in deltas {
            let steps = std::mem::take(&mut spoken.steps);
            let logprobs = self.logprobs(&steps);
            let delta = match delta {
                Delta::Thought(thought) => ChunkDelta {
                    reasoning_content: Some(thought),
                    ..ChunkDelta::default()
                },
                Delta::Text(text) => ChunkDelta {
                    content: Some(Some(text)),
                    ..ChunkDelta::default()
                },
                Delta::Call(call) => {
                    // The name is sent once, followed by the arguments.
                    let begun = AnswerCall {
                        index: Some(spoken.calls),
                        id: Some(call_id()),
                        r#type: Some("function"),
                        function: AnswerFunction {
                            name: Some(call.name),
                            arguments: String::new(),
                        },
                    };
                    let begun = ChunkDelta {
                        tool_calls: vec![begun],
                        ..ChunkDelta::default()
                    };
                    events.send(&self.chunk(index, begun, None, None)).await?;
                    let arguments = AnswerCall {
                        index: Some(spoken.calls),
                        id: None,
                        r#type: None,
                        function: AnswerFunction {
                            name: None,
                            arguments: call.arguments,
                        },
                    };
                    spoken.calls += 1;
                    ChunkDelta {
                        tool_calls: vec![arguments],
                        ..ChunkDelta::default()
                    }
                }
            };
            events
                .send(&self.chunk(index, delta, logprobs, None))
                .await?;
        }
        Ok(())
    }
}

/// The state of a streamed answer.
struct Spoken {
    turn: Turn,
    /// Tokens whose log-probabilities were not sent yet.
    steps: Vec<Step>,
    /// Number of bytes of text that were generated.
    sent: usize,
    /// Number of calls that were sent.
    calls: usize,
}
