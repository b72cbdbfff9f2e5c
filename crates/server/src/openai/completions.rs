//! `/v1/completions`: continuations of texts.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use modelve_runtime::{Completion, Finish, Model, Reading, Request, Step, Token};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedReceiver;
use utoipa::ToSchema;

use super::types::{FINGERPRINT, StreamOptions, Usage, finish_reason};
use crate::app::{App, Means, Read, Ready};
use crate::body;
use crate::engine_thread::{Control, Told};
use crate::error::{ApiError, Result};
use crate::knobs::{self, Knobs};
use crate::logprobs::{Logprobs, Tally, bytes_of};
use crate::sse::{self, Events, Gone};

/// Number of tokens to generate where the request does not say, as in OpenAI's API.
const MAX_TOKENS: usize = 16;
/// Maximum number of likeliest tokens per token.
const MOST_LOGPROBS: usize = 100;
/// Maximum number of completions of one prompt.
const MOST_TEXTS: usize = 128;

/// Request to `/v1/completions`, without sampling parameters.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CompletionRequest {
    /// One prompt or several, as strings or as token ids.
    prompt: Prompts,
    /// Maximum number of tokens to generate; default: 16.
    max_tokens: Option<usize>,
    /// Number of completions of each prompt.
    #[schema(minimum = 1, maximum = 128)]
    n: Option<usize>,
    /// Number of completions to generate, of which the `n` with the highest mean log-probability
    /// are returned.
    #[schema(minimum = 1, maximum = 128)]
    best_of: Option<usize>,
    /// Whether the answer includes the prompt.
    echo: Option<bool>,
    /// Number of likeliest tokens to return per token; with `echo` also for the prompt's tokens.
    #[schema(minimum = 0, maximum = 100)]
    logprobs: Option<usize>,
    /// Whether to stream the answer.
    stream: Option<bool>,
    /// Options of a stream.
    stream_options: Option<StreamOptions>,
    /// Not supported: an error unless empty.
    suffix: Option<String>,
}

/// The forms of prompts.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a string, a list of strings, a list of token ids, or a list of such lists"
)]
pub enum Prompts {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// The token ids of one text.
    Ids(Vec<i32>),
    /// The token ids of several texts.
    Lists(Vec<Vec<i32>>),
}

/// The answer, or a part of a streamed one.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionAnswer {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: &'static str,
    choices: Vec<CompletionChoice>,
    /// Numbers of tokens. In a stream that reports them, null in all parts but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

/// One completion.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionChoice {
    index: usize,
    text: String,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

/// A prompt that was tokenized.
struct PromptRead {
    ids: Vec<Token>,
    /// The text that `echo` returns.
    text: String,
}

/// A request that is ready to be computed.
struct Prepared {
    prompts: Vec<PromptRead>,
    requests: Vec<Request>,
    control: Option<Control>,
    n: usize,
    best_of: usize,
    echo: bool,
    logprobs: bool,
    stream: bool,
    include_usage: bool,
}

/// `/v1/completions`.
pub async fn complete(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    let ready = app.ready()?;
    let prepared = ready.read(bytes, prepare).await?;
    answer(&app, ready, prepared).await
}

/// Reads and validates the request.
fn prepare(bytes: &Bytes, means: &Means) -> Result<Prepared> {
    let (model, limit) = (&means.model, means.limit);
    let body = body::json(bytes)?;
    let asked: CompletionRequest = body::parse(&body)?;
    let knobs: Knobs = body::parse(&body)?;
    let n = within("n", asked.n.unwrap_or(1), 1, MOST_TEXTS)?;
    let best_of = within("best_of", asked.best_of.unwrap_or(n), n, MOST_TEXTS)?;
    let stream = asked.stream.unwrap_or(false);
    if stream && best_of > n {
        return Err(ApiError::wrong(
            "best_of",
            "best_of cannot be used with stream",
        ));
    }
    if asked.suffix.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::wrong("suffix", "suffix is not supported"));
    }
    let echo = asked.echo.unwrap_or(false);
    let top = asked.logprobs;
    within("logprobs", top.unwrap_or(0), 0, MOST_LOGPROBS)?;
    let prompts = read_prompts(&asked.prompt, model, echo, "prompt")?;
    let mut options = knobs.options(knobs::OPENAI, model.vocab(), None)?;
    options.max_tokens = asked.max_tokens.unwrap_or(MAX_TOKENS);
    options.logprobs = top.is_some() || best_of > n;
    options.top = top.unwrap_or(0);
    options.prompt_logprobs = echo && top.is_some();
    let options = Arc::new(options);
    let seed = knobs.seed();
    let mut requests = Vec::with_capacity(prompts.len() * best_of);
    for prompt in &prompts {
        check_length(prompt.ids.len(), options.max_tokens, limit, "prompt")?;
        for i in 0..best_of {
            requests.push(Request {
                prompt: prompt.ids.clone(),
                seed: seed.wrapping_add(i as u32),
                options: Arc::clone(&options),
            });
        }
    }
    Ok(Prepared {
        control: knobs.control(means)?,
        prompts,
        requests,
        n,
        best_of,
        echo,
        logprobs: top.is_some(),
        stream,
        include_usage: asked
            .stream_options
            .is_some_and(|options| options.include_usage.unwrap_or(false)),
    })
}

/// Returns a value if it is within its bounds.
pub fn within(param: &str, value: usize, least: usize, most: usize) -> Result<usize> {
    match (least..=most).contains(&value) {
        true => Ok(value),
        false => {
            let message = format!("{param} is {least} to {most}, not {value}");
            Err(ApiError::wrong(param, message))
        }
    }
}

/// Refuses a prompt that leaves no room in the context for the answer.
pub fn check_length(n_prompt: usize, max_tokens: usize, limit: usize, param: &str) -> Result<()> {
    let need = n_prompt + max_tokens.min(1);
    match need > limit {
        true => Err(ApiError::too_long(param, need, limit)),
        false => Ok(()),
    }
}

/// Tokenizes prompts, and keeps their texts if they are to be returned.
fn read_prompts(
    prompts: &Prompts,
    model: &Model,
    echo: bool,
    param: &str,
) -> Result<Vec<PromptRead>> {
    let vocab = model.vocab();
    let of_text = |text: &String| -> Result<PromptRead> {
        Ok(PromptRead {
            ids: begun(model, vocab.tokenize(text, Reading::Prompt)?),
            text: text.clone(),
        })
    };
    let of_ids = |ids: &Vec<i32>| -> Result<PromptRead> {
        let ids: Vec<Token> = ids.iter().copied().map(Token).collect();
        for &id in &ids {
            vocab.check(id)?;
        }
        let ids = begun(model, ids);
        let shown = match ids.split_first() {
            Some((first, rest)) if Some(*first) == vocab.bos() => rest,
            _ => &ids[..],
        };
        let text = match echo {
            true => String::from_utf8_lossy(&vocab.detokenize(shown, true)?).into_owned(),
            false => String::new(),
        };
        Ok(PromptRead { ids, text })
    };
    let read: Vec<PromptRead> = match prompts {
        Prompts::Text(text) => vec![of_text(text)?],
        Prompts::Texts(texts) => texts.iter().map(of_text).collect::<Result<_>>()?,
        Prompts::Ids(ids) => vec![of_ids(ids)?],
        Prompts::Lists(lists) => lists.iter().map(of_ids).collect::<Result<_>>()?,
    };
    match read.iter().position(|prompt| prompt.ids.is_empty()) {
        Some(_) => Err(ApiError::wrong(param, "the prompt is empty")),
        None if read.is_empty() => Err(ApiError::wrong(param, "no prompt")),
        None => Ok(read),
    }
}

/// Returns token ids, with a BOS token at the beginning if the model uses one.
pub fn begun(model: &Model, mut ids: Vec<Token>) -> Vec<Token> {
    if ids.is_empty() {
        ids.extend(model.vocab().bos());
    }
    ids
}

/// The form of the answer.
struct Telling {
    id: String,
    created: u64,
    model: String,
    vocab: modelve_runtime::Vocab,
    prepared: Prepared,
}

async fn answer(app: &App, ready: &Ready, mut prepared: Prepared) -> Result<Response> {
    let requests = std::mem::take(&mut prepared.requests);
    let count = requests.len();
    let control = prepared.control.take();
    let told = ready
        .submit(requests, control, ("prompt", "prompt"))
        .await?;
    let telling = Telling {
        id: crate::name("cmpl-"),
        created: crate::unix_time(),
        model: app.config.model.clone(),
        vocab: ready.means.model.vocab().clone(),
        prepared,
    };
    if telling.prepared.stream {
        return Ok(sse::answer(move |events| telling.stream(told, events)));
    }
    let completions = all(told, count).await?;
    Ok(Json(telling.whole(completions)).into_response())
}

/// Collects all completions of a request in order.
///
/// # Errors
/// The first error of a completion.
pub async fn all(
    mut told: UnboundedReceiver<(usize, Told)>,
    count: usize,
) -> Result<Vec<Completion>> {
    let mut done: BTreeMap<usize, Completion> = BTreeMap::new();
    while done.len() < count {
        match told.recv().await {
            Some((index, Told::Done(completion))) => drop(done.insert(index, *completion)),
            Some((_, Told::Failed(error))) => return Err(error),
            Some(_) => {}
            None => return Err(ApiError::unavailable("the server is shutting down")),
        }
    }
    Ok(done.into_values().collect())
}

impl Telling {
    fn part(
        &self,
        choices: Vec<CompletionChoice>,
        usage: Option<Option<Usage>>,
    ) -> CompletionAnswer {
        CompletionAnswer {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: FINGERPRINT,
            choices,
            usage,
        }
    }

    /// Returns the complete answer.
    fn whole(&self, completions: Vec<Completion>) -> CompletionAnswer {
        let Prepared { n, best_of, .. } = self.prepared;
        let mut usage = Usage::default();
        let mut choices = Vec::new();
        for (group, prompt) in completions.chunks(best_of).zip(&self.prepared.prompts) {
            for (i, completion) in group.iter().enumerate() {
                usage.add(completion, i == 0);
            }
            let mut order: Vec<&Completion> = group.iter().collect();
            if best_of > n {
                order.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
            }
            for completion in order.into_iter().take(n) {
                let index = choices.len();
                choices.push(self.choice(index, prompt, completion));
            }
        }
        self.part(choices, Some(Some(usage)))
    }

    fn choice(
        &self,
        index: usize,
        prompt: &PromptRead,
        completion: &Completion,
    ) -> CompletionChoice {
        let Prepared { echo, logprobs, .. } = self.prepared;
        let mut text = String::new();
        let mut told = Logprobs::default();
        if echo {
            text.push_str(&prompt.text);
            if logprobs {
                self.tell_prompt(&mut told, prompt, &completion.prompt);
            }
        }
        if logprobs {
            let mut tally = Tally::from(text.chars().count());
            for step in self.shown(completion) {
                tally.add(&mut told, &self.vocab, step);
            }
        }
        text.push_str(&completion.text);
        CompletionChoice {
            index,
            text,
            logprobs: logprobs.then_some(told),
            finish_reason: Some(finish_reason(completion.finish)),
        }
    }

    /// Returns the tokens of a completion, without those cut off by a stop text, and with the one
    /// that ended it.
    fn shown<'c>(&self, completion: &'c Completion) -> Vec<&'c Step> {
        let mut steps: Vec<&Step> = completion.steps.iter().collect();
        if completion.finish == Finish::Stop && completion.end.is_none() {
            let mut at = 0;
            steps.retain(|step| {
                let begins = at;
                at += bytes_of(&self.vocab, step.token).len();
                begins < completion.text.len()
            });
        }
        steps.extend(&completion.end);
        steps
    }

    /// Adds the tokens of a prompt. `judged` has the log-probabilities of all but the first.
    fn tell_prompt(&self, told: &mut Logprobs, prompt: &PromptRead, judged: &[Step]) {
        let mut tally = Tally::of(&prompt.text);
        if let Some(&first) = prompt.ids.first() {
            tally.add_first(told, &self.vocab, first);
        }
        for step in judged {
            tally.add(told, &self.vocab, step);
        }
    }

    /// Streams the answer.
    async fn stream(
        self,
        mut told: UnboundedReceiver<(usize, Told)>,
        events: Events,
    ) -> std::result::Result<(), Gone> {
        let Prepared {
            n,
            echo,
            logprobs,
            include_usage,
            ..
        } = self.prepared;
        let between = include_usage.then_some(None);
        let prompts = &self.prepared.prompts;
        let count = prompts.len() * n;
        let mut streams: Vec<Parts> = (0..count)
            .map(|i| Parts::new(if echo { &prompts[i / n].text } else { "" }))
            .collect();
        let mut usage = Usage::default();
        let mut left = count;
        if echo && !logprobs {
            for (index, i) in (0..count).enumerate() {
                let choice = CompletionChoice {
                    index,
                    text: prompts[i / n].text.clone(),
                    logprobs: None,
                    finish_reason: None,
                };
                events.send(&self.part(vec![choice], between)).await?;
            }
        }
        while left > 0 {
            let Some((index, said)) = told.recv().await else {
                let error = ApiError::unavailable("the server is shutting down");
                return events.send(&error.body()).await;
            };
            let prompt = &prompts[index / n];
            let parts = &mut streams[index];
            let (text, steps, finish) = match said {
                Told::Prompt(judged) => {
                    let mut logprobs = Logprobs::default();
                    self.tell_prompt(&mut logprobs, prompt, &judged);
                    parts.has_prompt = true;
                    let choice = CompletionChoice {
                        index,
                        text: prompt.text.clone(),
                        logprobs: Some(logprobs),
                        finish_reason: None,
                    };
                    events.send(&self.part(vec![choice], between)).await?;
                    continue;
                }
                Told::Token { step, text } => {
                    parts.held.push(step);
                    if text.is_empty() {
                        continue;
                    }
                    parts.sent += text.len();
                    (text, std::mem::take(&mut parts.held), None)
                }
                Told::Done(completion) => {
                    left -= 1;
                    usage.add(&completion, index % n == 0);
                    // A prompt of one token has no log-probabilities, but is returned as well.
                    if echo && logprobs && !parts.has_prompt {
                        let mut logprobs = Logprobs::default();
                        self.tell_prompt(&mut logprobs, prompt, &[]);
                        let choice = CompletionChoice {
                            index,
                            text: prompt.text.clone(),
                            logprobs: Some(logprobs),
                            finish_reason: None,
                        };
                        events.send(&self.part(vec![choice], between)).await?;
                    }
                    let told = completion.steps.len() - parts.held.len();
                    let shown = self.shown(&completion).into_iter();
                    let steps: Vec<Step> = shown.skip(told).cloned().collect();
                    let rest = completion.text[parts.sent.min(completion.text.len())..].to_owned();
                    (rest, steps, Some(finish_reason(completion.finish)))
                }
                Told::Failed(error) => return events.send(&error.body()).await,
            };
            let logprobs = logprobs.then(|| {
                let mut told = Logprobs::default();
                for step in &steps {
                    parts.tally.add(&mut told, &self.vocab, step);
                }
                told
            });
            let choice = CompletionChoice {
                index,
                text,
                logprobs,
                finish_reason: finish,
            };
            events.send(&self.part(vec![choice], between)).await?;
        }
        if include_usage {
            events
                .send(&self.part(Vec::new(), Some(Some(usage))))
                .await?;
        }
        events.done().await
    }
}

/// The state of a streamed completion.
struct Parts {
    tally: Tally,
    /// Number of bytes that were sent.
    sent: usize,
    /// Tokens whose text was not sent yet.
    held: Vec<Step>,
    /// Whether the prompt was sent.
    has_prompt: bool,
}

impl Parts {
    fn new(echo: &str) -> Self {
        Parts {
            tally: Tally::from(echo.chars().count()),
            sent: 0,
            held: Vec::new(),
            has_prompt: false,
        }
    }
}

/// Returns the mean log-probability of a completion's tokens.
fn mean(completion: &Completion) -> f32 {
    let sum: f32 = completion.steps.iter().map(|step| step.logprob).sum();
    sum / completion.steps.len().max(1) as f32
}
