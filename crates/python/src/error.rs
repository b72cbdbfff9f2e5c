//! The errors of Python: the sentences of the command line, with their hints.

use modelve::hint::{Hinted, Interrupted};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyKeyboardInterrupt};
use pyo3::prelude::*;

create_exception!(
    _modelve,
    Error,
    PyException,
    "What could not be done, and why. `hint` says what would help, or is None."
);

/// A result whose error is still to become one of Python.
pub type Result<T> = anyhow::Result<T>;

/// An error with its causes as a Python exception. The hint is an attribute and a note, which
/// tracebacks show below the message.
pub fn raised(py: Python<'_>, error: &anyhow::Error) -> PyErr {
    if Hinted::is_about::<Interrupted>(error) {
        return PyKeyboardInterrupt::new_err(());
    }
    // Some errors repeat their cause in their own words.
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    with_hint(py, text, Hinted::find(error))
}

/// An exception with these words.
pub fn with_hint(py: Python<'_>, text: String, hint: Option<&str>) -> PyErr {
    let raised = Error::new_err(text);
    let value = raised.value(py);
    let attached = value.setattr("hint", hint).and_then(|()| match hint {
        Some(hint) => {
            let note = format!("hint: {hint}");
            value.call_method1("add_note", (note,)).map(drop)
        }
        None => Ok(()),
    });
    match attached {
        Ok(()) => raised,
        Err(error) => error,
    }
}
