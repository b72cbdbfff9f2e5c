//! The subject of a request, and whether a failed one is worth another attempt.

use std::time::Duration;

use super::Error;

/// The subject of a request, which decides what the answer "not found" means.
#[derive(Debug, Clone, Copy)]
pub(super) enum About<'a> {
    /// The repository itself, or a search.
    Repo,
    /// A branch, tag or commit of it.
    Revision(&'a str),
    /// One of its files.
    File(&'a str),
}

/// A failed attempt, and whether another one could succeed.
pub(super) enum Failure {
    /// Another attempt could succeed, after this time where the server states one.
    Passing(Error, Option<Duration>),
    /// Another attempt would fail in the same way.
    Lasting(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Lasting(error)
    }
}
