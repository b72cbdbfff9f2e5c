//! Which model an experiment was made on.

use serde::Serialize;

use modelve_runtime::Model;

/// A model in a few words, for whoever reads a result later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// The name in the file, or the file's own.
    pub model: String,
    /// The type that most of its weights have.
    pub quantization: String,
}

impl Subject {
    /// Of a loaded model.
    pub fn of(model: &Model) -> Self {
        let facts = model.facts();
        let file = || {
            let name = model.path().file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let largest = facts.weights.first();
        Subject {
            model: facts.name.clone().unwrap_or_else(file),
            quantization: largest.map_or_else(String::new, |(ty, _)| ty.name().into_owned()),
        }
    }
}
