//! Answers that come in pieces: server-sent events.
//!
//! The writer runs as a task of its own and writes into a short channel. Where the client reads slowly the task waits,
//! and so in turn does the engine; when the client has left, the channel closes and the task ends, which cancels the
//! request. While nothing is to be said, a comment every few seconds keeps proxies and clients from giving up.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use futures_util::stream;
use serde_json::Value;
use tokio::sync::mpsc;

/// Silence after which a comment is sent. llama.cpp's is 30 s, mistral.rs's 10 s; some proxies give up after 15.
const SILENCE: Duration = Duration::from_secs(10);

/// Pieces on their way to a client.
const PIECES: usize = 16;

/// The client has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// Where a stream's events are written to.
#[derive(Debug)]
pub(crate) struct Events {
    sender: mpsc::Sender<Bytes>,
    silence: Duration,
    /// What is sent into silence.
    alive: &'static str,
}

impl Events {
    /// Sends into silence what is no comment.
    pub(crate) fn alive(&mut self, text: &'static str) {
        self.alive = text;
    }

    async fn send(&self, text: String) -> Result<(), Gone> {
        self.sender.send(Bytes::from(text)).await.map_err(|_| Gone)
    }

    /// An event without a name.
    pub(crate) async fn data(&self, data: &Value) -> Result<(), Gone> {
        self.send(format!("data: {data}\n\n")).await
    }

    /// An event whose data is no JSON.
    pub(crate) async fn text(&self, data: &str) -> Result<(), Gone> {
        self.send(format!("data: {data}\n\n")).await
    }

    /// An event with a name.
    pub(crate) async fn event(&self, name: &str, data: &Value) -> Result<(), Gone> {
        self.send(format!("event: {name}\ndata: {data}\n\n")).await
    }

    /// Waits for `future` while the client is there.
    pub(crate) async fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, Gone> {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                biased;
                value = &mut future => return Ok(value),
                () = self.sender.closed() => return Err(Gone),
                () = tokio::time::sleep(self.silence) => {
                    // A full channel is no silence.
                    let _ = self.sender.try_send(Bytes::from_static(self.alive.as_bytes()));
                }
            }
        }
    }
}

/// A response whose body is what `write` writes.
pub(crate) fn respond<F>(write: impl FnOnce(Events) -> F) -> Response<Body>
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel::<Bytes>(PIECES);
    let task = write(Events { sender, silence: SILENCE, alive: ": keep-alive\n\n" });
    // A client that has left is nobody's failure.
    tokio::spawn(async move {
        let _ = task.await;
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (Ok::<_, Infallible>(piece), receiver))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would collect the pieces otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use serde_json::json;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn events_and_comments_have_the_form_of_the_standard() {
        let text = block_on(async {
            let response = respond(|mut events| async move {
                events.data(&json!({"a": "line\nend"})).await?;
                events.event("ping", &json!({})).await?;
                events.silence = Duration::from_millis(5);
                events.alive(": still here\n\n");
                events.wait(tokio::time::sleep(Duration::from_millis(50))).await?;
                events.text("[DONE]").await
            });
            String::from_utf8(axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec())
                .unwrap()
        });
        assert!(
            text.starts_with("data: {\"a\":\"line\\nend\"}\n\nevent: ping\ndata: {}\n\n: still here\n\n"),
            "{text}"
        );
        assert!(text.ends_with(": still here\n\ndata: [DONE]\n\n"), "{text}");
    }

    #[test]
    fn a_client_that_leaves_ends_the_writer() {
        let ended = block_on(async {
            let (told, heard) = tokio::sync::oneshot::channel();
            let response = respond(|events| async move {
                let result = events.wait(std::future::pending::<()>()).await;
                let _ = told.send(result);
                result
            });
            let mut body = response.into_body().into_data_stream();
            let waiting = tokio::time::timeout(Duration::from_millis(20), body.next()).await;
            assert!(waiting.is_err(), "nothing was written");
            drop(body);
            tokio::time::timeout(Duration::from_secs(5), heard).await
        });
        assert_eq!(ended.unwrap().unwrap(), Err(Gone));
    }
}
