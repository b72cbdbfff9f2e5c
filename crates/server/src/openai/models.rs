//! `/v1/models`: the loaded model.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::error::{ApiError, Result};

/// The list of models, which has one entry.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    object: &'static str,
    data: Vec<ModelObject>,
}

/// The loaded model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelObject {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    meta: ModelMeta,
}

/// Metadata of the model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelMeta {
    architecture: String,
    n_vocab: u32,
    n_embd: u32,
    n_layer: u32,
    n_ctx_train: u32,
    n_ctx: usize,
    /// Size of its weights in bytes.
    size: u64,
}

fn object(app: &App) -> Result<ModelObject> {
    let ready = app.ready()?;
    let facts = ready.means.model.facts();
    Ok(ModelObject {
        id: app.config.model.clone(),
        object: "model",
        created: app.started,
        owned_by: "modelve",
        meta: ModelMeta {
            architecture: facts.arch.clone(),
            n_vocab: ready.means.model.vocab().len(),
            n_embd: facts.n_embd,
            n_layer: facts.n_layer,
            n_ctx_train: facts.n_ctx_train,
            n_ctx: ready.means.limit,
            size: facts.tensor_bytes,
        },
    })
}

/// `/v1/models`.
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Models>> {
    Ok(Json(Models {
        object: "list",
        data: vec![object(&app)?],
    }))
}

/// `/v1/models/NAME`: returns the loaded model for any name.
pub async fn one(State(app): State<Arc<App>>) -> Result<Json<ModelObject>> {
    Ok(Json(object(&app)?))
}

/// `/v1/embeddings`: an error, because embeddings are not supported.
pub async fn embeddings(State(app): State<Arc<App>>) -> Result<Json<()>> {
    app.ready()?;
    Err(ApiError::wrong(
        "model",
        format!(
            "{} is a model that generates text, not one for embeddings",
            app.config.model
        ),
    ))
}
