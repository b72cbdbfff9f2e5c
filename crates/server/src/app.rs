//! What all requests share, and which path leads where.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request as HttpRequest, State};
use axum::http::{Method, Uri};
use axum::middleware;
use axum::routing::{get, post};
use modelve_runtime::{ControlVector, Model, Request};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::config::Config;
use crate::engine_thread::{Control, Handle, Shared, Told};
use crate::error::{ApiError, Result};
use crate::metrics::Counters;
use crate::probe_thread::Probes;
use crate::{body, experiments, explore, guard, llama, openai, openapi, probes, status};

/// What all requests share.
pub struct App {
    /// What whoever started the server decided.
    pub config: Config,
    /// The model, once it is loaded.
    ready: OnceLock<Ready>,
    /// Whether nothing new is taken.
    closing: AtomicBool,
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// What the engine's thread tells of itself.
    pub shared: Arc<Shared>,
}

/// What a request is read with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Means {
    /// The model.
    pub model: Model,
    /// The chat template, if there is one.
    pub template: Option<Arc<str>>,
    /// The longest text, in tokens.
    pub limit: usize,
    /// Tokens of an answer whose request does not say how many.
    pub max_tokens: usize,
    /// Control vectors by the names that whoever started the server gave them.
    pub vectors: Arc<BTreeMap<String, ControlVector>>,
}

/// A model that answers.
pub struct Ready {
    /// What requests are read with.
    pub means: Means,
    /// Tokens that stand for no text.
    pub control_tokens: Vec<u32>,
    /// Texts computed at once.
    pub parallel: usize,
    /// The way to the engine.
    pub engine: Handle,
    /// The way to the probes.
    pub probes: Probes,
}

impl Ready {
    /// Reads a request with `prepare`, apart from those who wait for bytes.
    ///
    /// # Errors
    /// Those of `prepare`.
    pub async fn read<P: Send + 'static>(
        &self,
        bytes: Bytes,
        prepare: fn(&Bytes, &Means) -> Result<P>,
    ) -> Result<P> {
        let means = self.means.clone();
        apart(move || prepare(&bytes, &means)).await
    }

    /// Submits completions that belong together. `count` names the field that says how many, `text`
    /// the one that says of what.
    ///
    /// # Errors
    /// What the engine refuses, of `text`; more than there is room for, of `count`.
    pub async fn submit(
        &self,
        requests: Vec<Request>,
        control: Option<Control>,
        (count, text): (&str, &str),
    ) -> Result<UnboundedReceiver<(usize, Told)>> {
        let room = self.engine.room(requests.len(), count)?;
        let told = self.engine.submit(requests, control, room).await;
        told.map_err(|error| error.about(text))
    }
}

impl App {
    /// What requests share before there is a model.
    pub fn new(config: Config, shared: Arc<Shared>) -> Self {
        App {
            config,
            ready: OnceLock::new(),
            closing: AtomicBool::new(false),
            started: crate::unix_time(),
            shared,
        }
    }

    /// The model is there.
    pub fn set_ready(&self, ready: Ready) {
        // It is set once.
        let _ = self.ready.set(ready);
    }

    /// The model.
    ///
    /// # Errors
    /// 503 while it is loaded.
    pub fn ready(&self) -> Result<&Ready> {
        let ready = self.ready.get();
        ready.ok_or_else(|| ApiError::unavailable("Loading model"))
    }

    /// Nothing new is taken from here on.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether nothing new is taken.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// What is counted.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

/// Work that keeps a processor busy, apart from those who wait for bytes.
///
/// # Errors
/// Those of the work.
pub async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let task = tokio::task::spawn_blocking(work).await;
    task.unwrap_or_else(|_| Err(ApiError::internal("the request cannot be read")))
}

/// A body, read within the limits.
pub struct Read(pub Bytes);

impl FromRequest<Arc<App>> for Read {
    type Rejection = ApiError;

    async fn from_request(request: HttpRequest, app: &Arc<App>) -> Result<Self> {
        body::read(request.into_body(), &app.config.limits)
            .await
            .map(Read)
    }
}

/// All paths.
pub fn router(app: Arc<App>) -> Router {
    let exploring = app.config.explore.is_some();
    let guarded = middleware::from_fn_with_state(Arc::clone(&app), guard::guard);
    let router = match exploring {
        true => Router::new()
            .route(explore::PATH, get(explore::page))
            .route("/explore/page", post(explore::keep)),
        false => Router::new(),
    };
    router
        .route("/health", get(status::health))
        // The same under the names that llama.cpp's server has for them.
        .route("/v1/health", get(status::health))
        .route("/models", get(openai::models::list))
        .route("/chat/completions", post(openai::chat::chat))
        .route("/completions", post(llama::completion))
        .route("/responses", post(openai::responses::respond))
        .route("/metrics", get(status::metrics))
        .route("/slots", get(status::slots))
        .route("/props", get(status::props))
        .route("/openapi.json", get(openapi::document))
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*id}", get(openai::models::one))
        .route("/v1/completions", post(openai::completions::complete))
        .route("/v1/chat/completions", post(openai::chat::chat))
        .route("/v1/responses", post(openai::responses::respond))
        .route("/v1/embeddings", post(openai::models::embeddings))
        .route("/tokenize", post(llama::tokenize))
        .route("/detokenize", post(llama::detokenize))
        .route("/apply-template", post(llama::apply_template))
        .route("/completion", post(llama::completion))
        .route("/v1/modelve/next", post(probes::next))
        .route("/v1/modelve/score", post(probes::score))
        .route("/v1/modelve/live", post(probes::live))
        .route("/v1/modelve/lens", post(probes::lens))
        .route("/v1/modelve/attention", post(probes::attention))
        .route("/v1/modelve/why", post(experiments::why))
        .route("/v1/modelve/patch", post(experiments::patch))
        .route("/v1/modelve/ablate", post(experiments::ablate))
        .route("/v1/modelve/heads", post(experiments::heads))
        .route("/v1/modelve/steer", post(experiments::steer))
        .fallback(nowhere)
        .method_not_allowed_fallback(otherwise)
        .layer(guarded)
        .with_state(app)
}

async fn nowhere(State(_): State<Arc<App>>, uri: Uri) -> ApiError {
    ApiError::not_found(format!(
        "no such path: {}; all are in /openapi.json",
        uri.path()
    ))
}

async fn otherwise(method: Method, uri: Uri) -> ApiError {
    ApiError::method(format!("{method} is not for {}", uri.path()))
}
