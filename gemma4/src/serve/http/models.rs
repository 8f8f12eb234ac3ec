//! `/v1/models`, `/health` and `/metrics`: what is served and how it is doing.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::error::{ApiError, Vendor};
use super::metrics::{self, Page};
use super::record::{Record, rfc3339};
use super::{App, Shared, answer, reply};
use crate::serve::scheduler::Phase;

/// What Codex gives a model that it does not know. It takes these from the server, so they must not be empty.
const INSTRUCTIONS: &str = "You are a coding agent that works in a terminal on the user's machine. Use the tools you \
    are given to read, search and change files and to run commands; do not guess what you can look up. Keep changes \
    small and in the style of the code around them, check that they work, and say briefly what you did and what is \
    left to do.";

impl App {
    /// The model in the words of OpenAI, of Anthropic, and of clients that want to know the context.
    fn about(&self) -> Value {
        let model = &self.model;
        json!({
            "id": model.name,
            "object": "model",
            "created": self.started,
            "owned_by": "gemma4",
            "type": "model",
            "display_name": model.name,
            "created_at": format!("{}Z", rfc3339(self.started)),
            "context_length": model.context,
            "max_model_len": model.context,
            "meta": { "n_vocab": model.vocab, "n_ctx": model.context },
        })
    }

    /// The model as Codex reads it.
    fn for_codex(&self) -> Value {
        let level = |effort: &str, description: &str| json!({ "effort": effort, "description": description });
        json!({
            "slug": self.model.name,
            "display_name": self.model.name,
            "description": "Gemma 4 on this server",
            "default_reasoning_level": if self.model.think { "medium" } else { "none" },
            "supported_reasoning_levels": [
                level("none", "Answers at once"),
                level("low", "Thinks briefly"),
                level("medium", "Thinks for a while"),
                level("high", "Thinks at length"),
            ],
            "shell_type": "shell_command",
            "visibility": "list",
            "supported_in_api": true,
            "priority": 1,
            "upgrade": null,
            "base_instructions": INSTRUCTIONS,
            "supports_reasoning_summaries": true,
            "support_verbosity": false,
            "default_verbosity": null,
            "apply_patch_tool_type": null,
            "truncation_policy": { "mode": "bytes", "limit": 10_000 },
            "supports_parallel_tool_calls": true,
            "context_window": self.model.context,
            "experimental_supported_tools": [],
            "input_modalities": ["text"],
        })
    }
}

pub(super) async fn list(State(app): State<Shared>) -> Response<Body> {
    reply(&json!({
        "object": "list",
        "data": [app.about()],
        "models": [app.for_codex()],
        "has_more": false,
        "first_id": app.model.name,
        "last_id": app.model.name,
    }))
}

/// One model. Names of others are refused here, though requests may call the model what they like: who asks by name
/// wants to know whether it is there.
pub(super) async fn one(
    State(app): State<Shared>,
    Extension(record): Extension<Record>,
    Path(id): Path<String>,
) -> Response<Body> {
    let found = if id == app.model.name {
        Ok(reply(&app.about()))
    } else {
        let text = format!("there is no such model here; the one that answers is `{}`", app.model.name);
        Err(ApiError::new(StatusCode::NOT_FOUND, text).code("model_not_found"))
    };
    answer(&record, Vendor::OpenAi, found)
}

/// 200 when requests are answered at once, also by a parked model, which is loaded first; else 503.
pub(super) async fn health(State(app): State<Shared>) -> Response<Body> {
    let status = app.scheduler.status();
    let (ready, word) = match status.phase {
        Phase::Ready => (true, "ok"),
        Phase::Parked => (true, "parked"),
        Phase::Loading => (false, "loading"),
        Phase::Draining => (false, "shutting down"),
        Phase::Stopped => (false, "stopped"),
    };
    let mut response = reply(&json!({
        "status": word,
        "model": app.model.name,
        "running": status.running,
        "parallel": status.parallel,
        "queued": status.queued,
        "error": status.failure,
    }));
    if !ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    }
    response
}

pub(super) async fn counts(State(app): State<Shared>) -> Response<Body> {
    let status = app.scheduler.status();
    let mut page = Page::default();
    app.metrics.write(&mut page);
    metrics::write_status(&mut page, &status);
    metrics::write_process(&mut page);
    page.one(
        "gemma4_start_time_seconds",
        "gauge",
        "When the server started, seconds since 1970.",
        app.started,
    );
    let mut response = Response::new(Body::from(page.text()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
