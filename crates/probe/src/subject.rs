//! Which model a result is of.

use serde::Serialize;

use modelve_runtime::Model;

/// A model in a few words, for whoever reads a result later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// The name in the file, or the file's own.
    pub name: String,
    /// The types that most of its weights have, the commonest first: `Q4_K, Q6_K`.
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
        let all: u64 = facts.weights.iter().map(|(_, bytes)| bytes).sum();
        // What norms and biases are kept in says little.
        let large = facts.weights.iter().filter(|(_, bytes)| *bytes > all / 20);
        let types: Vec<_> = large.map(|(ty, _)| ty.name()).collect();
        Subject {
            name: facts.name.clone().unwrap_or_else(file),
            quantization: types.join(", "),
        }
    }
}
