//! Paths of llama.cpp's server: `/completion`, `/tokenize`, `/detokenize`, `/apply-template`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use modelve_runtime::{Completion, Finish, Reading, Request, Step, Token, Vocab};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use utoipa::ToSchema;

use crate::app::{App, Means, Read, apart};
use crate::body;
use crate::engine_thread::{Control, Told};
use crate::error::{ApiError, Result};
use crate::knobs::{self, Knobs};
use crate::logprobs::{bytes_of, finite};
use crate::openai::completions::{all, begun, check_length, within};
use crate::openai::conversation::Asked;
use crate::openai::messages::{ChatMessage, Tool};
use crate::sse::{self, Events, Gone};

/// Maximum number of likeliest tokens per generated token.
const MOST_PROBS: usize = 100;

/// Request to `/completion`, without sampling parameters.
#[derive(Debug, Deserialize, ToSchema)]
pub struct LlamaRequest {
    /// A text, its token ids, a mixed list of both, or a list of several of these.
    prompt: LlamaPrompt,
    /// Maximum number of tokens to generate; negative means the server's default.
    n_predict: Option<i64>,
    /// Number of likeliest tokens to return per generated token.
    n_probs: Option<usize>,
    /// Whether to return the token ids.
    return_tokens: Option<bool>,
    /// Whether to stream the answer.
    stream: Option<bool>,
}

/// The forms of a prompt.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string, or a list of strings and token ids")]
pub enum LlamaPrompt {
    /// A text.
    Text(String),
    /// A list with token ids is one prompt of ids and texts; a list of texts, or one with nested
    /// lists, is several prompts.
    Pieces(Vec<PromptPiece>),
}

/// A part of a prompt, or one of several prompts.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a token id, a text, or a list of them")]
pub enum PromptPiece {
    /// A token.
    Id(i32),
    /// A text.
    Text(String),
    /// One of several prompts.
    Whole(Vec<InnerPiece>),
}

/// A part of one of several prompts.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a token id or a text")]
pub enum InnerPiece {
    /// A token.
    Id(i32),
    /// A text.
    Text(String),
}

/// Request to `/tokenize`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// The text.
    content: String,
    /// Whether to add the tokens that the model expects around a text.
    add_special: Option<bool>,
    /// Whether control tokens written out in the text become those tokens; default: true.
    parse_special: Option<bool>,
    /// Whether to return the text of each token.
    with_pieces: Option<bool>,
}

/// Request to `/detokenize`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct DetokenizeRequest {
    /// The token ids.
    #[schema(value_type = Vec<i32>)]
    tokens: Vec<Token>,
}

/// Answer of `/detokenize`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Detokenized {
    content: String,
}

/// Request to `/apply-template`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TemplateRequest {
    /// The conversation.
    messages: Vec<ChatMessage>,
    /// The tools that the model may call.
    tools: Option<Vec<Tool>>,
    /// Further variables of the template.
    chat_template_kwargs: Option<Map<String, Value>>,
    /// Whether to return the tokens of the prompt, each with its text.
    with_pieces: Option<bool>,
}

/// A conversation in the model's chat template.
#[derive(Debug, Serialize, ToSchema)]
pub struct Templated {
    prompt: String,
    /// The tokens, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    tokens: Option<Value>,
}

/// `/tokenize`.
pub async fn tokenize(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Json<Value>> {
    let model = app.ready()?.means.model.clone();
    apart(move || {
        let asked: TokenizeRequest = body::parse(&body::json(&bytes)?)?;
        let vocab = model.vocab();
        let add = asked.add_special.unwrap_or(false);
        let reading = match (add, asked.parse_special.unwrap_or(true)) {
            (true, true) => Reading::Prompt,
            (true, false) => Reading::Text,
            (false, true) => Reading::PromptPart,
            (false, false) => Reading::TextPart,
        };
        let tokens = vocab.tokenize(&asked.content, reading);
        let tokens = tokens.map_err(|error| ApiError::from(error).about("content"))?;
        if !asked.with_pieces.unwrap_or(false) {
            return Ok(Json(json!({"tokens": tokens})));
        }
        Ok(Json(json!({"tokens": pieces(vocab, tokens)})))
    })
    .await
}

/// Returns tokens with their texts; a token that is not valid UTF-8 has its bytes as numbers.
fn pieces(vocab: &Vocab, tokens: Vec<Token>) -> Value {
    let pieces = tokens.into_iter().map(|id| {
        let piece = match String::from_utf8(bytes_of(vocab, id)) {
            Ok(text) => Value::String(text),
            Err(error) => json!(error.into_bytes()),
        };
        json!({"id": id, "piece": piece})
    });
    pieces.collect()
}

/// `/detokenize`.
pub async fn detokenize(
    State(app): State<Arc<App>>,
    Read(bytes): Read,
) -> Result<Json<Detokenized>> {
    let model = app.ready()?.means.model.clone();
    apart(move || {
        let asked: DetokenizeRequest = body::parse(&body::json(&bytes)?)?;
        let text = model.vocab().detokenize(&asked.tokens, true);
        let text = text.map_err(|error| ApiError::from(error).about("tokens"))?;
        let content = String::from_utf8_lossy(&text).into_owned();
        Ok(Json(Detokenized { content }))
    })
    .await
}

/// `/apply-template`.
pub async fn apply_template(
    State(app): State<Arc<App>>,
    Read(bytes): Read,
) -> Result<Json<Templated>> {
    let ready = app.ready()?;
    let (model, template) = (ready.means.model.clone(), ready.means.template.clone());
    apart(move || {
        let asked: TemplateRequest = body::parse(&body::json(&bytes)?)?;
        let conversation = Asked {
            messages: asked.messages,
            tools: asked.tools.unwrap_or_default(),
            variables: asked.chat_template_kwargs.unwrap_or_default(),
            ..Asked::default()
        };
        let read = conversation.read(&model, template.as_deref())?;
        let tokens = asked.with_pieces.unwrap_or(false);
        Ok(Json(Templated {
            prompt: read.text,
            tokens: tokens.then(|| pieces(model.vocab(), read.ids)),
        }))
    })
    .await
}

struct Prepared {
    requests: Vec<Request>,
    control: Option<Control>,
    /// Whether the request had a list of prompts.
    listed: bool,
    asked: LlamaRequest,
    settings: Value,
}

/// `/completion`.
pub async fn completion(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    let ready = app.ready()?;
    let mut prepared = ready.read(bytes, prepare).await?;
    let requests = std::mem::take(&mut prepared.requests);
    let lengths: Vec<usize> = requests
        .iter()
        .map(|request| request.prompt.len())
        .collect();
    let control = prepared.control.take();
    let told = ready
        .submit(requests, control, ("prompt", "prompt"))
        .await?;
    let telling = Telling {
        model: app.config.model.clone(),
        vocab: ready.means.model.vocab().clone(),
        prepared,
        lengths,
    };
    if telling.prepared.asked.stream.unwrap_or(false) {
        return Ok(sse::answer(move |events| telling.stream(told, events)));
    }
    let completions = all(told, telling.lengths.len()).await?;
    let done = completions.iter().enumerate();
    let mut answers: Vec<Value> = done
        .map(|(index, completion)| telling.done(index, completion, &completion.text))
        .collect();
    Ok(match telling.prepared.listed {
        true => Json(answers).into_response(),
        false => Json(answers.swap_remove(0)).into_response(),
    })
}

/// Reads and validates the request.
fn prepare(bytes: &Bytes, means: &Means) -> Result<Prepared> {
    let (model, limit) = (&means.model, means.limit);
    let body = body::json(bytes)?;
    let asked: LlamaRequest = body::parse(&body)?;
    let knobs: Knobs = body::parse(&body)?;
    let probs = within("n_probs", asked.n_probs.unwrap_or(0), 0, MOST_PROBS)?;
    let vocab = model.vocab();
    let (prompts, listed) = match &asked.prompt {
        LlamaPrompt::Text(text) => (vec![vocab.tokenize(text, Reading::Prompt)?], false),
        LlamaPrompt::Pieces(pieces) => several(vocab, pieces)?,
    };
    if prompts.is_empty() {
        return Err(ApiError::wrong("prompt", "no prompt"));
    }
    let mut options = knobs.options(knobs::LLAMA, vocab, None)?;
    let asked_for = asked.n_predict.and_then(|n| usize::try_from(n).ok());
    options.max_tokens = asked_for.unwrap_or(means.max_tokens);
    options.logprobs = probs > 0;
    options.top = probs;
    let settings = json!({
        "n_predict": asked.n_predict.unwrap_or(-1),
        "seed": knobs.seed.unwrap_or(-1),
        "temperature": options.sampling.temperature,
        "top_k": options.sampling.top_k,
        "top_p": options.sampling.top_p,
        "min_p": options.sampling.min_p,
        "typical_p": options.sampling.typical_p,
        "repeat_penalty": options.sampling.repeat_penalty,
        "presence_penalty": options.sampling.presence_penalty,
        "frequency_penalty": options.sampling.frequency_penalty,
        "stop": options.stops,
        "ignore_eos": options.ignore_end,
        "stream": asked.stream.unwrap_or(false),
        "n_probs": probs,
        "n_ctx": limit,
    });
    let options = Arc::new(options);
    let seed = knobs.seed();
    let mut requests = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let prompt = begun(model, prompt);
        if prompt.is_empty() {
            return Err(ApiError::wrong("prompt", "the prompt is empty"));
        }
        check_length(prompt.len(), options.max_tokens, limit, "prompt")?;
        requests.push(Request {
            prompt,
            seed,
            options: Arc::clone(&options),
        });
    }
    Ok(Prepared {
        requests,
        control: knobs.control(means)?,
        listed,
        asked,
        settings,
    })
}

/// Returns the prompts in a list, and whether it is a list of several.
fn several(vocab: &Vocab, pieces: &[PromptPiece]) -> Result<(Vec<Vec<Token>>, bool)> {
    let flat: Vec<InnerPiece> = pieces.iter().filter_map(PromptPiece::flat).collect();
    let has_lists = flat.len() < pieces.len();
    let has_ids = flat.iter().any(|piece| matches!(piece, InnerPiece::Id(_)));
    if has_ids && !has_lists {
        return Ok((vec![mixed(vocab, &flat)?], false));
    }
    let prompts = pieces.iter().map(|piece| match piece {
        PromptPiece::Whole(pieces) => mixed(vocab, pieces),
        one => mixed(vocab, one.flat().as_slice()),
    });
    Ok((prompts.collect::<Result<_>>()?, true))
}

impl PromptPiece {
    /// Returns the part, if it is not a list.
    fn flat(&self) -> Option<InnerPiece> {
        match self {
            PromptPiece::Id(id) => Some(InnerPiece::Id(*id)),
            PromptPiece::Text(text) => Some(InnerPiece::Text(text.clone())),
            PromptPiece::Whole(_) => None,
        }
    }
}

/// Tokenizes a mixed list of texts and token ids as one prompt; a BOS token is only added at its
/// beginning.
fn mixed(vocab: &Vocab, pieces: &[InnerPiece]) -> Result<Vec<Token>> {
    let mut ids = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        match piece {
            InnerPiece::Id(id) => {
                vocab.check(Token(*id))?;
                ids.push(Token(*id));
            }
            InnerPiece::Text(text) if i == 0 => ids.extend(vocab.tokenize(text, Reading::Prompt)?),
            InnerPiece::Text(text) => ids.extend(vocab.tokenize(text, Reading::PromptPart)?),
        }
    }
    Ok(ids)
}

/// The form of the answer.
struct Telling {
    model: String,
    vocab: Vocab,
    prepared: Prepared,
    /// Number of tokens in each prompt.
    lengths: Vec<usize>,
}

impl Telling {
    fn probability(&self, step: &Step) -> Value {
        let one = |id: Token, logprob: f32| {
            let bytes = bytes_of(&self.vocab, id);
            json!({
                "id": id,
                "token": String::from_utf8_lossy(&bytes),
                "bytes": bytes,
                "logprob": finite(logprob),
            })
        };
        let mut told = one(step.token, step.logprob);
        let top = step
            .top
            .iter()
            .map(|likely| one(likely.token, likely.logprob));
        told["top_logprobs"] = top.collect();
        told
    }

    fn probabilities(&self, steps: &[Step]) -> Option<Value> {
        let told = self.prepared.asked.n_probs.unwrap_or(0) > 0;
        told.then(|| steps.iter().map(|step| self.probability(step)).collect())
    }

    /// Returns the final object of a completion.
    fn done(&self, index: usize, completion: &Completion, content: &str) -> Value {
        let asked = &self.prepared.asked;
        let stop_type = match (completion.finish, &completion.end) {
            (Finish::Stop, Some(_)) => "eos",
            (Finish::Stop, None) => "word",
            _ => "limit",
        };
        let ids = match asked.return_tokens {
            Some(true) => completion.steps.iter().map(|step| step.token).collect(),
            _ => Vec::new(),
        };
        let (read, written) = (
            completion.prompt_tokens - completion.reused,
            completion.steps.len(),
        );
        let (prefill, generate) = (
            completion.prefill.as_secs_f64(),
            completion.generate.as_secs_f64(),
        );
        // The first token comes with the prompt's decode.
        let later = written.saturating_sub(1) as f64;
        let per = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let mut told = json!({
            "index": index,
            "content": content,
            "tokens": ids,
            "id_slot": index,
            "stop": true,
            "model": self.model,
            "tokens_predicted": written,
            "tokens_evaluated": completion.prompt_tokens,
            "tokens_cached": completion.prompt_tokens + written.saturating_sub(1),
            "generation_settings": self.prepared.settings,
            "has_new_line": completion.text.contains('\n'),
            "truncated": false,
            "stop_type": stop_type,
            "timings": {
                "prompt_n": read,
                "prompt_ms": 1000.0 * prefill,
                "prompt_per_token_ms": per(1000.0 * prefill, read as f64),
                "prompt_per_second": per(read as f64, prefill),
                "predicted_n": written,
                "predicted_ms": 1000.0 * generate,
                "predicted_per_token_ms": per(1000.0 * generate, later),
                "predicted_per_second": per(later, generate),
                "cache_n": completion.reused,
            },
        });
        if let Some(told_of) = self.probabilities(&completion.steps) {
            told["completion_probabilities"] = told_of;
        }
        told
    }

    /// Streams the answer.
    async fn stream(
        self,
        mut told: UnboundedReceiver<(usize, Told)>,
        events: Events,
    ) -> std::result::Result<(), Gone> {
        let mut sent = vec![0; self.lengths.len()];
        let mut count = vec![0; self.lengths.len()];
        let mut left = self.lengths.len();
        while left > 0 {
            let Some((index, said)) = told.recv().await else {
                let error = ApiError::unavailable("the server is shutting down");
                return events.send(&error.body()).await;
            };
            match said {
                Told::Prompt(_) => {}
                Told::Token { step, text } => {
                    sent[index] += text.len();
                    count[index] += 1;
                    let mut part = json!({
                        "index": index,
                        "content": text,
                        "tokens": [step.token],
                        "stop": false,
                        "id_slot": index,
                        "tokens_predicted": count[index],
                        "tokens_evaluated": self.lengths[index],
                    });
                    if let Some(told) = self.probabilities(std::slice::from_ref(&step)) {
                        part["completion_probabilities"] = told;
                    }
                    events.send(&part).await?;
                }
                Told::Done(completion) => {
                    left -= 1;
                    let rest = completion.text.get(sent[index]..).unwrap_or_default();
                    let mut done = self.done(index, &completion, rest);
                    // They were already streamed.
                    if let Some(object) = done.as_object_mut() {
                        object.remove("completion_probabilities");
                    }
                    events.send(&done).await?;
                }
                Told::Failed(error) => return events.send(&error.body()).await,
            }
        }
        Ok(())
    }
}
