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
    /// A difference of two means, one of which is of nothing.
    #[error(
        "a direction leads from one kind of text to another: {plus} on the plus side, {minus} on the minus side"
    )]
    OneSided {
        /// Texts to lead to.
        plus: usize,
        /// Texts to lead away from.
        minus: usize,
    },
    /// A file that cannot be written to.
    #[error("cannot write: {0}")]
    Write(std::io::Error),
    /// A vocabulary with fewer ordinary tokens than are to be drawn.
    #[error("{want} different tokens cannot be drawn: the vocabulary has {have} ordinary ones")]
    TooFewTokens {
        /// Ordinary tokens there are.
        have: usize,
        /// Tokens asked for.
        want: usize,
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
