//! What can go wrong between a model file and its text.

use std::fmt;
use std::path::PathBuf;

use super::settings::KvType;
use modelve_base::human::bytes;

/// The id of a token: 0 to one less than the size of the vocabulary.
pub type Token = i32;

/// An error of the runtime. Names the file, tensor, key or argument it is about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is no GGUF, or a damaged one.
    #[error(transparent)]
    Gguf(#[from] modelve_gguf::Error),
    /// The file is a GGUF, but what it says about itself does not hold together.
    #[error("{}: {what}", path.display())]
    Invalid {
        /// The model file.
        path: PathBuf,
        /// The key or tensor and what is wrong with it.
        what: String,
    },
    /// llama.cpp declined to load a file that passed every check made here.
    #[error("{}: llama.cpp cannot load it: {reason}", path.display())]
    Load {
        /// The model file.
        path: PathBuf,
        /// What llama.cpp logged.
        reason: String,
    },
    /// llama.cpp declined to make a context.
    #[error("llama.cpp cannot make a context of {n_ctx} tokens: {reason}")]
    Context {
        /// The size asked for, in tokens.
        n_ctx: u32,
        /// What llama.cpp logged.
        reason: String,
    },
    /// The KV cache and working memory would not fit.
    #[error("{0}")]
    Memory(Refusal),
    /// A sequence needs more room than its context has.
    #[error("{need} tokens do not fit into a context of {n_ctx}")]
    ContextFull {
        /// Tokens the sequence would have.
        need: usize,
        /// Tokens the context holds.
        n_ctx: usize,
    },
    /// A token id that the vocabulary does not have.
    #[error("token id {token} is outside the vocabulary of {n_vocab}")]
    TokenRange {
        /// The id.
        token: Token,
        /// Entries of the vocabulary; ids run from 0 to one less.
        n_vocab: u32,
    },
    /// A text that the vocabulary cannot express.
    #[error("the vocabulary has no token for {what}")]
    Unencodable {
        /// The character or byte.
        what: String,
    },
    /// No tokens at all, where at least one is needed.
    #[error("the prompt is empty and the model has no token to begin a text with")]
    EmptyPrompt,
    /// A build that loads its backends found none that it can compute with.
    #[error("no backend: nothing that can compute on this processor in {}", folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(" or "))]
    NoBackend {
        /// Where backends are looked for.
        folders: Vec<PathBuf>,
    },
    /// Layers were to go on a GPU, and there is none.
    #[error("layers cannot be put on a GPU: this build or this machine has none")]
    NoGpu,
    /// A device that this build does not have.
    #[error("no device {name} in this build, which has {}", .have.join(", "))]
    NoDevice {
        /// The name asked for.
        name: String,
        /// The names there are.
        have: Vec<String>,
    },
    /// A setting that this model or this build does not have.
    #[error("{0}")]
    Setting(String),
    /// A grammar or JSON schema that cannot be used.
    #[error("{0}")]
    Grammar(String),
    /// A chat template that cannot be used.
    #[error("chat template: {0}")]
    Template(String),
    /// llama.cpp gave up in the middle of a computation.
    #[error("llama.cpp failed to compute (status {status}): {reason}")]
    Decode {
        /// What `llama_decode` returned.
        status: i32,
        /// What llama.cpp logged.
        reason: String,
    },
    /// A result is NaN or infinite, as damaged weights make it.
    #[error(
        "what the model computes is no number ({what}): its weights are damaged, or too large for its types"
    )]
    NotANumber {
        /// The tensor that was found so first.
        what: String,
    },
    /// Somebody asked for the work to stop.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// Whether llama.cpp declined because a device gave it no memory. Its words are all that
    /// tells.
    pub fn is_for_want_of_memory(&self) -> bool {
        match self {
            Error::Load { reason, .. } | Error::Context { reason, .. } => {
                reason.contains("allocate")
            }
            _ => false,
        }
    }
}

/// `Result` with the runtime's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The arithmetic of a context that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Tokens asked for.
    pub n_ctx: u64,
    /// Bytes of KV cache per token.
    pub per_token: u64,
    /// Bytes free for it.
    pub free: u64,
    /// The largest context that fits, in tokens.
    pub largest: u64,
    /// The type of the cache asked for.
    pub kv_type: KvType,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a context of {} tokens × {} = {} does not fit; {} free; the largest that fits is {} tokens",
            self.n_ctx,
            bytes(self.per_token),
            bytes(self.n_ctx.saturating_mul(self.per_token)),
            bytes(self.free),
            self.largest
        )
    }
}
