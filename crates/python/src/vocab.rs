//! `m.vocab`: the tokens of a model.

use modelve::commands::vocab::JsonToken;
use modelve::gguf::vocab::Vocabulary;
use modelve::runtime;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

use crate::error::{Result, raised};
use crate::read::Named;
use crate::value;

/// The vocabulary of a model: `vocab[id]` and `vocab["text"]` are tokens as `modelve vocab --json`
/// tells them, `len(vocab)` is how many there are.
#[pyclass(frozen, module = "modelve")]
pub struct Vocab {
    model: runtime::Model,
}

impl Vocab {
    /// That of a model.
    pub fn of(model: &runtime::Model) -> Vocab {
        Vocab {
            model: model.clone(),
        }
    }

    fn with<T>(
        &self,
        py: Python<'_>,
        read: impl FnOnce(&Vocabulary<'_>) -> Result<T>,
    ) -> PyResult<T> {
        let found = Vocabulary::new(self.model.gguf()).map_err(anyhow::Error::new);
        let found = found.and_then(|vocabulary| read(&vocabulary));
        found.map_err(|error| raised(py, &error))
    }
}

#[pymethods]
impl Vocab {
    fn __len__(&self) -> usize {
        self.model.vocab().len() as usize
    }

    fn __getitem__(&self, py: Python<'_>, token: Named) -> PyResult<Py<PyAny>> {
        let id = match &token {
            // Iteration ends at an index error.
            Named::Id(id) => u32::try_from(*id)
                .ok()
                .filter(|&id| id < self.model.vocab().len())
                .ok_or_else(|| PyIndexError::new_err(format!("no token {id}")))?,
            text => {
                let token = text
                    .token(&self.model)
                    .map_err(|error| raised(py, &error))?;
                u32::try_from(token.0).unwrap_or(0)
            }
        };
        let json = self.with(py, |vocabulary| {
            Ok(serde_json::to_value(vocabulary.token(id).map(JsonToken))?)
        })?;
        value::value(py, &json)
    }

    fn __repr__(&self) -> String {
        format!("Vocab({} tokens)", self.model.vocab().len())
    }
}
