//! `/openapi.json`: all paths, with the types of requests and answers.

use std::sync::OnceLock;

use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use utoipa::OpenApi;

use crate::{error, experiments, knobs, llama, openai, probes, status};

/// The types of requests and answers.
#[derive(OpenApi)]
#[openapi(components(schemas(
    error::ErrorBody,
    experiments::AblateAsked,
    experiments::HeadsAsked,
    experiments::PatchAsked,
    experiments::SteerAsked,
    experiments::WhyAsked,
    knobs::Knobs,
    llama::DetokenizeRequest,
    llama::Detokenized,
    llama::LlamaRequest,
    llama::TemplateRequest,
    llama::Templated,
    llama::TokenizeRequest,
    openai::chat::ChatAnswer,
    openai::chat::ChatChunk,
    openai::chat::ChatRequest,
    openai::completions::CompletionAnswer,
    openai::completions::CompletionRequest,
    openai::models::ModelObject,
    openai::models::Models,
    openai::responses::ResponseRequest,
    probes::Asking,
    probes::AttentionAsked,
    probes::LensAsked,
    probes::LiveAsked,
    probes::NextAsked,
    probes::ScoreAsked,
    status::Health,
    status::Slot,
)))]
struct Types;

/// A path with its description, request and answer.
struct Path {
    path: &'static str,
    about: &'static str,
    /// The types that a request body combines; empty for GET.
    asked: &'static [&'static str],
    /// The type of the answer; `None` where it depends on the model or the request.
    answered: Option<&'static str>,
    /// Whether it can be streamed as server-sent events.
    streams: bool,
}

const fn get(path: &'static str, about: &'static str, answered: Option<&'static str>) -> Path {
    Path {
        path,
        about,
        asked: &[],
        answered,
        streams: false,
    }
}

const fn post(
    path: &'static str,
    about: &'static str,
    asked: &'static [&'static str],
    answered: Option<&'static str>,
) -> Path {
    Path {
        path,
        about,
        asked,
        answered,
        streams: false,
    }
}

const fn streamed(path: Path) -> Path {
    Path {
        streams: true,
        ..path
    }
}

const PATHS: &[Path] = &[
    get("/health", "Whether the model is loaded", Some("Health")),
    get("/v1/models", "The model", Some("Models")),
    streamed(post(
        "/v1/completions",
        "Continuations of texts",
        &["CompletionRequest", "Knobs"],
        Some("CompletionAnswer"),
    )),
    streamed(post(
        "/v1/chat/completions",
        "The next turn of a conversation",
        &["ChatRequest", "Knobs"],
        Some("ChatAnswer"),
    )),
    streamed(post(
        "/v1/responses",
        "The same in its newer form",
        &["ResponseRequest", "Knobs"],
        None,
    )),
    streamed(post(
        "/completion",
        "The continuation of a text, in the form of llama.cpp's server",
        &["LlamaRequest", "Knobs"],
        None,
    )),
    post(
        "/tokenize",
        "The tokens of a text",
        &["TokenizeRequest"],
        None,
    ),
    post(
        "/detokenize",
        "The text of tokens",
        &["DetokenizeRequest"],
        Some("Detokenized"),
    ),
    post(
        "/apply-template",
        "A conversation in the model's template",
        &["TemplateRequest"],
        Some("Templated"),
    ),
    get("/props", "Properties of the model", None),
    get(
        "/slots",
        "The completions that are computed or waiting",
        None,
    ),
    get("/metrics", "Counters in Prometheus' text format", None),
    streamed(post(
        "/v1/modelve/next",
        "What the model expects after a prompt",
        &["Asking", "NextAsked"],
        None,
    )),
    streamed(post(
        "/v1/modelve/score",
        "How likely the model finds a text",
        &["Asking", "ScoreAsked"],
        None,
    )),
    streamed(post(
        "/v1/modelve/live",
        "What comes next in a text that is being written, and how likely each token was",
        &["Asking", "LiveAsked"],
        None,
    )),
    streamed(post(
        "/v1/modelve/lens",
        "What the model would say if it stopped after a layer",
        &["Asking", "LensAsked"],
        None,
    )),
    streamed(post(
        "/v1/modelve/attention",
        "What the heads of each layer attend to",
        &["Asking", "AttentionAsked"],
        None,
    )),
    streamed(post(
        "/v1/modelve/why",
        "The words an answer depends on, and the contributions of the model's parts",
        &["Asking", "WhyAsked"],
        None,
    )),
    streamed(post(
        "/v1/modelve/patch",
        "Where the difference between two prompts is represented",
        &["Asking", "PatchAsked"],
        None,
    )),
    streamed(post(
        "/v1/modelve/ablate",
        "What the model says without some of its parts, and which of them matter",
        &["Asking", "AblateAsked"],
        None,
    )),
    streamed(post(
        "/v1/modelve/heads",
        "What each head does",
        &["Asking", "HeadsAsked"],
        None,
    )),
    streamed(post(
        "/v1/modelve/steer",
        "What the model says with a control vector",
        &["Asking", "SteerAsked"],
        None,
    )),
];

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn whole() -> Value {
    let mut document = serde_json::to_value(Types::openapi()).unwrap_or_default();
    document["info"] = json!({
        "title": "modelve",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "A model that stays loaded. Requests may name any model.",
    });
    document["components"]["securitySchemes"] = json!({
        "key": {"type": "http", "scheme": "bearer"},
    });
    let mut paths = serde_json::Map::new();
    for path in PATHS {
        let mut content = serde_json::Map::new();
        let kind = match path.path {
            "/metrics" => "text/plain",
            _ => "application/json",
        };
        let schema = path.answered.map_or_else(|| json!({}), reference);
        content.insert(kind.to_owned(), json!({"schema": schema}));
        if path.streams {
            content.insert(
                "text/event-stream".to_owned(),
                json!({"schema": {"type": "string"}}),
            );
        }
        let mut responses = json!({"200": {"description": "Done", "content": content}});
        let faults: &[(&str, &str)] = match path.asked {
            [] => &[
                ("401", "No key"),
                ("403", "Not from there"),
                ("503", "Not now"),
            ],
            _ => &[
                ("400", "The request is invalid"),
                ("401", "No key"),
                ("403", "Not from there"),
                ("408", "The body stalled"),
                ("413", "The body is too long"),
                ("503", "Not now"),
            ],
        };
        for (status, about) in faults {
            responses[status] = json!({
                "description": about,
                "content": {"application/json": {"schema": reference("ErrorBody")}},
            });
        }
        let mut operation = json!({"summary": path.about, "responses": responses});
        if path.path != "/health" {
            operation["security"] = json!([{"key": []}, {}]);
        }
        if !path.asked.is_empty() {
            let all: Vec<Value> = path.asked.iter().map(|name| reference(name)).collect();
            operation["requestBody"] = json!({
                "required": true,
                "content": {"application/json": {"schema": {"allOf": all}}},
            });
        }
        let method = if path.asked.is_empty() { "get" } else { "post" };
        paths.insert(path.path.to_owned(), json!({method: operation}));
    }
    document["paths"] = Value::Object(paths);
    document
}

/// Returns the document.
pub async fn document() -> Response {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let bytes = DOCUMENT.get_or_init(|| whole().to_string().into());
    ([(header::CONTENT_TYPE, "application/json")], bytes.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    match value.as_str().filter(|_| key == "$ref") {
                        Some(name) => found.push(name.to_owned()),
                        None => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_type_that_is_named_is_there() {
        let document = whole();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 50);
        for name in found {
            let pointer = name.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{name}");
        }
    }
}
