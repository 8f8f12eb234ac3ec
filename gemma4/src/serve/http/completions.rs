//! `/v1/completions`: text that goes on, without a template.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use futures_util::StreamExt;
use gemma4_core::tokenizer::{Markup, Tokenizer};
use serde_json::{Map, Value, json};

use super::chat::{FINGERPRINT, finite};
use super::error::{ApiError, Vendor};
use super::fields::{BadField, Field, Fields};
use super::record::{Record, unix_time};
use super::settings::{self, Defaults};
use super::{Answer, Shared, answer, ids, reply, sse, usage};
use crate::serve::dialogue::{self, Ask, Choice, Piece, Source, TokenLog};

/// Most prompts of a request times choices of each.
const CHOICES: usize = 64;
/// The vendor's limit of an answer where the request has none.
const TOKENS: usize = 16;

/// A request that was read.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// One for each prompt.
    asks: Vec<Ask>,
    /// Choices of each prompt.
    choices: u32,
    stream: bool,
    include_usage: bool,
    echo: bool,
}

impl Asked {
    /// What is asked, a prompt at a time.
    #[cfg(test)]
    pub(super) fn asks(self) -> Vec<Ask> {
        self.asks
    }
}

pub(super) async fn handle(
    State(app): State<Shared>,
    Extension(record): Extension<Record>,
    request: Request,
) -> Response<Body> {
    answer(&record, Vendor::OpenAi, respond(app, record.clone(), request).await)
}

/// Reads a request.
pub(super) fn read(fields: &Fields<'_>, defaults: &Defaults<'_>) -> Result<Asked, BadField> {
    if fields.any(&["suffix"]).is_some_and(|suffix| suffix.value != "") {
        return Err(BadField::new("suffix", "this model cannot fill gaps, leave `suffix` out"));
    }
    let sources =
        prompts(&fields.need("prompt", "a string, a list of strings, or token ids")?, defaults.vocab)?;
    let sampling = settings::sampling(fields, defaults)?;
    let most = fields.read("max_tokens", |field| field.integer(-1..=i64::MAX))?;
    let max_tokens = match most {
        None => Some(TOKENS),
        // What some clients write for no limit.
        Some(..=0) => None,
        Some(most) => usize::try_from(most).ok(),
    };
    let stop = settings::stop(fields, "stop")?;
    let logprobs = fields.read("logprobs", |field| match field.value {
        Value::Bool(wanted) => Ok(wanted.then_some(0)),
        _ => Ok(Some(field.count(0..=super::chat::TOP)?)),
    })?;
    let choices = fields.read("n", |field| field.count(1..=16))?.unwrap_or(1);
    if sources.len() * choices > CHOICES {
        return Err(BadField::new(
            "prompt",
            format_args!("more than {CHOICES} prompts times choices in one request"),
        ));
    }
    let cache = settings::cache(fields)?;
    let progress = fields.flag("return_progress", false)?;
    let ask = |source| Ask {
        max_tokens,
        stop: stop.clone(),
        logprobs: logprobs.flatten().map(|n| u8::try_from(n).unwrap_or(0)),
        cache,
        progress,
        ..Ask::new(source, sampling.clone())
    };
    let options = fields.read("stream_options", Field::object)?;
    Ok(Asked {
        asks: sources.into_iter().map(ask).collect(),
        choices: u32::try_from(choices).unwrap_or(1),
        stream: fields.flag("stream", false)?,
        include_usage: options
            .map(|options| options.flag("include_usage", false))
            .transpose()?
            .unwrap_or(false),
        echo: fields.flag("echo", false)?,
    })
}

fn prompts(field: &Field<'_>, vocab: usize) -> Result<Vec<Source>, BadField> {
    let expected = "a string, a list of strings, or token ids";
    let tokens = |field: &Field<'_>| field.list()?.map(|id| id.token(vocab)).collect::<Result<Vec<u32>, _>>();
    match field.value {
        Value::String(text) => Ok(vec![Source::Text(text.clone())]),
        Value::Array(items) if items.is_empty() || items.len() > CHOICES && !items[0].is_number() => {
            Err(field.wrong(format_args!("{expected}; 1 to {CHOICES} of them")))
        }
        Value::Array(items) if items[0].is_number() => Ok(vec![Source::Tokens(tokens(field)?)]),
        Value::Array(_) => field
            .list()?
            .map(|item| match item.value {
                Value::String(text) => Ok(Source::Text(text.clone())),
                Value::Array(_) => Ok(Source::Tokens(tokens(&item)?)),
                _ => Err(item.wrong("a string or a list of token ids")),
            })
            .collect(),
        _ => Err(field.wrong(expected)),
    }
}

async fn respond(app: Shared, record: Record, request: Request) -> Answer {
    let body = app.json(request).await?;
    let Asked { asks, choices, stream, include_usage, echo } =
        read(&Fields::of(&body)?, &Defaults::of(&app.model))?;
    drop(body);
    let tokenizer = &app.model.speaker.tokenizer;
    let mut submitted = Vec::new();
    let mut echoed = Vec::new();
    for ask in asks {
        let prepared = app.prepare(ask).await?;
        let text = if echo { tokenizer.decode(&prepared.prompt, Markup::Hide) } else { String::new() };
        echoed.extend(std::iter::repeat_n(text, choices as usize));
        submitted.extend(app.submit(&prepared, choices)?);
    }
    let head = Head { id: ids::fresh("cmpl-"), created: unix_time(), model: app.model.name.clone() };
    if stream {
        return Ok(sse::respond(|events| {
            streamed(app, record, submitted, head, include_usage, echoed, events)
        }));
    }
    let (mut answers, mut ends) = (Vec::new(), Vec::new());
    let all = dialogue::all(submitted, tokenizer, || record.first_token()).await;
    for (index, (whole, prompt)) in all.into_iter().zip(&echoed).enumerate() {
        let whole = whole?;
        app.count(&record, &whole.ended);
        let text = format!("{prompt}{}", whole.content);
        answers.push(choice(
            index,
            &text,
            &log_probs(&whole.logs, tokenizer),
            Some(whole.ended.finish.word()),
        ));
        ends.push(whole.ended);
    }
    let mut object = head.object(&answers);
    object["usage"] = usage::openai(&ends);
    if let Some(first) = ends.first() {
        object["timings"] = usage::timings(first);
    }
    Ok(reply(&object))
}

async fn streamed(
    app: Shared,
    record: Record,
    choices: Vec<Choice>,
    head: Head,
    include_usage: bool,
    echoed: Vec<String>,
    events: sse::Events,
) -> Result<(), sse::Gone> {
    let tokenizer = &app.model.speaker.tokenizer;
    let mut pieces = dialogue::merge(choices, tokenizer);
    let mut ends = Vec::new();
    let chunk = |index, text: &str, logs: &Value, finish| head.object(&[choice(index, text, logs, finish)]);
    while let Some((index, piece)) = events.wait(pieces.next()).await? {
        match piece {
            Piece::Started(_) if !echoed[index].is_empty() => {
                events.data(&chunk(index, &echoed[index], &Value::Null, None)).await?;
            }
            Piece::Prefill { done, total } => {
                let mut object = head.object(&[]);
                object["prompt_progress"] = json!({ "processed": done, "total": total });
                events.data(&object).await?;
            }
            Piece::Started(_) | Piece::Reasoning(_) | Piece::Call(_) => {}
            Piece::Content(text, logs) => {
                record.first_token();
                events.data(&chunk(index, &text, &log_probs(&logs, tokenizer), None)).await?;
            }
            Piece::Finished(Ok(ended)) => {
                app.count(&record, &ended);
                let mut object = chunk(index, "", &Value::Null, Some(ended.finish.word()));
                object["timings"] = usage::timings(&ended);
                events.data(&object).await?;
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
        let mut object = head.object(&[]);
        object["usage"] = usage::openai(&ends);
        events.data(&object).await?;
    }
    events.text("[DONE]").await
}

/// What every object of a response begins with.
#[derive(Clone, Debug)]
struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn object(&self, choices: &[Value]) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }
}

fn choice(index: usize, text: &str, logprobs: &Value, finish: Option<&str>) -> Value {
    json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": finish })
}

/// `logprobs` in the form of this interface: lists side by side.
fn log_probs(logs: &[TokenLog], tokenizer: &Tokenizer) -> Value {
    if logs.is_empty() {
        return Value::Null;
    }
    let text = |id: u32| tokenizer.decode(&[id], Markup::Show);
    let top = |log: &TokenLog| -> Map<String, Value> {
        log.top.iter().map(|&(id, logprob)| (text(id), finite(logprob).into())).collect()
    };
    json!({
        "tokens": logs.iter().map(|log| text(log.id)).collect::<Vec<_>>(),
        "token_logprobs": logs.iter().map(|log| finite(log.logprob)).collect::<Vec<_>>(),
        "top_logprobs": logs.iter().map(top).collect::<Vec<_>>(),
        "text_offset": logs.iter().map(|log| log.offset).collect::<Vec<_>>(),
    })
}
