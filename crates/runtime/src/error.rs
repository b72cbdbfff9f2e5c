//! The errors of the runtime.

use std::fmt;
use std::path::PathBuf;

use super::role::Role;
use super::settings::KvType;
use super::token::Token;
use modelve_base::human::bytes;

/// An error of the runtime. Names the file, tensor, key or argument it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is not a GGUF, or it is damaged.
    #[error(transparent)]
    Gguf(#[from] modelve_gguf::Error),
    /// The file is a GGUF, but its contents are inconsistent or unusable.
    #[error("{}: {what}", path.display())]
    Invalid {
        /// The model file.
        path: PathBuf,
        /// The key or tensor and what is wrong with it.
        what: String,
    },
    /// llama.cpp rejected a file that passed all checks of this crate.
    #[error("{}: llama.cpp cannot load it: {reason}", path.display())]
    Load {
        /// The model file.
        path: PathBuf,
        /// What llama.cpp logged.
        reason: String,
    },
    /// llama.cpp failed to make a context.
    #[error("llama.cpp cannot make a context of {n_ctx} tokens: {reason}")]
    Context {
        /// The requested size, in tokens.
        n_ctx: u32,
        /// What llama.cpp logged.
        reason: String,
    },
    /// The KV cache and working memory would not fit.
    #[error("{0}")]
    Memory(MemoryShortage),
    /// A sequence has more tokens than its context holds.
    #[error("{need} tokens do not fit into a context of {n_ctx}")]
    ContextFull {
        /// The number of tokens that the sequence would have.
        need: usize,
        /// The number of tokens that the context holds.
        n_ctx: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("token id {token} is outside the vocabulary of {n_vocab}")]
    TokenRange {
        /// The id.
        token: Token,
        /// The number of entries of the vocabulary; ids start at 0.
        n_vocab: u32,
    },
    /// The vocabulary cannot express a text.
    #[error("the vocabulary has no token for {what}")]
    Unencodable {
        /// The character or byte.
        what: String,
    },
    /// There are no tokens where at least one is needed.
    #[error("the prompt is empty and the model has no token to begin a text with")]
    EmptyPrompt,
    /// A build that loads its backends from libraries found none that it can compute with.
    #[error("found no backend for this CPU in {}", folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(" or "))]
    NoBackend {
        /// The folders that are searched for backends.
        folders: Vec<PathBuf>,
    },
    /// Layers were requested to be on a GPU, and there is none.
    #[error("layers cannot be put on a GPU: this build or this machine has none")]
    NoGpu,
    /// This build or machine has no device of the requested name.
    #[error("no device {name} in this build, which has {}", .have.join(", "))]
    NoDevice {
        /// The requested name.
        name: String,
        /// The names of the available devices.
        have: Vec<String>,
    },
    /// This build lacks ggml's RPC backend, which computes on other machines: llama.cpp was compiled
    /// before this crate asked for the backend, and cargo does not see that.
    #[error(
        "this build cannot use other machines: it lacks ggml's RPC backend (in the checkout: cargo clean -p llama-cpp-sys-2, then build again)"
    )]
    NoRpc,
    /// A worker that holds layers of the model went away.
    #[error("the worker {worker} is lost: {reason}")]
    WorkerLost {
        /// The worker, as the user named it.
        worker: String,
        /// What happened.
        reason: String,
    },
    /// A context of no tokens, or of more than llama.cpp can count.
    #[error("a context cannot have {n_ctx} tokens")]
    ContextSize {
        /// The requested size.
        n_ctx: u32,
    },
    /// A context for no sequences, or for more than llama.cpp supports.
    #[error("a context has 1 to {most} sequences, not {n_seq}")]
    Sequences {
        /// The requested number of sequences.
        n_seq: u32,
        /// The maximum.
        most: u32,
    },
    /// A quantized KV cache was requested without fused attention.
    #[error("a quantized KV cache needs flash attention")]
    QuantizedCacheUnfused,
    /// A quantized KV cache was requested for heads that are not a whole number of blocks.
    #[error("a quantized KV cache needs heads of a multiple of 32 values, not {k} and {v}")]
    QuantizedCacheHeads {
        /// The number of values of a key head.
        k: u32,
        /// The number of values of a value head.
        v: u32,
    },
    /// A context is longer than the texts the model was trained on.
    #[error("a context of {size} tokens is more than the {trained} the model was trained on")]
    BeyondTraining {
        /// The requested number of tokens.
        size: u32,
        /// The number of tokens of the longest text the model was trained on.
        trained: u32,
    },
    /// A folder for saved sequences that cannot be made or written.
    #[error("cannot keep states in {}", folder.display())]
    Store {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A batch of no tokens, or of more than the context computes at once.
    #[error("a batch has 1 to {most} tokens, not {n}")]
    BatchSize {
        /// The number of tokens of the batch.
        n: usize,
        /// The maximum for the context.
        most: u32,
    },
    /// More rows of logits were requested than the context was made for.
    #[error("the context was made for logits of at most {most} tokens at once, not {n}")]
    TooManyOutputs {
        /// The requested number of rows.
        n: usize,
        /// The maximum for the context.
        most: u32,
    },
    /// A sequence or position is outside the context.
    #[error("no sequence {seq} with a position {position} in a context of {n_seq} sequences")]
    OutOfContext {
        /// The sequence.
        seq: i32,
        /// The position.
        position: i32,
        /// The number of sequences of the context.
        n_seq: u32,
    },
    /// All sequences of a session are open.
    #[error("all {n_seq} sequences of the session are open")]
    NoSequence {
        /// The number of sequences of the session.
        n_seq: u32,
    },
    /// The sequence belongs to another session.
    #[error("the sequence belongs to another session")]
    ForeignSequence,
    /// The model's memory cannot be rolled back to an earlier token.
    #[error("the memory of this model ({arch}) cannot be rolled back from {have} to {want} tokens")]
    CannotTruncate {
        /// The architecture.
        arch: String,
        /// The number of tokens of the sequence.
        have: usize,
        /// The number of tokens to roll back to.
        want: usize,
    },
    /// A saved sequence cannot be restored.
    #[error("the saved sequence cannot be restored: {0}")]
    State(#[from] StateFault),
    /// A step with a hook has several sequences, and the model is recurrent, so that its graph
    /// reorders them.
    #[error("the memory of this model ({arch}) is recurrent: a step with a hook has one sequence")]
    HookOnSeveral {
        /// The architecture.
        arch: String,
    },
    /// The graph of this architecture has no node of this role, or has it only without fused
    /// attention.
    #[error("{arch}: its graph has no {role}{}", if *.fused { ": flash attention keeps no weights" } else { "" })]
    NoRole {
        /// The architecture.
        arch: String,
        /// The requested role.
        role: Role,
        /// Whether the graph would have it without fused attention.
        fused: bool,
    },
    /// The values of a node are not floats.
    #[error("node {node} holds {ty}, which can be neither read nor written")]
    NodeType {
        /// Its name.
        node: String,
        /// The type of its values.
        ty: String,
    },
    /// A hook wrote more or fewer values to a node than it has.
    #[error("node {node} has {have} values, not {given}")]
    NodeLength {
        /// Its name.
        node: String,
        /// The number of values it has.
        have: usize,
        /// The number of values that were written.
        given: usize,
    },
    /// Weights were to be replaced that the graph does not hold under this name.
    #[error("the graph has no weights named `{tensor}` that can be replaced")]
    NoWeights {
        /// The name of the tensor.
        tensor: String,
    },
    /// Activations were requested of a node that is not a matrix product.
    #[error("node {node} is not a matrix product but {op}")]
    NoActivations {
        /// Its name.
        node: String,
        /// The operation that computes it.
        op: String,
    },
    /// A hook was passed to a session that was made without hooks.
    #[error("the session was made without hooks")]
    NoHooks,
    /// A control vector is invalid, or does not fit the model.
    #[error("the control vector {what}")]
    ControlVector {
        /// What is wrong with it.
        what: String,
    },
    /// llama.cpp's graph for this architecture adds no control vector after these layers.
    #[error(
        "{arch}: its graph in llama.cpp has no place to add a control vector after layer {}",
        numbered(.layers)
    )]
    NoControl {
        /// The architecture.
        arch: String,
        /// The layers that the vector has a direction for and after which the graph adds none.
        layers: Vec<usize>,
    },
    /// The temperature is so low that logits divided by it overflow.
    #[error(
        "temperature cannot be {value}: it is 0, which takes the likeliest token, or {least} and more"
    )]
    Temperature {
        /// The requested value.
        value: f32,
        /// The lowest value above 0.
        least: f32,
    },
    /// A sampler's parameter is out of range.
    #[error("{name} cannot be {value}")]
    Sampling {
        /// The name of the parameter.
        name: &'static str,
        /// Its value.
        value: f32,
    },
    /// A logit bias is NaN or infinite.
    #[error("the logit bias of token {token} is not finite")]
    LogitBias {
        /// The token of the bias.
        token: Token,
    },
    /// The samplers rule out every token.
    #[error("the samplers leave no token")]
    NothingToSample,
    /// The model has no vocabulary.
    #[error("the model has no vocabulary")]
    NoVocabulary,
    /// A device has no memory for weights or for a context.
    #[error("there is no memory for {what}: {reason}")]
    OutOfMemory {
        /// What the memory is for.
        what: String,
        /// What llama.cpp logged.
        reason: String,
    },
    /// A grammar or JSON schema is invalid or not supported.
    #[error("{0}")]
    Grammar(String),
    /// The grammar is at its end, and the model has no token that ends a text.
    #[error("the grammar is at its end")]
    GrammarEnd,
    /// A chat template is invalid or failed.
    #[error("chat template: {0}")]
    Template(String),
    /// llama.cpp failed during a computation.
    #[error("llama.cpp failed to compute (status {status}): {reason}")]
    Decode {
        /// What `llama_decode` returned.
        status: i32,
        /// What llama.cpp logged.
        reason: String,
    },
    /// A result is NaN or infinite, as damaged weights produce it.
    #[error(
        "the model computes values that are not finite ({what}): its weights are damaged, or too large for its types"
    )]
    NotANumber {
        /// The first tensor that was found to hold such a value.
        what: String,
    },
    /// The work was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// Lists layers like `1, 2, 3`.
fn numbered(layers: &[usize]) -> String {
    let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
    layers.join(", ")
}

/// `Result` with the runtime's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with a saved sequence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateFault {
    /// The bytes are not a saved sequence.
    #[error("it is not a saved sequence")]
    NotASavedSequence,
    /// It has the format of another version of this library.
    #[error("its format is version {version}, which this version of modelve does not read")]
    Version {
        /// The version.
        version: u32,
    },
    /// Bytes are missing or changed.
    #[error("it is damaged or cut short")]
    Damaged,
    /// It was saved with another model file.
    #[error("it belongs to another model")]
    OtherModel,
    /// It was saved by a session with other settings.
    #[error("it was saved with another {what}")]
    OtherSettings {
        /// The setting.
        what: &'static str,
    },
    /// llama.cpp rejected a state that passed all checks of this crate, or gave nothing to save.
    #[error("llama.cpp rejects it: {reason}")]
    Declined {
        /// What llama.cpp logged.
        reason: String,
    },
}

/// The sizes of a context that does not fit into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryShortage {
    /// The requested number of tokens.
    pub n_ctx: u64,
    /// Bytes of KV cache per token.
    pub per_token: u64,
    /// The number of bytes that are free for it.
    pub free: u64,
    /// The largest context that fits, in tokens.
    pub largest: u64,
    /// The requested type of the cache.
    pub kv_type: KvType,
}

impl fmt::Display for MemoryShortage {
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
