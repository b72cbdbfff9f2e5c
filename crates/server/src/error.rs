//! Errors in the form of OpenAI's API: an object with a message, a type, and the field at fault.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use modelve_runtime::Error as RuntimeError;
use serde::Serialize;
use utoipa::ToSchema;

/// An error response.
#[derive(Debug, Clone)]
pub struct ApiError(Box<Fault>);

/// The fields of an error response.
#[derive(Debug, Clone)]
struct Fault {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    /// Number of tokens needed, and the number that fits.
    lengths: Option<(usize, usize)>,
    /// A header that tells the client what to send instead.
    header: Option<(HeaderName, &'static str)>,
}

/// `Result` with [`ApiError`].
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// The JSON body of an error response.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    error: ErrorObject,
}

/// The error object of OpenAI's API.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorObject {
    /// The message.
    message: String,
    /// For example `invalid_request_error`, `authentication_error` or `unavailable_error`.
    r#type: &'static str,
    /// The field at fault.
    param: Option<String>,
    /// A code for programs, for some errors.
    code: Option<&'static str>,
    /// For a text that is too long: the number of tokens it needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_prompt_tokens: Option<usize>,
    /// For a text that is too long: the number of tokens that fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_ctx: Option<usize>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        ApiError(Box::new(Fault {
            status,
            kind,
            message: message.into(),
            param: None,
            code: None,
            lengths: None,
            header: None,
        }))
    }

    fn code(mut self, code: &'static str) -> Self {
        self.0.code = Some(code);
        self
    }

    fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.0.header = Some((name, value));
        self
    }

    /// 400: a field has an invalid value.
    pub fn wrong(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::bad(message).about(param)
    }

    /// 400: the request is invalid.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 400: the text is longer than the context.
    pub fn too_long(param: &str, need: usize, n_ctx: usize) -> Self {
        let message = format!(
            "This model's maximum context length is {n_ctx} tokens, but the request needs {need}"
        );
        let mut error = Self::wrong(param, message).code("context_length_exceeded");
        error.0.lengths = Some((need, n_ctx));
        error
    }

    /// 401: the API key is missing or wrong.
    pub fn unauthorized(message: &str) -> Self {
        let status = StatusCode::UNAUTHORIZED;
        Self::new(status, "authentication_error", message)
            .code("invalid_api_key")
            .header(header::WWW_AUTHENTICATE, "Bearer")
    }

    /// 403: requests from this origin or host name are not allowed.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    /// 404: there is no such path.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", message)
    }

    /// 405: the path exists, but not for this method.
    pub fn method(message: impl Into<String>) -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "invalid_request_error", message)
    }

    /// 413: the body is longer than the limit.
    pub fn too_large(most: usize) -> Self {
        let message = format!("the body is longer than {most} bytes");
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self::new(status, "invalid_request_error", message)
    }

    /// 408: the body stalled.
    pub fn too_slow() -> Self {
        let status = StatusCode::REQUEST_TIMEOUT;
        let message = "the body was not received in time";
        Self::new(status, "invalid_request_error", message)
    }

    /// 503: the request can be sent again soon.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "unavailable_error", message).header(header::RETRY_AFTER, "1")
    }

    /// 500: an error that is not the client's.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// Returns the same error about another field.
    pub fn about(mut self, param: impl Into<String>) -> Self {
        self.0.param = Some(param.into());
        self
    }

    /// Returns the message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the JSON body.
    pub fn body(&self) -> ErrorBody {
        let fault = &self.0;
        ErrorBody {
            error: ErrorObject {
                message: fault.message.clone(),
                r#type: fault.kind,
                param: fault.param.clone(),
                code: fault.code,
                n_prompt_tokens: fault.lengths.map(|(need, _)| need),
                n_ctx: fault.lengths.map(|(_, n_ctx)| n_ctx),
            },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.0.status, Json(self.body())).into_response();
        if let Some((name, value)) = self.0.header {
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
            RuntimeError::Memory(_) => {
                Self::wrong("max_tokens", message).code("context_length_exceeded")
            }
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
            RuntimeError::OutOfMemory { .. }
            | RuntimeError::NoSequence { .. }
            | RuntimeError::WorkerLost { .. } => Self::unavailable(message),
            _ => Self::internal(message),
        }
    }
}
