//! Hints: a sentence, usually with a command, that says what to do about an error. It is printed as
//! `hint:` after the error and its causes.

use std::error::Error;
use std::fmt;

/// An error with a hint. It displays as the error it wraps.
#[derive(Debug)]
pub struct Hinted {
    error: anyhow::Error,
    hint: String,
}

impl Hinted {
    /// The first hint in the chain of causes of `error`.
    pub fn find(error: &anyhow::Error) -> Option<&str> {
        error
            .chain()
            .find_map(|cause| cause.downcast_ref::<Hinted>())
            .map(|hinted| hinted.hint.as_str())
    }

    /// Returns whether a `T` is among the causes of `error`, or is what a hint was attached to.
    pub fn is_about<T: Error + Send + Sync + 'static>(error: &anyhow::Error) -> bool {
        error.chain().any(|cause| {
            let hinted = cause.downcast_ref::<Hinted>();
            cause.is::<T>() || hinted.is_some_and(|hinted| Self::is_about::<T>(&hinted.error))
        })
    }
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)
    }
}

impl Error for Hinted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Attaches a hint to the error of a result.
pub trait WithHint<T> {
    /// Attaches a hint to the error, if there is one; `hint` is called only then.
    fn with_hint<H: Into<String>>(self, hint: impl FnOnce() -> H) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithHint<T> for Result<T, E> {
    fn with_hint<H: Into<String>>(self, hint: impl FnOnce() -> H) -> anyhow::Result<T> {
        self.map_err(|error| hinted(error, hint()))
    }
}

/// Attaches a hint to an error.
pub fn hinted(error: impl Into<anyhow::Error>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Hinted {
        error: error.into(),
        hint: hint.into(),
    })
}

/// The command line is wrong: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// The user pressed Ctrl-C: exit code 130. Results so far have been printed.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_hint_is_found_below_contexts_and_does_not_hide_causes() {
        let io = std::io::Error::other("disk on fire");
        let error = Err::<(), _>(io)
            .context("cannot read model.gguf")
            .with_hint(|| "use water")
            .context("cannot complete")
            .unwrap_err();
        assert_eq!(Hinted::find(&error), Some("use water"));
        let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
        assert_eq!(
            chain,
            ["cannot complete", "cannot read model.gguf", "disk on fire"]
        );
    }
}
