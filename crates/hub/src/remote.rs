//! How the Hub is talked to: requests, redirects, refusals, and when to try again.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hf_hub::repository::RepoTypeModel;
use hf_hub::{HFClient, HFError, HFRepository};
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, LOCATION, RANGE};
use reqwest::{Client, Method, Response, StatusCode, Url};

use super::{Error, FetchOptions, HubId};
use modelve_base::progress::Progress;

/// How often a cancelled fetch notices.
const TICK: Duration = Duration::from_millis(100);
/// How often a Hub is tried that has never answered: most likely there is no network.
const ATTEMPTS_TO_REACH: u32 = 3;
/// The longest wait that a server may impose, and the longest we impose ourselves.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// One repository on one Hub, and how to talk to it.
pub(super) struct Remote<'a> {
    pub repo: &'a str,
    pub options: &'a FetchOptions,
    pub progress: &'a dyn Progress,
    cancel: &'a AtomicBool,
    pub hub: HFRepository<RepoTypeModel>,
    client: Client,
    endpoint: Url,
    /// Whether anything has answered yet: if not, patience is short.
    reached: AtomicBool,
}

/// What a failed try says about the next one.
pub(super) enum Failure {
    /// Trying again could help, not before this time.
    Passing(Error, Option<Duration>),
    /// It could not.
    Lasting(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Lasting(error)
    }
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
                    "HF_ENDPOINT `{}` is no web address",
                    options.endpoint
                ))
            })?;
        // One connection per file over HTTP/1.1: the flow control of HTTP/2 would share one
        // window among all of them.
        let builder = || {
            Client::builder()
                .user_agent(concat!("modelve/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(options.silence.min(Duration::from_secs(15)))
                .read_timeout(options.silence)
                .http1_only()
        };
        let client = builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| setup(words(&e)))?;
        let mut hub = HFClient::builder()
            .endpoint(endpoint.as_str().trim_end_matches('/'))
            .client(builder().build().map_err(|e| setup(words(&e)))?)
            .cache_enabled(false)
            .retry_max_attempts(0);
        if let Some(token) = &options.token {
            hub = hub.token(token);
        }
        let hub = hub.build().map_err(|e| setup(e.to_string()))?;
        Ok(Remote {
            repo: &id.repo,
            options,
            progress,
            cancel,
            hub: hub.model(id.org(), id.name()),
            client,
            endpoint,
            reached: AtomicBool::new(false),
        })
    }

    pub fn host(&self) -> String {
        host_of(&self.endpoint)
    }

    /// The headers with which the Hub itself, not the server behind it, answers for a file.
    pub async fn head(&self, commit: &str, file: &str) -> Result<HeaderMap, Failure> {
        let mut url = self.file_url(commit, file);
        for _ in 0..10 {
            let answer = self.send(Method::HEAD, &url, None, Some(file)).await?;
            let known = answer.headers().contains_key("x-linked-etag");
            match redirect(&answer) {
                Some(next) if !known => url = next,
                _ => return Ok(answer.headers().clone()),
            }
        }
        Err(self.malformed("too many redirects").into())
    }

    /// Asks for the bytes of a file from a position on, wherever the Hub sends us for them.
    pub async fn get(&self, commit: &str, file: &str, from: u64) -> Result<Response, Failure> {
        let mut url = self.file_url(commit, file);
        for _ in 0..10 {
            let answer = self.send(Method::GET, &url, Some(from), Some(file)).await?;
            match redirect(&answer) {
                Some(next) => url = next,
                None => return Ok(answer),
            }
        }
        Err(self.malformed("too many redirects").into())
    }

    /// One request. The token goes to the Hub and never to where it redirects.
    async fn send(
        &self,
        method: Method,
        url: &Url,
        from: Option<u64>,
        file: Option<&str>,
    ) -> Result<Response, Failure> {
        let mut request = self
            .client
            .request(method, url.clone())
            // Lengths and positions are those of the file itself.
            .header(ACCEPT_ENCODING, "identity");
        if let Some(token) = &self.options.token
            && url.origin() == self.endpoint.origin()
        {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(from) = from.filter(|from| *from > 0) {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let answer = request.send().await.map_err(|e| {
            let error = Error::Unreachable {
                host: host_of(url),
                why: words(&e),
            };
            Failure::Passing(error, None)
        })?;
        self.reached.store(true, Ordering::Relaxed);
        let status = answer.status();
        if status.is_success()
            || status.is_redirection()
            || status == StatusCode::RANGE_NOT_SATISFIABLE
        {
            return Ok(answer);
        }
        let header = |name| {
            let value = answer.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let wait = header("retry-after").and_then(|text| retry_after(&text));
        let (code, message) = (header("x-error-code"), header("x-error-message"));
        let refused = Refusal {
            status: status.as_u16(),
            code,
            message,
            host: host_of(url),
            // What a signed address answers is no word of the Hub: the signature may be old.
            hub: url.origin() == self.endpoint.origin(),
        };
        Err(self.classify(refused, wait, None, file))
    }

    /// What an error of the Hub's API means.
    pub fn failure(&self, error: HFError, revision: Option<&str>, file: Option<&str>) -> Failure {
        let context = match error {
            HFError::Request { source, .. } if source.is_decode() => {
                return self.malformed(&words(&source)).into();
            }
            HFError::Request { source, .. } => {
                let error = Error::Unreachable {
                    host: self.host(),
                    why: words(&source),
                };
                return Failure::Passing(error, None);
            }
            HFError::RateLimited {
                retry_after,
                context,
            } => {
                let refused = Refusal::of(429, &context.error_code, &context.server_message, self);
                return self.classify(refused, retry_after, revision, file);
            }
            HFError::RepoNotFound {
                context: Some(context),
                ..
            }
            | HFError::RevisionNotFound {
                context: Some(context),
                ..
            }
            | HFError::EntryNotFound {
                context: Some(context),
                ..
            }
            | HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context } => context,
            other => return self.malformed(&other.to_string()).into(),
        };
        let status = context.status.as_u16();
        let refused = Refusal::of(status, &context.error_code, &context.server_message, self);
        self.classify(refused, None, revision, file)
    }

    fn classify(
        &self,
        refused: Refusal,
        wait: Option<Duration>,
        revision: Option<&str>,
        file: Option<&str>,
    ) -> Failure {
        self.reached.store(true, Ordering::Relaxed);
        let repo = self.repo.to_owned();
        let token = self.options.token.is_some();
        let code = refused.code.as_deref().unwrap_or("");
        let passing = matches!(refused.status, 408 | 425 | 429 | 500..)
            || (!refused.hub && matches!(refused.status, 401 | 403));
        if passing {
            let error = Error::Server {
                host: refused.host,
                status: refused.status,
                message: refused.message,
            };
            return Failure::Passing(error, wait);
        }
        Failure::Lasting(match (refused.status, code) {
            (401 | 403, "GatedRepo") => Error::Gated {
                url: format!("{}/{repo}", self.endpoint.as_str().trim_end_matches('/')),
                repo,
                token,
            },
            // Whether a private repository exists is not for strangers to know: they get 401
            // for it, and for one that does not exist as well.
            (401 | 404, "RepoNotFound") => Error::NoSuchRepo {
                repo,
                host: self.host(),
                near: Vec::new(),
            },
            (404, "RevisionNotFound") => Error::NoSuchRevision {
                repo,
                revision: revision.unwrap_or("main").to_owned(),
            },
            (401, _) if token || file.is_some() => Error::Unauthorized { repo, token },
            (401, _) => Error::NoSuchRepo {
                repo,
                host: self.host(),
                near: Vec::new(),
            },
            (403, _) => Error::Forbidden {
                repo,
                message: refused.message,
            },
            (404, _) => match (file, revision) {
                (Some(file), _) => Error::NoSuchFile {
                    repo,
                    file: file.to_owned(),
                },
                (None, Some(revision)) => Error::NoSuchRevision {
                    repo,
                    revision: revision.to_owned(),
                },
                (None, None) => Error::NoSuchRepo {
                    repo,
                    host: self.host(),
                    near: Vec::new(),
                },
            },
            (status, _) => Error::Server {
                host: refused.host,
                status,
                message: refused.message,
            },
        })
    }

    /// Tries until it works, an error stays, or enough is enough.
    pub async fn retrying<T>(
        &self,
        attempt: impl AsyncFn() -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let mut tries = 0;
        loop {
            match self.guarded(attempt()).await? {
                Ok(value) => {
                    self.reached.store(true, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(error, wait)) => {
                    tries += 1;
                    if tries >= self.attempts() {
                        return Err(error);
                    }
                    self.pause(&error, tries, wait).await?;
                }
            }
        }
    }

    /// How often the same thing is tried in a row.
    fn attempts(&self) -> u32 {
        match self.reached.load(Ordering::Relaxed) {
            true => self.options.attempts,
            false => self.options.attempts.min(ATTEMPTS_TO_REACH),
        }
    }

    /// Waits before try number `tries` + 1, and says so.
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

    /// Waits for a future, but not after the person has pressed Ctrl-C.
    pub async fn guarded<T>(&self, future: impl Future<Output = T>) -> Result<T, Error> {
        let mut future = pin!(future);
        loop {
            if self.cancelled() {
                return Err(Error::Interrupted { here: 0, total: 0 });
            }
            if let Ok(value) = tokio::time::timeout(TICK, &mut future).await {
                return Ok(value);
            }
        }
    }

    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    pub fn malformed(&self, why: &str) -> Error {
        Error::Malformed {
            host: self.host(),
            why: why.to_owned(),
        }
    }

    fn file_url(&self, commit: &str, file: &str) -> Url {
        let mut url = self.endpoint.clone();
        // The endpoint has a host, so it can be a base.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(self.repo.split('/'))
                .extend(["resolve", commit])
                .extend(file.split('/'));
        }
        url
    }
}

/// An answer that is an error.
struct Refusal {
    status: u16,
    code: Option<String>,
    message: Option<String>,
    host: String,
    hub: bool,
}

impl Refusal {
    fn of(
        status: u16,
        code: &Option<String>,
        message: &Option<String>,
        remote: &Remote<'_>,
    ) -> Refusal {
        Refusal {
            status,
            code: code.clone(),
            message: message.clone(),
            host: remote.host(),
            hub: true,
        }
    }
}

/// Where an answer sends us, if it does.
fn redirect(answer: &Response) -> Option<Url> {
    if !answer.status().is_redirection() {
        return None;
    }
    let location = answer.headers().get(LOCATION)?.to_str().ok()?;
    let next = answer.url().join(location).ok()?;
    matches!(next.scheme(), "http" | "https").then_some(next)
}

/// Seconds of a Retry-After header; its other form, a date, is not used by the Hub.
fn retry_after(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_secs)
}

fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("the server");
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// An error with its causes in one line, without the address, which may be signed.
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
