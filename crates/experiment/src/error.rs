//! Why an experiment has no result.

/// An error of an experiment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The runtime's own.
    #[error(transparent)]
    Runtime(#[from] modelve_runtime::Error),
    /// What a probe says.
    #[error(transparent)]
    Probe(#[from] modelve_probe::Error),
    /// A model file that cannot be read.
    #[error(transparent)]
    Gguf(#[from] modelve_gguf::Error),
    /// Weights of a type that cannot be unpacked.
    #[error("{tensor}: {source}")]
    Weights {
        /// The tensor.
        tensor: String,
        /// Why.
        source: modelve_quant::Error,
    },
    /// A text that names no part of a model.
    #[error(
        "{text:?} is no part of a model: a part is 5.3 (a head), attn.5, mlp.5, layer.5 or embed, with @P at one position"
    )]
    NotAPart {
        /// The text.
        text: String,
    },
    /// A part that the model does not have.
    #[error("there is no {part}: {why}")]
    NoPart {
        /// The part, as on the command line.
        part: String,
        /// What the model has instead.
        why: String,
    },
    /// What this architecture does not offer.
    #[error("{arch}: {what}")]
    Unsupported {
        /// The architecture.
        arch: String,
        /// What is missing.
        what: String,
    },
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
