//! The state of the server, for people and for monitoring.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::app::App;
use crate::error::Result;
use crate::metrics;

/// Answer of `/health`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    status: &'static str,
}

/// `/health`: 503 while the model is loading.
pub async fn health(State(app): State<Arc<App>>) -> Result<Json<Health>> {
    app.ready()?;
    if app.is_closing() {
        return Err(crate::error::ApiError::unavailable(
            "the server is shutting down",
        ));
    }
    Ok(Json(Health { status: "ok" }))
}

/// `/metrics` in Prometheus' text format.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = metrics::text(app.counters(), &app.shared.snapshot());
    let mut response = text.into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A sequence of the engine and its request.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Slot {
    id: usize,
    is_processing: bool,
    /// The number of the request that uses it.
    id_task: Option<usize>,
    n_prompt_tokens: usize,
    n_decoded: usize,
}

/// `/slots`: the sequences of the engine and their requests.
pub async fn slots(State(app): State<Arc<App>>) -> Result<Json<Vec<Slot>>> {
    let parallel = app.ready()?.parallel;
    let tasks = app.shared.snapshot().tasks;
    let slot = |id| match tasks.get(id) {
        None => Slot {
            id,
            ..Slot::default()
        },
        Some(task) => Slot {
            id,
            is_processing: true,
            id_task: Some(task.id),
            n_prompt_tokens: task.n_prompt,
            n_decoded: task.n_decoded,
        },
    };
    Ok(Json((0..parallel).map(slot).collect()))
}

/// `/props`: properties of the model.
pub async fn props(State(app): State<Arc<App>>) -> Result<Json<Value>> {
    let ready = app.ready()?;
    let vocab = ready.means.model.vocab();
    let facts = ready.means.model.facts();
    let name = |token: Option<modelve_runtime::Token>| {
        let piece = token.and_then(|token| vocab.piece(token, true).ok());
        piece.map(|piece| String::from_utf8_lossy(&piece).into_owned())
    };
    Ok(Json(json!({
        "model_alias": app.config.model,
        "build_info": concat!("modelve ", env!("CARGO_PKG_VERSION")),
        "architecture": facts.arch,
        "n_vocab": vocab.len(),
        "n_layer": facts.n_layer,
        "n_head": facts.n_head,
        "n_embd": facts.n_embd,
        "n_ctx_train": facts.n_ctx_train,
        "total_slots": ready.parallel,
        "default_generation_settings": {"n_ctx": ready.means.limit},
        "bos_token": name(vocab.bos()),
        "eos_token": name(vocab.eos()),
        "control_vectors": ready.means.vectors.keys().collect::<Vec<_>>(),
        "control_tokens": ready.control_tokens,
        "chat_template": ready.means.template.as_deref(),
        "modalities": {"vision": false, "audio": false},
    })))
}
