//! What went wrong with a request, in the words of the interface that it came through.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use gemma4_core::dialogue::DialogueError;
use serde_json::{Value, json};

use super::fields::BadField;
use crate::serve::dialogue::Failed;
use crate::serve::job::Refused;

/// Whose error bodies a client understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Vendor {
    /// OpenAI's, and that of everything beside `/v1/messages`.
    #[default]
    OpenAi,
    /// Anthropic's.
    Anthropic,
}

impl Vendor {
    /// Whose interface a path belongs to.
    pub(crate) fn of(path: &str) -> Self {
        if path.starts_with("/v1/messages") { Self::Anthropic } else { Self::OpenAi }
    }
}

/// A request that is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// HTTP's word for it.
    pub(crate) status: StatusCode,
    /// One sentence for a person.
    pub(crate) message: String,
    /// The key that is wrong.
    pub(crate) param: Option<String>,
    /// A word for programs.
    pub(crate) code: Option<&'static str>,
    /// When to try again.
    pub(crate) retry_after: Option<Duration>,
}

impl ApiError {
    /// An error without further details.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// The request makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// With a word for programs.
    pub(crate) fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// With the time to come back.
    pub(crate) fn retry(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    fn kind(&self, vendor: Vendor) -> &'static str {
        match (vendor, self.status.as_u16()) {
            (Vendor::Anthropic, 401) => "authentication_error",
            (Vendor::Anthropic, 403) => "permission_error",
            (_, 404) => "not_found_error",
            (Vendor::Anthropic, 413) => "request_too_large",
            (_, 429) => "rate_limit_error",
            (Vendor::Anthropic, 503) => "overloaded_error",
            (Vendor::Anthropic, 408 | 504) => "timeout_error",
            (_, 400..500) => "invalid_request_error",
            (Vendor::Anthropic, _) => "api_error",
            (Vendor::OpenAi, _) => "server_error",
        }
    }

    /// The body, as the vendor shapes it; also what a stream sends when it fails midway.
    pub(crate) fn body(&self, vendor: Vendor) -> Value {
        let (kind, message) = (self.kind(vendor), &self.message);
        match vendor {
            Vendor::OpenAi => json!({
                "error": { "message": message, "type": kind, "param": self.param, "code": self.code }
            }),
            Vendor::Anthropic => json!({
                "type": "error", "error": { "type": kind, "message": message }
            }),
        }
    }

    /// The whole response.
    pub(crate) fn response(&self, vendor: Vendor) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body(vendor).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<BadField> for ApiError {
    fn from(bad: BadField) -> Self {
        Self { param: Some(bad.path).filter(|path| !path.is_empty()), ..Self::invalid(bad.message) }
    }
}

impl From<DialogueError> for ApiError {
    fn from(error: DialogueError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Busy { retry_after } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, message).code("queue_full").retry(retry_after)
            }
            Refused::TooLong { .. } => Self::invalid(format!(
                "{message}; shorten it, or start the server with a larger --ctx (maximum context length)"
            ))
            .code("context_length_exceeded"),
            Refused::Draining => Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
                .code("shutting_down")
                .retry(Duration::from_secs(5)),
            Refused::Broken(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("model_unavailable")
            }
            Refused::Invalid(_) => Self::invalid(message),
        }
    }
}

impl From<Failed> for ApiError {
    fn from(failed: Failed) -> Self {
        let message = failed.to_string();
        match failed {
            Failed::Refused(refused) => refused.into(),
            Failed::Dialogue(error) => error.into(),
            Failed::Rule { key, why } => BadField::new(key, why).into(),
            Failed::Call { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("invalid_tool_call")
            }
            Failed::Deadline => Self::new(StatusCode::GATEWAY_TIMEOUT, message).code("timeout"),
            Failed::Cancelled => Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
                .code("shutting_down")
                .retry(Duration::from_secs(5)),
            Failed::Engine(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("engine_failed"),
        }
    }
}
