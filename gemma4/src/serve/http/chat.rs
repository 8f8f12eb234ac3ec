//! `/v1/chat/completions`.

mod read;
mod write;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use futures_util::StreamExt;

use super::error::{ApiError, Vendor};
use super::fields::Fields;
use super::record::Record;
use super::settings::Defaults;
use super::{Answer, App, Shared, answer, reply, sse};
use crate::serve::dialogue::{self, Choice, Piece};

use read::Asked;
pub(super) use read::read;
pub(super) use read::{TOP, dialogue};
pub(super) use write::{FINGERPRINT, finite, log_entry};

pub(super) async fn handle(
    State(app): State<Shared>,
    Extension(record): Extension<Record>,
    request: Request,
) -> Response<Body> {
    answer(&record, Vendor::OpenAi, respond(app, record.clone(), request).await)
}

async fn respond(app: Shared, record: Record, request: Request) -> Answer {
    let body = app.json(request).await?;
    let asked = read(&Fields::of(&body)?, &Defaults::of(&app.model))?;
    drop(body);
    let Asked { ask, choices, stream, include_usage } = asked;
    let prepared = app.prepare(ask).await?;
    let submitted = app.submit(&prepared, choices)?;
    let head = write::Head::new(&app.model.name);
    if stream {
        return Ok(sse::respond(|events| streamed(app, record, submitted, head, include_usage, events)));
    }
    let mut answers = Vec::new();
    for whole in dialogue::all(submitted, &app.model.speaker.tokenizer, || record.first_token()).await {
        let whole = whole?;
        app.count(&record, &whole.ended);
        answers.push(whole);
    }
    Ok(reply(&head.whole(&app.model, answers)))
}

impl App {
    /// An answer is complete.
    pub(super) fn count(&self, record: &Record, ended: &dialogue::Ended) {
        record.ended(ended);
        self.metrics.reasoning(ended.reasoning);
    }
}

async fn streamed(
    app: Shared,
    record: Record,
    choices: Vec<Choice>,
    head: write::Head,
    include_usage: bool,
    events: sse::Events,
) -> Result<(), sse::Gone> {
    let tokenizer = &app.model.speaker.tokenizer;
    let mut pieces = dialogue::merge(choices, tokenizer);
    let mut ends = Vec::new();
    while let Some((index, piece)) = events.wait(pieces.next()).await? {
        match piece {
            Piece::Started(_) => events.data(&head.role(index)).await?,
            Piece::Prefill { done, total } => events.data(&head.progress(done, total)).await?,
            Piece::Reasoning(text) => {
                record.first_token();
                events.data(&head.reasoning(index, &text)).await?;
            }
            Piece::Content(text, logs) => {
                record.first_token();
                events.data(&head.content(index, &text, &logs, tokenizer)).await?;
            }
            Piece::Call(call) => {
                record.first_token();
                for chunk in head.call(index, &call) {
                    events.data(&chunk).await?;
                }
            }
            Piece::Finished(Ok(ended)) => {
                app.count(&record, &ended);
                events.data(&head.end(index, &ended)).await?;
                ends.push(ended);
            }
            Piece::Finished(Err(failed)) => {
                let error = ApiError::from(failed);
                record.failed(error.code.unwrap_or("failed"));
                events.data(&error.body(Vendor::OpenAi)).await?;
                return events.text("[DONE]").await;
            }
        }
    }
    if include_usage {
        events.data(&head.usage(&ends)).await?;
    }
    events.text("[DONE]").await
}
