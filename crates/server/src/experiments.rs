//! Experiments over HTTP: the JSON of the commands `why`, `patch`, `ablate`, `heads` and `steer
//! run`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use modelve_experiment::ablate;
use modelve_experiment::detect;
use modelve_experiment::measure::{Asked, Name};
use modelve_experiment::patch::{self, Corrupt, What};
use modelve_experiment::removal::{Kind, With};
use modelve_experiment::steer::{self, Run, Source, Steered};
use modelve_experiment::{Error as ExperimentError, Spot, exact, room, settings, why};
use modelve_probe::Subject;
use modelve_runtime::{Error as RuntimeError, Session, Settings, Token};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::{App, Read};
use crate::error::{ApiError, Result};
use crate::knobs::{Share, sum};
use crate::probe_thread::Bench;
use crate::probes::{Named, answer, numbers, told as probe_told, value};

/// Number of tokens of room for the common beginning of the two answers of a measure.
const COMMON: usize = 16;
/// Maximum number of likeliest tokens per place.
const MOST_TOP: usize = 100;

/// Request to `why`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct WhyAsked {
    /// The answer to explain, as text or id; default: the likeliest token.
    token: Option<Named>,
    /// The answer to compare it with; default: the second likeliest token, or with `token` the mean
    /// of the vocabulary.
    against: Option<Named>,
    /// Whether to leave out single tokens instead of words.
    #[serde(default)]
    tokens: bool,
}

/// Request to `patch`; `prompt` is the clean prompt.
#[derive(Debug, Deserialize, ToSchema)]
pub struct PatchAsked {
    /// The answer to explain, as text or id; default: the likeliest token.
    token: Option<Named>,
    /// The answer to compare it with; default: the second likeliest token, or with `token` the mean
    /// of the vocabulary.
    against: Option<Named>,
    /// The corrupt prompt, into which states of the clean one are put.
    corrupt: String,
    /// The value to replace: `residual` (default), `attention`, `mlp` or `head`.
    what: Option<String>,
    /// Positions of the corrupt prompt; negative ones count from the end; default: all.
    positions: Option<Vec<i32>>,
    /// Layers from 0, -1 for the last; default: all.
    layers: Option<Vec<i64>>,
    /// Number of likeliest tokens per place; default: 5.
    top: Option<usize>,
    /// Whether to replace all positions of a layer, or all its heads, at once as well.
    #[serde(default)]
    together: bool,
}

/// Request to `ablate`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct AblateAsked {
    /// The answer to explain, as text or id; default: the likeliest token.
    token: Option<Named>,
    /// The answer to compare it with; default: the second likeliest token, or with `token` the mean
    /// of the vocabulary.
    against: Option<Named>,
    /// Parts to remove together, such as `5.3`, `attn.5`, `mlp.5`, `layer.5`, `embed`, `mlp.5@-1`.
    #[serde(default)]
    parts: Vec<String>,
    /// Instead of `parts`: `heads`, `attn`, `mlp` or `layers`, each of which is removed in turn.
    all: Option<String>,
    /// The values that replace their output: `zero` (default) or `mean`.
    with: Option<String>,
    /// Number of likeliest tokens per distribution; default: 10.
    top: Option<usize>,
    /// Number of tokens to generate with and without the parts; default: 0.
    max_tokens: Option<usize>,
}

/// Request to `heads`, which needs no `prompt`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct HeadsAsked {
    /// Number of tokens to return of those that each head promotes; default: 5.
    top: Option<usize>,
    /// Number of random tokens before they are repeated; default: 50.
    length: Option<usize>,
    /// Number of sequences of random tokens; default: 2.
    draws: Option<usize>,
    /// Seed of the random numbers; default: 0.
    seed: Option<u64>,
}

/// Makes the measure of an experiment from the request's fields.
fn measure(token: Option<&Named>, against: Option<&Named>) -> Asked {
    let name = |named: &Named| match named {
        Named::Id(id) => Name::Id(Token(*id)),
        Named::Text(text) => Name::Text(text.clone()),
    };
    Asked {
        token: token.map(name),
        against: against.map(name),
    }
}

/// Turns an error of an experiment into a response.
fn told(error: ExperimentError) -> ApiError {
    let message = error.to_string();
    match error {
        ExperimentError::Runtime(error) => error.into(),
        ExperimentError::Probe(error) => probe_told(error),
        ExperimentError::NoPosition { .. } | ExperimentError::Unaligned { .. } => {
            ApiError::wrong("positions", message)
        }
        ExperimentError::EmptyName { .. } | ExperimentError::SameTokens { .. } => {
            ApiError::wrong("token", message)
        }
        ExperimentError::NoPart { .. }
        | ExperimentError::NotAPart { .. }
        | ExperimentError::NotRemovable { .. } => ApiError::wrong("parts", message),
        ExperimentError::Unsupported { .. } => ApiError::bad(message),
        _ => ApiError::internal(message),
    }
}

/// Makes a session for texts of `tokens` tokens, with room for variants where there is memory for
/// it.
fn session(bench: &Bench, tokens: usize) -> Result<Session> {
    let settings = settings(&bench.model, bench.base.clone());
    bench.beside(tokens + COMMON, room(tokens + COMMON), settings)
}

/// `/v1/modelve/why`.
pub async fn why(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    answer(&app, bytes, |to, asking, asked: WhyAsked| {
        let prompt = asking.prompt(to)?;
        let options = why::Options {
            asked: measure(asked.token.as_ref(), asked.against.as_ref()),
            by_token: asked.tokens,
            ..why::Options::default()
        };
        let work = move |bench: &mut Bench, progress: &mut dyn FnMut(usize, usize)| {
            let mut session = session(bench, prompt.ids.len())?;
            let found = why::why(&mut session, &prompt, &options, progress);
            value(found.map_err(told)?)
        };
        Ok(work)
    })
    .await
}

/// `/v1/modelve/patch`.
pub async fn patch(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    answer(&app, bytes, |to, asking, asked: PatchAsked| {
        let clean = asking.prompt(to)?;
        let corrupt = asking.read(to, &asked.corrupt, true);
        let corrupt = corrupt.map_err(|error| error.about("corrupt"))?;
        let n_layer = to.model.facts().n_layer as usize;
        let options = patch::Options {
            asked: measure(asked.token.as_ref(), asked.against.as_ref()),
            what: what(asked.what.as_deref())?,
            positions: asked.positions,
            layers: numbers(asked.layers.as_deref(), n_layer, "layers")?,
            top: asked.top.unwrap_or(5).min(MOST_TOP),
            together: asked.together,
        };
        let work = move |bench: &mut Bench, progress: &mut dyn FnMut(usize, usize)| {
            let longest = clean.ids.len().max(corrupt.ids.len());
            let mut session = session(bench, longest)?;
            let corrupt = Corrupt::Prompt(corrupt);
            let found = patch::patch(&mut session, &clean, &corrupt, &options, progress);
            value(found.map_err(told)?)
        };
        Ok(work)
    })
    .await
}

/// Maximum number of tokens that `ablate` generates.
const MOST_WRITTEN: usize = 1000;
/// Maximum number of sequences of random tokens.
const MOST_DRAWS: usize = 100;

/// `/v1/modelve/ablate`.
pub async fn ablate(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    answer(&app, bytes, |to, asking, asked: AblateAsked| {
        let prompt = asking.prompt(to)?;
        let kind = asked.all.as_deref().map(kind).transpose()?;
        if asked.parts.is_empty() == kind.is_none() {
            let message = "parts to remove, or all parts of a kind";
            return Err(ApiError::wrong("parts", message));
        }
        let parts = asked.parts.iter().map(|part| part.trim().parse::<Spot>());
        let options = ablate::Options {
            asked: measure(asked.token.as_ref(), asked.against.as_ref()),
            spots: parts.collect::<Result<_, _>>().map_err(told)?,
            with: match asked.with.as_deref() {
                None | Some("zero") => With::Zero,
                Some("mean") => With::Mean,
                Some(other) => {
                    let message = format!("{other:?} is not zero or mean");
                    return Err(ApiError::wrong("with", message));
                }
            },
            top: asked.top.unwrap_or(10).min(MOST_TOP),
            max_tokens: asked.max_tokens.unwrap_or(0).min(MOST_WRITTEN),
        };
        let work = move |bench: &mut Bench, progress: &mut dyn FnMut(usize, usize)| {
            let room = prompt.ids.len() + options.max_tokens;
            let mut session = session(bench, room)?;
            match kind {
                None => {
                    value(ablate::ablate(&mut session, &prompt, &options, progress).map_err(told)?)
                }
                Some(kind) => value(
                    ablate::rank(&mut session, &prompt, kind, &options, progress).map_err(told)?,
                ),
            }
        };
        Ok(work)
    })
    .await
}

fn kind(name: &str) -> Result<Kind> {
    Ok(match name {
        "heads" => Kind::Heads,
        "attn" => Kind::Attention,
        "mlp" => Kind::Mlps,
        "layers" => Kind::Layers,
        other => {
            let message = format!("{other:?} is not heads, attn, mlp or layers");
            return Err(ApiError::wrong("all", message));
        }
    })
}

/// `/v1/modelve/heads`.
pub async fn heads(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    answer(&app, bytes, |to, asking, asked: HeadsAsked| {
        let prompt = match asking.has_prompt() {
            true => Some(asking.prompt(to)?),
            false => None,
        };
        let given = detect::Options::default();
        let options = detect::Options {
            seed: asked.seed.unwrap_or(given.seed),
            length: asked.length.unwrap_or(given.length),
            draws: asked.draws.unwrap_or(given.draws),
            top: asked.top.unwrap_or(given.top).min(MOST_TOP),
        };
        if !(2..=1 << 20).contains(&options.length) {
            let message = format!("from 2 random tokens, not {}", options.length);
            return Err(ApiError::wrong("length", message));
        }
        if !(1..=MOST_DRAWS).contains(&options.draws) {
            let message = format!("1 to {MOST_DRAWS} draws, not {}", options.draws);
            return Err(ApiError::wrong("draws", message));
        }
        let longest = options.longest(&to.model, prompt.as_ref());
        let total = options.total(&to.model, prompt.as_ref());
        let work = move |bench: &mut Bench, progress: &mut dyn FnMut(usize, usize)| {
            // The server's rule for the type of the KV cache applies where its flags leave it open.
            bench.unfused()?;
            let settings = detect::settings(&bench.model, longest, bench.base.clone());
            let mut session = bench.own(longest, settings)?;
            let mut on_progress = |done: usize| progress(done, total);
            let found = detect::heads(&mut session, prompt.as_ref(), &options, &mut on_progress);
            value(found.map_err(told)?)
        };
        Ok(work)
    })
    .await
}

/// Request to `steer`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct SteerAsked {
    /// The control vectors to add up, by the names given on the server's command line.
    #[serde(default)]
    control_vectors: Vec<Share>,
    /// Factors of their sum, with one answer for each; default: 1.
    scale: Option<Vec<f32>>,
    /// The layers whose directions are added; default: all that have one.
    layers: Option<Vec<i64>>,
    /// Number of likeliest tokens per distribution; default: 8.
    top: Option<usize>,
    /// Number of tokens to generate for each answer; default: 32.
    max_tokens: Option<usize>,
}

/// Maximum number of scales in one request.
const MOST_SCALES: usize = 16;

/// `/v1/modelve/steer`.
pub async fn steer(State(app): State<Arc<App>>, Read(bytes): Read) -> Result<Response> {
    answer(&app, bytes, |to, asking, asked: SteerAsked| {
        let prompt = asking.prompt(to)?;
        let Some(vector) = sum(&asked.control_vectors, to)? else {
            let message = "the name of a control vector is needed";
            return Err(ApiError::wrong("control_vectors", message));
        };
        let n_layer = to.model.facts().n_layer as usize;
        let vector = match numbers(asked.layers.as_deref(), n_layer, "layers")? {
            Some(layers) => vector.only(&layers),
            None => Ok(vector),
        };
        let vector = vector.map_err(|error| ApiError::wrong("layers", error.to_string()))?;
        let scales = asked.scale.unwrap_or_else(|| vec![1.0]);
        if !(1..=MOST_SCALES).contains(&scales.len()) {
            let message = format!("1 to {MOST_SCALES} scales, not {}", scales.len());
            return Err(ApiError::wrong("scale", message));
        }
        // The scale and vector of each answer; the first has none.
        let mut given = vec![(0.0, None)];
        for scale in scales {
            let scaled = vector.clone().scaled(scale);
            let scaled = scaled.map_err(|error| ApiError::wrong("scale", error.to_string()))?;
            given.push((scale, Some(Arc::new(scaled))));
        }
        let options = steer::Options {
            top: asked.top.unwrap_or(8).min(MOST_TOP),
            max_tokens: asked.max_tokens.unwrap_or(32).min(MOST_WRITTEN),
            ctx_size: u32::try_from(to.limit).ok(),
        };
        let files = asked.control_vectors.into_iter().map(|share| Source {
            scale: share.scale.unwrap_or(1.0),
            file: share.name,
        });
        let files = files.collect();
        let work = move |bench: &mut Bench, progress: &mut dyn FnMut(usize, usize)| {
            let model = bench.model.clone();
            let total = given.len();
            let mut runs: Vec<Run> = Vec::with_capacity(total);
            for (scale, control) in given {
                let settings = Settings {
                    control,
                    ..exact(bench.base.clone())
                };
                let session = bench.own(prompt.ids.len(), settings)?;
                let answer = steer::answer(session, &prompt, options).map_err(told)?;
                let (next, text) = answer.ok_or(RuntimeError::Cancelled)?;
                let plain = runs.first().map(|run| &run.next);
                let run = Run::new(model.vocab(), plain, scale, next, text);
                runs.push(run);
                progress(runs.len(), total);
            }
            modelve_probe::next::beside(model.vocab(), runs.iter_mut().map(|run| &mut run.next));
            value(Steered {
                model: Subject::of(&model),
                prompt: prompt.text,
                ids: prompt.ids,
                files,
                layers: vector.directions().map(|(layer, _)| layer).collect(),
                runs,
                complete: true,
            })
        };
        Ok(work)
    })
    .await
}

fn what(name: Option<&str>) -> Result<What> {
    Ok(match name {
        None | Some("residual") => What::Residual,
        Some("attention") => What::Attention,
        Some("mlp") => What::Mlp,
        Some("head") => What::Head,
        Some(other) => {
            let message = format!("{other:?} is not residual, attention, mlp or head");
            return Err(ApiError::wrong("what", message));
        }
    })
}
