//! The model that a result belongs to.

use serde::Serialize;

use modelve_runtime::Model;

/// A short description of a model, kept with each result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// The name in the file's metadata, else the file's name.
    pub name: String,
    /// The types of most of its weights, the commonest first: `Q4_K, Q6_K`.
    pub quantization: String,
}

impl Subject {
    /// Describes a loaded model.
    pub fn of(model: &Model) -> Self {
        let facts = model.facts();
        let file = || {
            let name = model.path().file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let all: u64 = facts.weights.iter().map(|(_, bytes)| bytes).sum();
        // Types with a small share, such as those of norms and biases, are left out.
        let large = facts.weights.iter().filter(|(_, bytes)| *bytes > all / 20);
        let types: Vec<_> = large.map(|(ty, _)| ty.name()).collect();
        Subject {
            name: facts.name.clone().unwrap_or_else(file),
            quantization: types.join(", "),
        }
    }
}
