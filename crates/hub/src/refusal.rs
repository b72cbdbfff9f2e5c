//! Interpretation of an answer that is an error: what it means, and whether another attempt could
//! succeed.

use std::time::Duration;

use reqwest::{Response, StatusCode};

use super::Error;
use super::failure::{About, Failure};
use super::remote::{Remote, host_of};

/// Maximum number of characters of a server's message that are shown.
const LONGEST_MESSAGE: usize = 500;

impl Remote<'_> {
    /// Turns an answer that is an error into an [`Error`].
    pub(super) fn refusal(&self, answer: &Response, about: About<'_>) -> Failure {
        let header = |name| {
            let value = answer.headers().get(name)?.to_str().ok()?;
            Some(value.chars().take(LONGEST_MESSAGE).collect::<String>())
        };
        let status = answer.status();
        let message = header("x-error-message");
        let server = Error::Server {
            host: host_of(answer.url()),
            status: status.as_u16(),
            message: message.clone(),
        };
        // An address other than the Hub's is a signed one, and a refusal there means that the
        // signature expired: the next attempt gets a new one.
        let signed = !self.is_hub(answer.url());
        let passing = matches!(status.as_u16(), 408 | 425 | 429 | 500..)
            || (signed && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN));
        if passing {
            let wait = header("retry-after").and_then(|text| retry_after(&text));
            return Failure::Passing(server, wait);
        }

        let repo = self.repo.to_owned();
        let token = self.options.token.is_some();
        let no_such_repo = |repo| Error::NoSuchRepo {
            repo,
            host: self.host(),
            near: Vec::new(),
        };
        let code = header("x-error-code").unwrap_or_default();
        Failure::Lasting(match (status.as_u16(), code.as_str(), about) {
            (401 | 403, "GatedRepo", _) => Error::Gated {
                url: self.page(),
                repo,
                token,
            },
            // The Hub hides whether a private repository exists: without access it answers 401 for
            // a private one and for one that does not exist.
            (401 | 404, "RepoNotFound", _) => no_such_repo(repo),
            (401, _, About::Repo | About::Revision(_)) if !token => no_such_repo(repo),
            (401, ..) => Error::Unauthorized { repo, token },
            (403, ..) => Error::Forbidden { repo, message },
            (404, "RevisionNotFound", About::Repo | About::File(_)) => Error::NoSuchRevision {
                repo,
                revision: "main".to_owned(),
            },
            (404, _, About::Revision(revision)) => Error::NoSuchRevision {
                repo,
                revision: revision.to_owned(),
            },
            (404, _, About::File(file)) => Error::NoSuchFile {
                repo,
                file: file.to_owned(),
            },
            (404, _, About::Repo) => no_such_repo(repo),
            _ => server,
        })
    }
}

/// Parses the seconds of a Retry-After header. The Hub does not use the header's other form, a
/// date.
fn retry_after(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_secs)
}
