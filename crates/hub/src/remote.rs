//! Requests to the Hub: redirects, limits, and repeated attempts.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, LOCATION, RANGE};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use super::failure::{About, Failure};
use super::{Error, FetchOptions, HubId, bytes};
use modelve_base::progress::Progress;

/// Interval at which a fetch checks whether it was cancelled.
const TICK: Duration = Duration::from_millis(100);
/// Number of attempts while nothing has answered yet: most likely there is no network.
const ATTEMPTS_TO_REACH: u32 = 3;
/// Limits of the wait before another attempt: the first where the server states it, the second
/// where it does not.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
const MOST_REDIRECTS: usize = 10;

/// Which bytes of a file are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// The first byte.
    pub from: u64,
    /// The byte after the last; `None` is the end of the file.
    pub to: Option<u64>,
}

impl Span {
    pub const WHOLE: Span = Span { from: 0, to: None };

    pub fn from(from: u64) -> Span {
        Span { from, to: None }
    }

    /// The value of a Range header; `None` for a whole file.
    fn header(self) -> Option<String> {
        let from = self.from;
        match self.to {
            Some(to) => Some(format!("bytes={from}-{}", to.saturating_sub(1))),
            None => (from > 0).then(|| format!("bytes={from}-")),
        }
    }
}

/// A client for one repository on one Hub.
pub(super) struct Remote<'a> {
    /// `org/name`.
    pub repo: &'a str,
    pub options: &'a FetchOptions,
    pub progress: &'a dyn Progress,
    cancel: &'a AtomicBool,
    client: Client,
    endpoint: Url,
    /// Whether any request was answered yet; until then fewer attempts are made.
    reached: AtomicBool,
}

impl<'a> Remote<'a> {
    pub fn new(
        id: &'a HubId,
        options: &'a FetchOptions,
        progress: &'a dyn Progress,
        cancel: &'a AtomicBool,
    ) -> Result<Self, Error> {
        let setup = |why: String| Error::Setup { why };
        let endpoint = Url::parse(options.endpoint.trim_end_matches('/'))
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                setup(format!(
                    "HF_ENDPOINT `{}` is not a web address",
                    options.endpoint
                ))
            })?;
        let visible = |token: &String| token.bytes().all(|b| b.is_ascii_graphic());
        if !options.token.iter().all(visible) {
            let why = "the token holds characters that no token has; set HF_TOKEN to a valid one";
            return Err(setup(why.to_owned()));
        }
        // The call fails where a program that links this crate has already chosen a provider, which
        // is then used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // HTTP/1.1 gives each file a connection of its own; HTTP/2's flow control would share one
        // window among all. Redirects are followed in `follow`, which decides whether the token may
        // be sent.
        let client = Client::builder()
            .user_agent(concat!("modelve/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.silence.min(Duration::from_secs(15)))
            .read_timeout(options.silence)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| setup(words(&e)))?;
        Ok(Remote {
            repo: &id.repo,
            options,
            progress,
            cancel,
            client,
            endpoint,
            reached: AtomicBool::new(false),
        })
    }

    pub fn host(&self) -> String {
        host_of(&self.endpoint)
    }

    /// Returns whether an address is on the Hub itself, so that the token may be sent to it.
    pub fn is_hub(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// The address of the repository's page.
    pub fn page(&self) -> String {
        self.url(self.repo.split('/')).into()
    }

    /// An address below the endpoint. Each part is escaped, including slashes in it.
    pub fn url<'p>(&self, parts: impl IntoIterator<Item = &'p str>) -> Url {
        let mut url = self.endpoint.clone();
        // The endpoint has a host, so it can be a base.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    fn file_url(&self, commit: &str, file: &str) -> Url {
        let repo = self.repo.split('/');
        self.url(repo.chain(["resolve", commit]).chain(file.split('/')))
    }

    /// The headers of the Hub's own answer about a file, before it redirects to the server that has
    /// the bytes.
    pub async fn head(&self, commit: &str, file: &str) -> Result<HeaderMap, Failure> {
        let url = self.file_url(commit, file);
        let linked = |answer: &Response| answer.headers().contains_key("x-linked-etag");
        let answer = self
            .follow(Method::HEAD, url, Span::WHOLE, About::File(file), linked)
            .await?;
        Ok(answer.headers().clone())
    }

    /// Asks for a span of a file, following the Hub's redirects. A server that does not support
    /// ranges answers with the whole file.
    pub async fn get(&self, commit: &str, file: &str, span: Span) -> Result<Response, Failure> {
        let url = self.file_url(commit, file);
        self.follow(Method::GET, url, span, About::File(file), |_| false)
            .await
    }

    /// Asks for JSON of at most `limit` bytes. Returns the answer's headers and its length in
    /// bytes, too.
    pub async fn json<T: DeserializeOwned>(
        &self,
        url: Url,
        about: About<'_>,
        limit: u64,
    ) -> Result<(T, HeaderMap, u64), Failure> {
        let mut answer = self
            .follow(Method::GET, url, Span::WHOLE, about, |_| false)
            .await?;
        if answer.status() != StatusCode::OK {
            let status = answer.status();
            return Err(self
                .malformed(&format!("{status} where JSON was expected"))
                .into());
        }
        let mut body = Vec::new();
        loop {
            match answer.chunk().await {
                Ok(Some(chunk)) if (body.len() + chunk.len()) as u64 > limit => {
                    let why = format!("it is longer than {}", bytes(limit));
                    return Err(self.malformed(&why).into());
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(e) => return Err(unreachable(answer.url(), &e)),
            }
        }
        match serde_json::from_slice(&body) {
            Ok(value) => Ok((value, answer.headers().clone(), body.len() as u64)),
            // Most likely this is the login page of a network.
            Err(_) if body.trim_ascii_start().starts_with(b"<") => Err(self
                .malformed("it is a web page where JSON was expected")
                .into()),
            Err(e) => Err(self.malformed(&format!("no JSON as expected: {e}")).into()),
        }
    }

    /// Sends a request and follows redirects until an answer is not one, or until `enough` accepts
    /// the answer.
    async fn follow(
        &self,
        method: Method,
        mut url: Url,
        span: Span,
        about: About<'_>,
        enough: impl Fn(&Response) -> bool,
    ) -> Result<Response, Failure> {
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.send(method.clone(), &url, span, about).await?;
            if !answer.status().is_redirection() || enough(&answer) {
                return Ok(answer);
            }
            match redirect(&answer) {
                Some(next) => url = next,
                None => return Err(self.malformed("a redirect that leads nowhere").into()),
            }
        }
        Err(self.malformed("too many redirects").into())
    }

    /// Sends one request. The token is sent to the Hub and never to a server that it redirects to.
    async fn send(
        &self,
        method: Method,
        url: &Url,
        span: Span,
        about: About<'_>,
    ) -> Result<Response, Failure> {
        let mut request = self
            .client
            .request(method, url.clone())
            // Without compression, lengths and offsets are those of the file itself.
            .header(ACCEPT_ENCODING, "identity");
        if let Some(token) = self.options.token.as_ref().filter(|_| self.is_hub(url)) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(range) = span.header() {
            request = request.header(RANGE, range);
        }
        let answer = request.send().await.map_err(|e| unreachable(url, &e))?;
        self.reached.store(true, Ordering::Relaxed);
        let status = answer.status();
        let usable = status.is_success()
            || status.is_redirection()
            || status == StatusCode::RANGE_NOT_SATISFIABLE;
        match usable {
            true => Ok(answer),
            false => Err(self.refusal(&answer, about)),
        }
    }

    /// Makes attempts until one succeeds, fails for good, or was the last. Each has
    /// [`FetchOptions::answer_time`], because a server that sends a byte now and then would never
    /// count as silent.
    pub async fn retrying<T>(
        &self,
        attempt: impl AsyncFn() -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let limit = self.options.answer_time;
        let mut tries = 0;
        loop {
            let answer = tokio::time::timeout(limit, attempt());
            let failure = match self.guarded(answer).await? {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    let host = self.host();
                    return Err(Error::TooSlow { host, limit });
                }
            };
            let (error, wait) = match failure {
                Failure::Lasting(error) => return Err(error),
                Failure::Passing(error, wait) => (error, wait),
            };
            tries += 1;
            if tries >= self.attempts() {
                return Err(error);
            }
            self.pause(&error, tries, wait).await?;
        }
    }

    /// Number of attempts in a row at one request.
    fn attempts(&self) -> u32 {
        match self.reached.load(Ordering::Relaxed) {
            true => self.options.attempts,
            false => self.options.attempts.min(ATTEMPTS_TO_REACH),
        }
    }

    /// Waits before attempt `tries` + 1, and notes it in the progress.
    pub async fn pause(
        &self,
        error: &Error,
        tries: u32,
        wait: Option<Duration>,
    ) -> Result<(), Error> {
        let own = self.options.backoff * 2_u32.saturating_pow(tries.saturating_sub(1).min(16));
        let wait = match wait {
            Some(wait) => wait.min(LONGEST_WAIT).max(self.options.backoff),
            None => own.min(LONGEST_BACKOFF),
        };
        self.progress.note(&format!(
            "{error}: trying again in {:.1} s",
            wait.as_secs_f64()
        ));
        self.guarded(tokio::time::sleep(wait)).await
    }

    /// Waits for a future, but stops once the fetch is cancelled.
    pub async fn guarded<T>(&self, future: impl Future<Output = T>) -> Result<T, Error> {
        let mut future = pin!(future);
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::Interrupted { here: 0, total: 0 });
            }
            if let Ok(value) = tokio::time::timeout(TICK, &mut future).await {
                return Ok(value);
            }
        }
    }

    pub fn malformed(&self, why: &str) -> Error {
        Error::Malformed {
            host: self.host(),
            why: why.to_owned(),
        }
    }
}

/// The target of a redirect; `None` where it leads from an encrypted connection to an unencrypted
/// one.
fn redirect(answer: &Response) -> Option<Url> {
    let location = answer.headers().get(LOCATION)?.to_str().ok()?;
    let next = answer.url().join(location).ok()?;
    match (answer.url().scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => Some(next),
        _ => None,
    }
}

fn unreachable(url: &Url, error: &reqwest::Error) -> Failure {
    let error = Error::Unreachable {
        host: host_of(url),
        why: words(error),
    };
    Failure::Passing(error, None)
}

/// The host of an address, with the port where the address has one.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("the server");
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// The causes of an error in one line, without the address, which may be signed.
pub(super) fn words(error: &reqwest::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if causes.last().is_none_or(|last| !last.contains(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    if error.is_timeout() && !causes.iter().any(|c| c.contains("timed out")) {
        causes.push("timed out".to_owned());
    }
    match causes.last() {
        Some(innermost) => innermost.clone(),
        None => "no answer".to_owned(),
    }
}
