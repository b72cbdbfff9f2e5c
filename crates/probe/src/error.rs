//! Errors of the probes.

use modelve_runtime::Token;

/// An error of a probe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the runtime.
    #[error(transparent)]
    Runtime(#[from] modelve_runtime::Error),
    /// A model file that cannot be read.
    #[error(transparent)]
    Gguf(#[from] modelve_gguf::Error),
    /// A prompt without tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A text of one token: a score needs at least one token before the scored one.
    #[error("the text is a single token: a token can only be scored after another one")]
    TextTooShort,
    /// A candidate without tokens.
    #[error("candidate {index} is empty")]
    EmptyCandidate {
        /// Its number, from 1.
        index: usize,
    },
    /// A text that must be exactly one token.
    #[error("{text:?} is not one token but {count}: {pieces}")]
    NotOneToken {
        /// The text.
        text: String,
        /// Number of tokens it is.
        count: usize,
        /// Their texts.
        pieces: String,
    },
    /// A window whose stride is 0 or not smaller than its size.
    #[error(
        "a window of {size} tokens cannot move by {stride}: the stride is 1 to one less than the window"
    )]
    Window {
        /// Number of tokens in a window.
        size: usize,
        /// Number of tokens the window moves by.
        stride: usize,
    },
    /// A tree without nodes, or with too many.
    #[error("a tree of depth {depth} and width {width} has {nodes} nodes; up to {most} are walked")]
    Tree {
        /// Number of tokens from the root to a leaf.
        depth: usize,
        /// Number of branches of a node.
        width: usize,
        /// Number of nodes, saturating.
        nodes: usize,
        /// The limit.
        most: usize,
    },
    /// A layer that the model does not have.
    #[error("layer {layer} of a model with {n_layer} layers, 0 to {}", n_layer - 1)]
    NoLayer {
        /// The layer.
        layer: usize,
        /// Number of layers in the model.
        n_layer: usize,
    },
    /// A position that the prompt does not have.
    #[error("position {position} of a prompt with {len} tokens, 0 to {}", len - 1)]
    NoPosition {
        /// The position.
        position: usize,
        /// Number of tokens in the prompt.
        len: usize,
    },
    /// A head that the layer does not have.
    #[error("head {head} of a layer with {n_head} heads, 0 to {}", n_head - 1)]
    NoHead {
        /// The head.
        head: usize,
        /// Number of heads in the layer.
        n_head: usize,
    },
    /// An architecture or file for which this probe cannot be computed.
    #[error("{arch}: {what}")]
    Unsupported {
        /// The architecture.
        arch: String,
        /// What is missing.
        what: String,
    },
    /// Two models whose token ids mean different things.
    #[error("{a} and {b} have different vocabularies: {how}")]
    Vocabularies {
        /// One model.
        a: String,
        /// The other.
        b: String,
        /// The first difference.
        how: String,
    },
    /// A token outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {n_vocab}")]
    NoToken {
        /// The token.
        token: Token,
        /// Number of tokens in the vocabulary.
        n_vocab: u32,
    },
    /// The system cannot start threads.
    #[error("no threads: {0}")]
    Threads(String),
    /// A file that cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: std::path::PathBuf,
        /// The reason.
        source: std::io::Error,
    },
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
