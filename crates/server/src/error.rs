//! Errors as OpenAI's API has them: an object with a message, a type, and the field at fault.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use modelve_runtime::Error as RuntimeError;
use serde::Serialize;
use utoipa::ToSchema;

/// What a client is told when its request is not served.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    /// Tokens that are needed, and those that fit.
    lengths: Option<(usize, usize)>,
    /// A header that tells how to ask better.
    header: Option<(HeaderName, &'static str)>,
}

/// `Result` with [`ApiError`].
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// An error as it is written.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    error: ErrorObject,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorObject {
    /// In words.
    message: String,
    /// `invalid_request_error`, `authentication_error`, `unavailable_error` and their like.
    r#type: &'static str,
    /// The field at fault.
    param: Option<String>,
    /// A name for programs, where there is one.
    code: Option<&'static str>,
    /// Of a text that is too long: the tokens that it needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_prompt_tokens: Option<usize>,
    /// Of a text that is too long: the tokens that fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_ctx: Option<usize>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            status,
            kind,
            message: message.into(),
            param: None,
            code: None,
            lengths: None,
            header: None,
        }
    }

    /// A field whose value makes no sense.
    pub fn wrong(param: impl Into<String>, message: impl Into<String>) -> Self {
        ApiError {
            param: Some(param.into()),
            ..Self::bad(message)
        }
    }

    /// A request that makes no sense.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// A text that is longer than the context.
    pub fn too_long(param: &str, need: usize, n_ctx: usize) -> Self {
        let message = format!(
            "This model's maximum context length is {n_ctx} tokens, but the request needs {need}"
        );
        ApiError {
            code: Some("context_length_exceeded"),
            lengths: Some((need, n_ctx)),
            ..Self::wrong(param, message)
        }
    }

    /// A request without the key.
    pub fn unauthorized(message: &str) -> Self {
        ApiError {
            code: Some("invalid_api_key"),
            header: Some((header::WWW_AUTHENTICATE, "Bearer")),
            ..Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message)
        }
    }

    /// A request from where none is taken.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    /// A path that is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", message)
    }

    /// A path that is asked in another way.
    pub fn method(message: impl Into<String>) -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "invalid_request_error", message)
    }

    /// A body that is longer than is read.
    pub fn too_large(most: usize) -> Self {
        let message = format!("the body is longer than {most} bytes");
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self::new(status, "invalid_request_error", message)
    }

    /// A body that does not come.
    pub fn too_slow() -> Self {
        let status = StatusCode::REQUEST_TIMEOUT;
        let message = "the body did not come in time";
        Self::new(status, "invalid_request_error", message)
    }

    /// Not now, but soon.
    pub fn unavailable(message: impl Into<String>) -> Self {
        ApiError {
            header: Some((header::RETRY_AFTER, "1")),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable_error",
                message,
            )
        }
    }

    /// What is nobody's fault who asks.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// The same about another field.
    pub fn about(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// In words.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The object that tells it.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorObject {
                message: self.message.clone(),
                r#type: self.kind,
                param: self.param.clone(),
                code: self.code,
                n_prompt_tokens: self.lengths.map(|(need, _)| need),
                n_ctx: self.lengths.map(|(_, n_ctx)| n_ctx),
            },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some((name, value)) = self.header {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<RuntimeError> for ApiError {
    fn from(error: RuntimeError) -> Self {
        let message = error.to_string();
        match error {
            RuntimeError::ContextFull { need, n_ctx } => Self::too_long("prompt", need, n_ctx),
            RuntimeError::Memory(_) => ApiError {
                code: Some("context_length_exceeded"),
                ..Self::wrong("max_tokens", message)
            },
            RuntimeError::TokenRange { .. }
            | RuntimeError::Unencodable { .. }
            | RuntimeError::EmptyPrompt
            | RuntimeError::NoVocabulary => Self::wrong("prompt", message),
            RuntimeError::Temperature { .. } => Self::wrong("temperature", message),
            RuntimeError::Sampling { name, .. } => {
                Self::wrong(name.replace([' ', '-'], "_"), message)
            }
            RuntimeError::LogitBias { .. } => Self::wrong("logit_bias", message),
            RuntimeError::Grammar(_) => Self::wrong("grammar", message),
            RuntimeError::Template(_) => Self::wrong("messages", message),
            RuntimeError::NothingToSample => Self::bad(message),
            RuntimeError::Cancelled => Self::unavailable("the server is shutting down"),
            RuntimeError::OutOfMemory { .. } | RuntimeError::NoSequence { .. } => {
                Self::unavailable(message)
            }
            _ => Self::internal(message),
        }
    }
}
