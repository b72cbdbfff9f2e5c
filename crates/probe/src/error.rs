//! Why a probe has no answer.

use modelve_runtime::Token;

/// An error of a probe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The runtime's own.
    #[error(transparent)]
    Runtime(#[from] modelve_runtime::Error),
    /// A model file that cannot be read.
    #[error(transparent)]
    Gguf(#[from] modelve_gguf::Error),
    /// A prompt without a token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A text of which no token has anything before it.
    #[error("the text is a single token, and nothing is before it to judge it by")]
    TextTooShort,
    /// A candidate without a token.
    #[error("candidate {index} is empty")]
    EmptyCandidate {
        /// Which one, from 1.
        index: usize,
    },
    /// A text that was to be one token.
    #[error("{text:?} is not one token but {count}: {pieces}")]
    NotOneToken {
        /// The text.
        text: String,
        /// Its tokens.
        count: usize,
        /// Their texts.
        pieces: String,
    },
    /// A window that cannot move as asked.
    #[error(
        "a window of {size} tokens cannot move by {stride}: the stride is 1 to one less than the window"
    )]
    Window {
        /// Tokens in a window.
        size: usize,
        /// Tokens it moves by.
        stride: usize,
    },
    /// A tree with no nodes, or with too many.
    #[error("a tree of depth {depth} and width {width} has {nodes} nodes; up to {most} are walked")]
    Tree {
        /// Tokens from the root to a leaf.
        depth: usize,
        /// Branches of a node.
        width: usize,
        /// All nodes, as far as they can be counted.
        nodes: usize,
        /// The limit.
        most: usize,
    },
    /// A layer that the model does not have.
    #[error("layer {layer} of a model with {n_layer} layers, 0 to {}", n_layer - 1)]
    NoLayer {
        /// The layer.
        layer: usize,
        /// Layers of the model.
        n_layer: usize,
    },
    /// A position that the prompt does not have.
    #[error("position {position} of a prompt with {len} tokens, 0 to {}", len - 1)]
    NoPosition {
        /// The position.
        position: usize,
        /// Tokens of the prompt.
        len: usize,
    },
    /// A head that the layer does not have.
    #[error("head {head} of a layer with {n_head} heads, 0 to {}", n_head - 1)]
    NoHead {
        /// The head.
        head: usize,
        /// Heads of the layer.
        n_head: usize,
    },
    /// What this architecture does not offer.
    #[error("{arch}: {what}")]
    Unsupported {
        /// The architecture.
        arch: String,
        /// What is missing.
        what: String,
    },
    /// Two models that do not speak of the same tokens.
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
        /// Entries of the vocabulary.
        n_vocab: u32,
    },
    /// The system gives no threads.
    #[error("no threads: {0}")]
    Threads(String),
    /// A file that cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
