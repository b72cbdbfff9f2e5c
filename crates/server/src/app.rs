//! The state that all requests share, and the routes.

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

/// The state that all requests share.
pub struct App {
    /// The configuration of the server.
    pub config: Config,
    /// The model, once it is loaded.
    ready: OnceLock<Ready>,
    /// Whether the server is shutting down and refuses new requests.
    closing: AtomicBool,
    /// Start time in seconds since 1970.
    pub started: u64,
    /// Counters and state published by the engine's thread.
    pub shared: Arc<Shared>,
}

/// What is needed to read and validate a request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Means {
    /// The model.
    pub model: Model,
    /// The chat template, if the model has one.
    pub template: Option<Arc<str>>,
    /// Context size in tokens: the maximum length of prompt and answer together.
    pub limit: usize,
    /// Number of tokens to generate where the request does not say.
    pub max_tokens: usize,
    /// Control vectors by the names given on the command line.
    pub vectors: Arc<BTreeMap<String, ControlVector>>,
}

/// A loaded model.
pub struct Ready {
    /// What is needed to read and validate a request.
    pub means: Means,
    /// Tokens that stand for no text.
    pub control_tokens: Vec<u32>,
    /// Number of texts that are computed in one batch.
    pub parallel: usize,
    /// Handle to the engine's thread.
    pub engine: Handle,
    /// Handle to the thread of the probes.
    pub probes: Probes,
}

impl Ready {
    /// Runs `prepare` on a thread for blocking work, so that connections are not held up.
    ///
    /// # Errors
    /// The errors of `prepare`.
    pub async fn read<P: Send + 'static>(
        &self,
        bytes: Bytes,
        prepare: fn(&Bytes, &Means) -> Result<P>,
    ) -> Result<P> {
        let means = self.means.clone();
        apart(move || prepare(&bytes, &means)).await
    }

    /// Submits completions that belong together. `count` is the name of the field with their
    /// number, `text` that of the field with the prompt; both are used in errors.
    ///
    /// # Errors
    /// An error about `text` if the engine refuses a prompt, or about `count` if there is no room
    /// for all.
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
    /// Makes the state before the model is loaded.
    pub fn new(config: Config, shared: Arc<Shared>) -> Self {
        App {
            config,
            ready: OnceLock::new(),
            closing: AtomicBool::new(false),
            started: crate::unix_time(),
            shared,
        }
    }

    /// Sets the loaded model.
    pub fn set_ready(&self, ready: Ready) {
        // It is only set once.
        let _ = self.ready.set(ready);
    }

    /// Returns the model.
    ///
    /// # Errors
    /// 503 while the model is loading.
    pub fn ready(&self) -> Result<&Ready> {
        let ready = self.ready.get();
        ready.ok_or_else(|| ApiError::unavailable("Loading model"))
    }

    /// Refuses new requests from now on.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Returns whether new requests are refused.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Returns the counters.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

/// Runs CPU-bound work on a thread for blocking work, so that connections are not held up.
///
/// # Errors
/// The errors of the work.
pub async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let task = tokio::task::spawn_blocking(work).await;
    task.unwrap_or_else(|_| Err(ApiError::internal("the request cannot be read")))
}

/// A body, read within the configured limits.
pub struct Read(pub Bytes);

impl FromRequest<Arc<App>> for Read {
    type Rejection = ApiError;

    async fn from_request(request: HttpRequest, app: &Arc<App>) -> Result<Self> {
        body::read(request.into_body(), &app.config.limits)
            .await
            .map(Read)
    }
}

/// Returns the router with all paths.
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
        // Aliases for the paths of llama.cpp's server.
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
    ApiError::method(format!("{method} is not allowed for {}", uri.path()))
}
