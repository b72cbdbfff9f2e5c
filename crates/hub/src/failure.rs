//! What a request asks about, and what its failure says about asking again.

use std::time::Duration;

use super::Error;

/// What a request asks about: it decides what "not found" means.
#[derive(Debug, Clone, Copy)]
pub(super) enum About<'a> {
    /// The repository itself, or a search.
    Repo,
    /// A branch, tag or commit of it.
    Revision(&'a str),
    /// One of its files.
    File(&'a str),
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
