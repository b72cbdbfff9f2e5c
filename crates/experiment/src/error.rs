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
    /// A part that nothing computes by itself.
    #[error("{part} is a bias, which cannot be taken out: take out the block that it is of")]
    NotRemovable {
        /// The part, as on the command line.
        part: String,
    },
    /// A position that the prompt does not have.
    #[error("position {position} of a prompt with {len} tokens, 0 to {}", len.saturating_sub(1))]
    NoPosition {
        /// The position, counted from the end where it is negative.
        position: i32,
        /// Tokens of the prompt.
        len: usize,
    },
    /// A token of the measure that was named by an empty text.
    #[error("{flag} is empty")]
    EmptyName {
        /// The flag that names it.
        flag: &'static str,
    },
    /// A measure of a token against itself.
    #[error("{token:?} and {against:?} are not two answers: the first tokens that differ decide")]
    SameTokens {
        /// The token that is followed.
        token: String,
        /// Its rival.
        against: String,
    },
    /// Two prompts between which nothing can be exchanged as asked.
    #[error("{what}")]
    Unaligned {
        /// Which tokens do not match.
        what: String,
    },
    /// Two prompts that the model answers alike.
    #[error(
        "both prompts give the same measure ({value:.6}), so that no share of the difference can be told"
    )]
    NoDifference {
        /// The measure of both.
        value: f64,
    },
    /// The system gives no threads.
    #[error("no threads: {0}")]
    Threads(String),
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
