//! Probes over HTTP: the JSON of the commands of the same names.
//!
//! With `"stream": true` an answer comes as server-sent events: `progress` with the number of
//! tokens done, then `result` or `error`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use modelve_probe::next::{candidate_ids, moved, one_token};
use modelve_probe::score::Windows;
use modelve_probe::tree::Shape;
use modelve_probe::{Error as ProbeError, Prompt, attention, lens, live, next, score, text_of};
use modelve_runtime::chat::{self, Conversation, Message};
use modelve_runtime::{Model, Reading, Settings, Token, host};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::app::{App, Means, Read, apart};
use crate::body;
use crate::error::{ApiError, Result};
use crate::openai::completions::Prompts;
use crate::probe_thread::{Asked, Bench};
use crate::sse;

/// Maximum number of texts in one request.
const MOST_TEXTS: usize = 64;
/// Maximum number of likeliest tokens per distribution.
const MOST_TOP: usize = 1000;

/// A text and how to read it.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Asking {
    /// The text or its token ids; for `next` and `score` also a list of several. Only `heads` does
    /// without it.
    prompt: Option<Prompts>,
    /// Whether to put it into the model's chat template.
    #[serde(default)]
    chat: bool,
    /// A system message before it; implies `chat`.
    system: Option<String>,
    /// Whether control tokens written out in the text become those tokens; default: false for
    /// `score`, true for all others.
    special: Option<bool>,
    /// Whether to report progress as server-sent events.
    #[serde(default)]
    stream: bool,
}

/// Request to `next`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct NextAsked {
    /// Number of likeliest tokens; default: 10.
    top: Option<usize>,
    /// Continuations whose probability to compute.
    #[serde(default)]
    candidates: Vec<String>,
    /// Tokens after which to compute the distribution as well, as text or id.
    #[serde(default)]
    then: Vec<Named>,
    /// Depth and width of a tree of continuations.
    tree: Option<TreeAsked>,
}

/// Depth and width of a tree of continuations.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
pub struct TreeAsked {
    depth: usize,
    width: usize,
}

/// A token by id or text.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a token id or the text of a token")]
pub enum Named {
    /// Its id.
    Id(i32),
    /// Its text.
    Text(String),
}

/// Request to `score`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ScoreAsked {
    /// Number of tokens in a window; default: as many as the text has, up to 2048.
    window: Option<usize>,
    /// Number of tokens that a window moves by; default: half a window.
    stride: Option<usize>,
}

/// Request to `live`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct LiveAsked {
    /// Number of likeliest tokens; default: 10.
    top: Option<usize>,
    /// Tokens whose probability to return in any case, as text or id.
    #[serde(default)]
    also: Vec<Named>,
}

/// Request to `lens`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct LensAsked {
    /// Number of likeliest tokens per layer and position; default: 5.
    top: Option<usize>,
    /// Layers from 0, -1 for the last; default: all.
    layers: Option<Vec<i64>>,
    /// Positions from 0, -1 for the last; default: all.
    positions: Option<Vec<i64>>,
    /// A token to follow through the layers, as text or id.
    token: Option<Named>,
}

/// Request to `attention`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct AttentionAsked {
    /// The layer whose weights to return, -1 for the last; without it, statistics of all heads are
    /// returned as well.
    layer: Option<i64>,
    /// The head whose weights to return; default: all.
    head: Option<usize>,
    /// Whether to return only the weights of the last token.
    #[serde(default)]
    last: bool,
}

impl Named {
    fn token(&self, model: &Model) -> Result<Token> {
        Ok(match self {
            Named::Id(id) => {
                model.vocab().check(Token(*id))?;
                Token(*id)
            }
            Named::Text(text) => one_token(model.vocab(), text).map_err(told)?,
        })
    }
}

/// Resolves indices that may be negative to count from the end, for a list of `len` items.
pub fn numbers(list: Option<&[i64]>, len: usize, what: &str) -> Result<Option<Vec<usize>>> {
    let one = |&n: &i64| {
        let at = if n < 0 {
            n.checked_add_unsigned(len as u64)
        } else {
            Some(n)
        };
        let at = at
            .and_then(|at| usize::try_from(at).ok())
            .filter(|&at| at < len);
        at.ok_or_else(|| ApiError::wrong(what, format!("{what} {n} of {len}")))
    };
    list.map(|list| list.iter().map(one).collect()).transpose()
}

/// Turns an error of a probe into a response.
pub fn told(error: ProbeError) -> ApiError {
    let message = error.to_string();
    match error {
        ProbeError::Runtime(error) => error.into(),
        ProbeError::EmptyPrompt | ProbeError::TextTooShort => ApiError::wrong("prompt", message),
        ProbeError::EmptyCandidate { .. } => ApiError::wrong("candidates", message),
        ProbeError::NotOneToken { .. } | ProbeError::NoToken { .. } => {
            ApiError::wrong("token", message)
        }
        ProbeError::NoLayer { .. } => ApiError::wrong("layers", message),
        ProbeError::NoHead { .. } => ApiError::wrong("head", message),
        ProbeError::NoPosition { .. } => ApiError::wrong("positions", message),
        ProbeError::Window { .. } => ApiError::wrong("window", message),
        ProbeError::Tree { .. } => ApiError::wrong("tree", message),
        ProbeError::Unsupported { .. } => ApiError::bad(message),
        _ => ApiError::internal(message),
    }
}

impl Asking {
    /// Tokenizes the texts, and returns whether the request had a list of them.
    ///
    /// # Errors
    /// Errors of the tokenizer or the chat template, or too many texts.
    pub fn prompts(&self, to: &Means, special: bool) -> Result<(Vec<Prompt>, bool)> {
        let vocab = to.model.vocab();
        let Some(given) = &self.prompt else {
            return Err(ApiError::wrong("prompt", "missing field `prompt`"));
        };
        let read = |text: &String| self.read(to, text, special);
        let of_ids = |ids: &Vec<i32>| -> Result<Prompt> {
            let ids: Vec<Token> = ids.iter().copied().map(Token).collect();
            for &id in &ids {
                vocab.check(id)?;
            }
            if ids.is_empty() {
                return Err(told(ProbeError::EmptyPrompt));
            }
            let text = text_of(vocab, &ids);
            Ok(Prompt { text, ids })
        };
        let count = match given {
            Prompts::Text(_) | Prompts::Ids(_) => 1,
            Prompts::Texts(texts) => texts.len(),
            Prompts::Lists(lists) => lists.len(),
        };
        if !(1..=MOST_TEXTS).contains(&count) {
            let message = format!("1 to {MOST_TEXTS} texts, not {count}");
            return Err(ApiError::wrong("prompt", message));
        }
        Ok(match given {
            Prompts::Text(text) => (vec![read(text)?], false),
            Prompts::Ids(ids) => (vec![of_ids(ids)?], false),
            Prompts::Texts(texts) => (texts.iter().map(read).collect::<Result<_>>()?, true),
            Prompts::Lists(lists) => (lists.iter().map(of_ids).collect::<Result<_>>()?, true),
        })
    }

    /// Tokenizes a text. `special` is the default for whether control tokens written out in it
    /// become those tokens.
    ///
    /// # Errors
    /// Errors of the tokenizer or the chat template, or a text without tokens.
    pub fn read(&self, to: &Means, text: &str, special: bool) -> Result<Prompt> {
        let vocab = to.model.vocab();
        if self.chat || self.system.is_some() {
            let system = self.system.iter();
            let system = system.map(|system| Message::new("system", system));
            let messages: Vec<Message> = system.chain([Message::new("user", text)]).collect();
            let conversation = Conversation {
                messages: &messages,
                template: to.template.as_deref(),
                ..Conversation::default()
            };
            let ids = chat::read_chat(&to.model, &conversation)?.0;
            let text = text_of(vocab, &ids);
            return Ok(Prompt { text, ids });
        }
        let reading = match self.special.unwrap_or(special) {
            true => Reading::Prompt,
            false => Reading::Text,
        };
        let ids = vocab.tokenize(text, reading)?;
        if ids.is_empty() {
            return Err(told(ProbeError::EmptyPrompt));
        }
        let text = text.to_owned();
        Ok(Prompt { text, ids })
    }

    /// Returns whether the request has a text.
    pub fn has_prompt(&self) -> bool {
        self.prompt.is_some()
    }

    /// Returns the only text, for probes of one text.
    ///
    /// # Errors
    /// Several texts, and the errors of [`Asking::prompts`].
    pub fn prompt(&self, to: &Means) -> Result<Prompt> {
        let (mut prompts, _) = self.prompts(to, true)?;
        match prompts.len() {
            1 => Ok(prompts.remove(0)),
            n => Err(ApiError::wrong("prompt", format!("one text, not {n}"))),
        }
    }
}

/// `/v1/modelve/next`.
pub async fn next(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    answer(&app, bytes, |to, asking, asked: NextAsked| {
        let model = &to.model;
        let (mut prompts, listed) = asking.prompts(to, true)?;
        let mut then = Vec::with_capacity(asked.then.len());
        for token in &asked.then {
            then.push(token.token(model).map_err(|error| error.about("then"))?);
        }
        for prompt in &mut prompts {
            prompt.text.push_str(&text_of(model.vocab(), &then));
            prompt.ids.extend(&then);
        }
        let tree = asked.tree.map(|tree| Shape {
            depth: tree.depth,
            width: tree.width,
        });
        if let Some(shape) = tree {
            shape.check().map_err(told)?;
        }
        let top = asked.top.unwrap_or(10).min(MOST_TOP);
        let total: usize = prompts.iter().map(|prompt| prompt.ids.len()).sum();
        let work = move |bench: &mut Bench, progress: &mut dyn FnMut(usize, usize)| {
            let model = bench.model.clone();
            let options = next::Options {
                top,
                candidates: &asked.candidates,
                tree,
            };
            let mut results: Vec<next::Next> = Vec::with_capacity(prompts.len());
            let mut before = 0;
            for prompt in &prompts {
                let mut tried = 0;
                for (i, text) in asked.candidates.iter().enumerate() {
                    let ids = candidate_ids(model.vocab(), prompt, text, i + 1).map_err(told)?;
                    tried = tried.max(ids.len() - 1);
                }
                let mut on_progress = |done: usize| progress(before + done, total);
                let mut result = match tree.map(Shape::room) {
                    None => {
                        let session = bench.plain(prompt.ids.len() + tried)?;
                        next::next(session, prompt, &options, &mut on_progress)
                    }
                    Some((n_seq, nodes)) => {
                        let room = prompt.ids.len() + tried.max(nodes as usize);
                        let settings = Settings {
                            n_seq,
                            n_outputs: n_seq + 64,
                            ..bench.base.clone()
                        };
                        let mut session = bench.own(room, settings)?;
                        next::next(&mut session, prompt, &options, &mut on_progress)
                    }
                }
                .map_err(told)?;
                before += prompt.ids.len();
                if let Some(first) = results.first() {
                    let n = top.max(1);
                    result.moved = moved(model.vocab(), &first.logits, &result.logits, n);
                }
                results.push(result);
            }
            next::beside(model.vocab(), &mut results);
            one_or_all(results, listed)
        };
        Ok(work)
    })
    .await
}

/// `/v1/modelve/score`.
pub async fn score(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    answer(&app, bytes, |to, asking, asked: ScoreAsked| {
        let model = &to.model;
        let (prompts, listed) = asking.prompts(to, false)?;
        let longest = model.facts().n_ctx_train as usize;
        let size = asked.window.unwrap_or(longest.min(2048));
        let stride = asked.stride.unwrap_or(size / 2);
        let windows = Windows { size, stride };
        windows.check().map_err(told)?;
        let total: usize = prompts.iter().map(|prompt| prompt.ids.len()).sum();
        let work = move |bench: &mut Bench, progress: &mut dyn FnMut(usize, usize)| {
            let mut results = Vec::with_capacity(prompts.len());
            let mut before = 0;
            for prompt in &prompts {
                let session = bench.plain(size.min(prompt.ids.len()))?;
                let result = score::score(session, prompt, windows, &mut |done| {
                    progress(before + done, total)
                });
                results.push(result.map_err(told)?);
                before += prompt.ids.len();
            }
            one_or_all(results, listed)
        };
        Ok(work)
    })
    .await
}

/// `/v1/modelve/live`.
pub async fn live(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    answer(&app, bytes, |to, asking, asked: LiveAsked| {
        let prompt = asking.prompt(to)?;
        if asked.also.len() > MOST_TOP {
            let message = format!("at most {MOST_TOP} tokens, not {}", asked.also.len());
            return Err(ApiError::wrong("also", message));
        }
        let also = asked.also.iter().map(|token| token.token(&to.model));
        let also = also.collect::<Result<Vec<_>>>();
        let also = also.map_err(|error| error.about("also"))?;
        let top = asked.top.unwrap_or(10).min(MOST_TOP);
        let n = prompt.ids.len();
        let work = move |bench: &mut Bench, progress: &mut dyn FnMut(usize, usize)| {
            let (session, texts) = bench.live(n)?;
            let options = live::Options { top, also: &also };
            let found = texts.read(session, &prompt, options, &mut |done| progress(done, n));
            value(found.map_err(told)?)
        };
        Ok(work)
    })
    .await
}

/// `/v1/modelve/lens`.
pub async fn lens(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    answer(&app, bytes, |to, asking, asked: LensAsked| {
        let model = &to.model;
        let prompt = asking.prompt(to)?;
        let n = prompt.ids.len();
        let n_layer = model.facts().n_layer as usize;
        let token = asked.token.map(|token| token.token(model)).transpose()?;
        let options = lens::Options {
            layers: numbers(asked.layers.as_deref(), n_layer, "layers")?,
            positions: numbers(asked.positions.as_deref(), n, "positions")?,
            top: asked.top.unwrap_or(5).min(MOST_TOP),
            token,
        };
        let work = move |bench: &mut Bench, progress: &mut dyn FnMut(usize, usize)| {
            let session = bench.lens(n)?;
            let found = lens::lens(session, &prompt, &options, &mut |done| progress(done, n));
            value(found.map_err(told)?)
        };
        Ok(work)
    })
    .await
}

/// `/v1/modelve/attention`.
pub async fn attention(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    answer(&app, bytes, |to, asking, asked: AttentionAsked| {
        let model = &to.model;
        let prompt = asking.prompt(to)?;
        let n = prompt.ids.len();
        let n_layer = model.facts().n_layer as usize;
        let layer = asked.layer.map(|layer| [layer]);
        let layer = numbers(layer.as_ref().map(|l| &l[..]), n_layer, "layer")?;
        let layer = layer.and_then(|layers| layers.first().copied());
        let options = attention::Options {
            layer,
            head: asked.head,
            overview: layer.is_none(),
            maps: false,
            rows: match asked.last {
                true => attention::Rows::Last,
                false => attention::Rows::All,
            },
        };
        // Each weight takes about ten bytes of JSON.
        let need = 4 * attention::bytes(model, n, options);
        if host::free_memory().is_some_and(|free| need > free) {
            let message = format!(
                "the weights for {n} tokens need more memory than is free: choose one with head"
            );
            return Err(ApiError::wrong("prompt", message));
        }
        let work = move |bench: &mut Bench, progress: &mut dyn FnMut(usize, usize)| {
            let base = bench.unfused()?;
            let mut session = bench.own(n, attention::settings(&bench.model, n, base))?;
            let found = attention::attention(&mut session, &prompt, options, &mut |done| {
                progress(done, n);
            });
            value(found.map_err(told)?)
        };
        Ok(work)
    })
    .await
}

/// Serialized JSON.
pub type Written = Box<serde_json::value::RawValue>;

/// Serializes a result.
///
/// # Errors
/// The result cannot be serialized.
pub fn value(result: impl Serialize) -> Result<Written> {
    serde_json::value::to_raw_value(&result)
        .map_err(|error| ApiError::internal(format!("the answer cannot be written: {error}")))
}

/// Serializes the only result, or all of them if the request had a list.
fn one_or_all<T: Serialize>(results: Vec<T>, listed: bool) -> Result<Written> {
    match (&results[..], listed) {
        ([one], false) => value(one),
        (all, _) => value(all),
    }
}

/// Reads the request with `read`, which returns the work to do, and answers it.
pub async fn answer<A, W>(
    app: &App,
    bytes: axum::body::Bytes,
    read: impl FnOnce(&Means, &Asking, A) -> Result<W> + Send + 'static,
) -> Result<Response>
where
    A: serde::de::DeserializeOwned,
    W: FnOnce(&mut Bench, &mut dyn FnMut(usize, usize)) -> Result<Written> + Send + 'static,
{
    let ready = app.ready()?;
    let to = ready.means.clone();
    let (asking, work) = apart(move || {
        let body = body::json(&bytes)?;
        let asking: Asking = body::parse(&body)?;
        let asked: A = body::parse(&body)?;
        let work = read(&to, &asking, asked)?;
        Ok((asking, work))
    })
    .await?;
    let mut asked = ready.probes.ask(work)?;
    app.counters().probes.add(1);
    if asking.stream {
        return Ok(stream(asked));
    }
    Ok(Json(asked.answer().await?).into_response())
}

fn stream(mut asked: Asked<Written>) -> Response {
    sse::answer(move |events| async move {
        let mut progress = asked.progress.clone();
        let result = loop {
            tokio::select! {
                biased;
                result = asked.answer() => break result,
                changed = progress.changed() => {
                    if changed.is_err() {
                        break asked.answer().await;
                    }
                    let (done, total) = *progress.borrow_and_update();
                    let part = json!({"done": done, "total": total});
                    events.send_named("progress", &part).await?;
                }
            }
        };
        match result {
            Ok(result) => events.send_named("result", &result).await,
            Err(error) => events.send_named("error", &error.body()).await,
        }
    })
}
