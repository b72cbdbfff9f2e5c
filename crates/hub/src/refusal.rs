//! What an answer that is an error means, and whether asking again could help.

use std::time::Duration;

use reqwest::{Response, StatusCode};

use super::Error;
use super::failure::{About, Failure};
use super::remote::{Remote, host_of};

/// The longest part of a server's own words that is shown.
const LONGEST_MESSAGE: usize = 500;

impl Remote<'_> {
    /// Turns an answer that is an error into words.
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
        // What a signed address answers is no word of the Hub: the signature may be old.
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
            // Whether a private repository exists is not for strangers to know: they get 401
            // for it, and for one that does not exist as well.
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

/// Seconds of a Retry-After header; its other form, a date, is not used by the Hub.
fn retry_after(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_secs)
}
