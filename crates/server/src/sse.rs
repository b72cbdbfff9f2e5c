//! Answers streamed as server-sent events.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::Stream;
use serde::Serialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// The sender of an answer's events. Sending fails once the client has disconnected.
#[derive(Debug)]
pub struct Events(Sender<Bytes>);

/// The client has disconnected.
#[derive(Debug)]
pub struct Gone;

impl Events {
    /// Sends an event.
    pub async fn send(&self, part: &impl Serialize) -> Result<(), Gone> {
        let text = serde_json::to_string(part).unwrap_or_default();
        self.raw(format!("data: {text}\n\n")).await
    }

    /// Sends a named event.
    pub async fn send_named(&self, event: &str, part: &impl Serialize) -> Result<(), Gone> {
        let text = serde_json::to_string(part).unwrap_or_default();
        self.raw(format!("event: {event}\ndata: {text}\n\n")).await
    }

    /// Sends `[DONE]`, which ends a stream of OpenAI's API.
    pub async fn done(&self) -> Result<(), Gone> {
        self.raw("data: [DONE]\n\n".to_owned()).await
    }

    async fn raw(&self, text: String) -> Result<(), Gone> {
        self.0.send(text.into()).await.map_err(|_| Gone)
    }
}

struct Parts(Receiver<Bytes>);

impl Stream for Parts {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|part| part.map(Ok))
    }
}

/// Makes a response whose events `write` sends. When the connection closes, sending fails and the
/// future is dropped.
pub fn answer<F>(write: impl FnOnce(Events) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = channel(64);
    let gone = sender.clone();
    let written = write(Events(sender));
    tokio::spawn(async move {
        tokio::select! {
            ended = written => drop(ended),
            () = gone.closed() => {}
        }
    });
    let mut response = Response::new(Body::from_stream(Parts(receiver)));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/event-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
