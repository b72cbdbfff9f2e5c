//! Errors of experiments, as a command tells them.

use super::probing;
use crate::experiment::Error;
use crate::hint::Usage;

/// An error of an experiment with the hint that belongs to it; after Ctrl-C only that. What was
/// asked wrongly is an error of usage.
pub fn told(error: Error) -> anyhow::Error {
    match error {
        Error::Runtime(error) => super::engine::explain(error),
        Error::Probe(error) => probing::told(error),
        Error::TooFewTokens { .. } | Error::OneSided { .. } => Usage(error.to_string()).into(),
        error => error.into(),
    }
}
