//! Errors of the experiments.

/// An error of an experiment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the runtime.
    #[error(transparent)]
    Runtime(#[from] modelve_runtime::Error),
    /// An error of a probe.
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
    /// A text that is not the name of a part.
    #[error(
        "{text:?} is not a part of a model: a part is 5.3 (a head), attn.5, mlp.5, layer.5 or embed, with @P at one position"
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
    /// A steering direction without texts on one of its two sides.
    #[error(
        "a direction needs texts on both sides: there are {plus} on the plus side, {minus} on the minus side"
    )]
    OneSided {
        /// Number of texts to steer towards.
        plus: usize,
        /// Number of texts to steer away from.
        minus: usize,
    },
    /// A file that cannot be written.
    #[error("cannot write: {0}")]
    Write(std::io::Error),
    /// A vocabulary with fewer ordinary tokens than are needed.
    #[error("{want} different tokens cannot be drawn: the vocabulary has {have} ordinary ones")]
    TooFewTokens {
        /// Number of ordinary tokens in the vocabulary.
        have: usize,
        /// Number of tokens needed.
        want: usize,
    },
    /// A bias, which is computed together with its block and cannot be removed alone.
    #[error("{part} is a bias, which cannot be removed alone: remove the block that it belongs to")]
    NotRemovable {
        /// The part, as on the command line.
        part: String,
    },
    /// A position that the prompt does not have.
    #[error("position {position} of a prompt with {len} tokens, 0 to {}", len.saturating_sub(1))]
    NoPosition {
        /// The position; negative positions count from the end.
        position: i32,
        /// Number of tokens in the prompt.
        len: usize,
    },
    /// An empty text where a token of the measure is expected.
    #[error("{flag} is empty")]
    EmptyName {
        /// The flag that was given the empty text.
        flag: &'static str,
    },
    /// A measure that compares a token with itself.
    #[error(
        "{token:?} and {against:?} are the same answer: the first tokens that differ are compared"
    )]
    SameTokens {
        /// The token whose logit is measured.
        token: String,
        /// The token that it is compared with.
        against: String,
    },
    /// Two prompts whose positions do not correspond as needed.
    #[error("{what}")]
    Unaligned {
        /// Which tokens have no counterpart.
        what: String,
    },
    /// Two prompts for which the measure is the same.
    #[error(
        "the measure is the same for both prompts ({value:.6}), so there is no difference of which to show a share"
    )]
    NoDifference {
        /// The measure of both.
        value: f64,
    },
    /// The system cannot start threads.
    #[error("no threads: {0}")]
    Threads(String),
    /// An architecture or file for which this experiment cannot be computed.
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
