//! Request bodies: read within limits, and parsed with errors that name the field.

use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::Limits;
use crate::error::{ApiError, Result};

/// Reads a whole body.
///
/// # Errors
/// 413 if it is too long, 408 if it stalls, 400 if the connection closes before its end.
pub async fn read(mut body: Body, limits: &Limits) -> Result<Bytes> {
    let mut bytes = Vec::new();
    // The whole body has a time limit as well, against clients that send a byte now and then.
    let all = tokio::time::timeout(10 * limits.pause, async {
        while let Some(frame) = next(&mut body, limits.pause).await? {
            if bytes.len() + frame.len() > limits.body {
                return Err(ApiError::too_large(limits.body));
            }
            bytes.extend_from_slice(&frame);
        }
        Ok(())
    });
    all.await.map_err(|_| ApiError::too_slow())??;
    Ok(bytes.into())
}

async fn next(body: &mut Body, pause: Duration) -> Result<Option<Bytes>> {
    let frame = tokio::time::timeout(pause, body.frame());
    match frame.await.map_err(|_| ApiError::too_slow())? {
        None => Ok(None),
        // Trailers are ignored.
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
        Some(Err(_)) => Err(ApiError::bad("the body is incomplete")),
    }
}

/// Parses a body as a JSON object.
///
/// # Errors
/// The body is not a JSON object.
pub fn json(bytes: &[u8]) -> Result<Value> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| ApiError::bad(format!("the body is not JSON: {error}")))?;
    match value {
        Value::Object(_) => Ok(value),
        _ => Err(ApiError::bad("the body is not a JSON object")),
    }
}

/// Deserializes a request. Unknown fields are ignored, as by OpenAI's server.
///
/// # Errors
/// Names the first field that is missing or has the wrong type.
pub fn parse<T: DeserializeOwned>(value: &Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let reason = readable(&error.inner().to_string());
        match path.as_str() {
            // The path does not include a missing field; its name is in the reason.
            "." | "?" => match reason.split('`').nth(1) {
                Some(name) if reason.starts_with("missing field") => {
                    ApiError::wrong(name, reason.clone())
                }
                _ => ApiError::bad(reason),
            },
            _ => ApiError::wrong(path.clone(), format!("{path}: {reason}")),
        }
    })
}

/// serde's words for expected values, and those of JSON.
const EXPECTED: [(&str, &str); 6] = [
    ("expected usize", "expected a whole number from 0"),
    ("expected u64", "expected a whole number from 0"),
    ("expected u32", "expected a whole number from 0"),
    ("expected i32", "expected a whole number"),
    ("expected f32", "expected a number"),
    ("expected f64", "expected a number"),
];

/// Replaces the names of Rust's types in serde's message.
fn readable(reason: &str) -> String {
    let found = EXPECTED
        .iter()
        .find_map(|(rust, words)| Some((reason.strip_suffix(rust)?, words)));
    found.map_or_else(
        || reason.to_owned(),
        |(before, words)| format!("{before}{words}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Asked {
        #[allow(dead_code)]
        messages: Vec<Message>,
    }

    #[derive(Debug, Deserialize)]
    struct Message {
        #[allow(dead_code)]
        role: String,
        #[allow(dead_code)]
        weight: Option<f32>,
        #[allow(dead_code)]
        count: Option<usize>,
    }

    fn fault(body: &str) -> String {
        let parsed = json(body.as_bytes()).and_then(|value| parse::<Asked>(&value));
        let body = serde_json::to_value(parsed.unwrap_err().body()).unwrap();
        let text = |name: &str| body["error"][name].as_str().unwrap_or("-").to_owned();
        format!("{} | {}", text("param"), text("message"))
    }

    #[test]
    fn the_field_at_fault_is_named() {
        assert_eq!(fault("{}"), "messages | missing field `messages`");
        assert!(fault(r#"{"messages": [{"role": 3}]}"#).starts_with("messages[0].role | "));
        assert!(fault(r#"{"messages": 1}"#).starts_with("messages | messages: invalid type"));
        let text = fault(r#"{"messages": [{"role": "a", "weight": "x"}]}"#);
        assert!(text.ends_with("expected a number"), "{text}");
        let negative = fault(r#"{"messages": [{"role": "a", "count": -1}]}"#);
        assert!(
            negative.ends_with("expected a whole number from 0"),
            "{negative}"
        );
        assert!(fault("[1]").starts_with("- | the body is not a JSON object"));
        assert!(fault("{").starts_with("- | the body is not JSON: EOF"));
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(fault(&deep).contains("recursion limit"));
    }
}
