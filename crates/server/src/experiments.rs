//! Experiments over HTTP: what the commands `why` and `patch` tell with `--json`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use modelve_experiment::measure::{Asked, Name};
use modelve_experiment::patch::{self, Corrupt, What};
use modelve_experiment::{Error as ExperimentError, room, settings, why};
use modelve_runtime::{Session, Token};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::{App, Read};
use crate::error::{ApiError, Result};
use crate::probe_thread::Bench;
use crate::probes::{Named, answer, numbers, told as probe_told, value};

/// Tokens that the two answers of a measure may begin with alike, for which there is room.
const COMMON: usize = 16;
/// The most tokens that are told of a place.
const MOST_TOP: usize = 100;

/// What `why` is asked.
#[derive(Debug, Deserialize, ToSchema)]
pub struct WhyAsked {
    /// The answer to explain, by word or id; the likeliest if it is not said.
    token: Option<Named>,
    /// The answer it is held against; the second likeliest if none is said, with `token` the mean
    /// of all.
    against: Option<Named>,
    /// Whether single tokens are left out, not whole words.
    #[serde(default)]
    tokens: bool,
}

/// What `patch` is asked; its `prompt` is the clean one.
#[derive(Debug, Deserialize, ToSchema)]
pub struct PatchAsked {
    /// The answer to explain, by word or id; the likeliest if it is not said.
    token: Option<Named>,
    /// The answer it is held against; the second likeliest if none is said, with `token` the mean
    /// of all.
    against: Option<Named>,
    /// The prompt into which states of the clean one are put.
    corrupt: String,
    /// What is put: `residual` if it is not said, `attention`, `mlp` or `head`.
    what: Option<String>,
    /// Positions of the corrupt prompt, from the end where negative; all if it is not said.
    positions: Option<Vec<i32>>,
    /// Layers from 0, -1 the last; all if it is not said.
    layers: Option<Vec<i64>>,
    /// How many tokens to tell of each place; 5 if it is not said.
    top: Option<usize>,
    /// Whether to replace all positions of a layer, or all its heads, at once as well.
    #[serde(default)]
    together: bool,
}

/// What an experiment measures.
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

/// An error of an experiment as a client is told it.
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
        ExperimentError::NoPart { .. } => ApiError::bad(message),
        _ => ApiError::internal(message),
    }
}

/// A session for texts of `tokens`, with room for variants beside them where there is memory.
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
