//! What can go wrong between a model file and its text.

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
    /// A context of no tokens, or of more than llama.cpp counts.
    #[error("a context of {n_ctx} tokens")]
    ContextSize {
        /// The size asked for.
        n_ctx: u32,
    },
    /// A context for no sequences, or for more than llama.cpp keeps apart.
    #[error("a context for {n_seq} sequences (1 to {most})")]
    Sequences {
        /// Sequences asked for.
        n_seq: u32,
        /// The most there can be.
        most: u32,
    },
    /// A quantized KV cache without fused attention.
    #[error("a quantized KV cache needs flash attention")]
    QuantizedCacheUnfused,
    /// A quantized KV cache for heads that are not made of whole blocks.
    #[error("a quantized KV cache needs heads of a multiple of 32 values, not {k} and {v}")]
    QuantizedCacheHeads {
        /// Values of a key head.
        k: u32,
        /// Values of a value head.
        v: u32,
    },
    /// A context longer than the model was trained on.
    #[error("a context of {size} tokens is more than the {trained} the model was trained on")]
    BeyondTraining {
        /// Tokens asked for.
        size: u32,
        /// Tokens of the longest text the model was trained on.
        trained: u32,
    },
    /// A batch of no tokens, or of more than the context takes at once.
    #[error("a batch has 1 to {most} tokens, not {n}")]
    BatchSize {
        /// Tokens given.
        n: usize,
        /// The most the context takes.
        most: u32,
    },
    /// More rows of logits than the context was made for.
    #[error("logits of {n} tokens at once, in a context made for {most}")]
    TooManyOutputs {
        /// Rows asked for.
        n: usize,
        /// Rows there is room for.
        most: u32,
    },
    /// A sequence or position that the context does not have.
    #[error("no sequence {seq} with a position {position} in a context of {n_seq} sequences")]
    NoPlace {
        /// The sequence.
        seq: i32,
        /// The position.
        position: i32,
        /// Sequences of the context.
        n_seq: u32,
    },
    /// All sequences of a session are open.
    #[error("all {n_seq} sequences of the session are open")]
    NoSequence {
        /// Sequences of the session.
        n_seq: u32,
    },
    /// A sequence of another session.
    #[error("the sequence is of another session")]
    ForeignSequence,
    /// A memory that cannot be taken back to where it was some tokens ago.
    #[error("the memory of this model ({arch}) cannot be taken back from {have} to {want} tokens")]
    CannotTakeBack {
        /// The architecture.
        arch: String,
        /// Tokens of the sequence.
        have: usize,
        /// Tokens wanted of it.
        want: usize,
    },
    /// A saved sequence that cannot be put back.
    #[error("the saved sequence cannot be put back: {0}")]
    State(#[from] StateFault),
    /// A look inside a step with several sequences, of a model that reorders them.
    #[error("the memory of this model ({arch}) is recurrent: a step with a hook has one sequence")]
    HookOnSeveral {
        /// The architecture.
        arch: String,
    },
    /// A node that no model of this architecture has, or none as it computes now.
    #[error("{arch}: its graph has no {role}{}", if *.fused { ": fused attention keeps no weights" } else { "" })]
    NoRole {
        /// The architecture.
        arch: String,
        /// What was wanted.
        role: Role,
        /// Whether it would be there without fused attention.
        fused: bool,
    },
    /// A node whose values are not floats.
    #[error("node {node} holds {ty}, which is neither read nor written")]
    NodeType {
        /// Its name.
        node: String,
        /// The type of its values.
        ty: String,
    },
    /// A node that was to be given more or fewer values than it has.
    #[error("node {node} has {have} values, not {given}")]
    NodeLength {
        /// Its name.
        node: String,
        /// Values it has.
        have: usize,
        /// Values that were given.
        given: usize,
    },
    /// The activations of a node that is no matrix product.
    #[error("node {node} is no matrix product but {op}")]
    NoActivations {
        /// Its name.
        node: String,
        /// What computes it.
        op: String,
    },
    /// A look inside by a session that was made without hooks.
    #[error("the session was made without hooks")]
    NoHooks,
    /// A control vector that does not hold together, or is of another model.
    #[error("the control vector {what}")]
    ControlVector {
        /// What is wrong with it.
        what: String,
    },
    /// A control vector for an architecture whose graph adds none.
    #[error(
        "{arch}: its graph in llama.cpp has no place to add a control vector after layer {}",
        numbered(.layers)
    )]
    NoControl {
        /// The architecture.
        arch: String,
        /// The layers that the vector has a direction for and the graph no place.
        layers: Vec<usize>,
    },
    /// A temperature so low that logits divided by it overflow.
    #[error(
        "temperature cannot be {value}: it is 0, which takes the likeliest token, or {least} and more"
    )]
    Temperature {
        /// The value asked for.
        value: f32,
        /// The lowest above 0.
        least: f32,
    },
    /// A number for a sampler that makes no sense.
    #[error("{name} cannot be {value}")]
    Sampling {
        /// What it is called.
        name: &'static str,
        /// The number.
        value: f32,
    },
    /// A logit bias that is no number.
    #[error("logit bias of {token} is no number")]
    LogitBias {
        /// Whose bias it is.
        token: Token,
    },
    /// Samplers after which there is nothing to choose.
    #[error("the samplers leave no token")]
    NothingToSample,
    /// A model without a vocabulary.
    #[error("the model has no vocabulary")]
    NoVocabulary,
    /// A device gave no memory for weights or for a context.
    #[error("there is no memory for {what}: {reason}")]
    OutOfMemory {
        /// What it was to hold.
        what: String,
        /// What llama.cpp logged.
        reason: String,
    },
    /// A grammar or JSON schema that cannot be used.
    #[error("{0}")]
    Grammar(String),
    /// The grammar is at its end, and the model has no token to say so.
    #[error("the grammar is at its end")]
    GrammarEnd,
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

/// `1, 2, 3`.
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
    /// It is something else.
    #[error("it is no saved sequence")]
    NoState,
    /// It is of another version of this library.
    #[error("it is of version {version}")]
    Version {
        /// The version.
        version: u32,
    },
    /// Bytes are missing or not what they were.
    #[error("it is damaged or cut short")]
    Damaged,
    /// It was saved with another file.
    #[error("it is of another model")]
    OtherModel,
    /// It was saved by a session that computes otherwise.
    #[error("it was saved with another {what}")]
    OtherSettings {
        /// The setting.
        what: &'static str,
    },
    /// llama.cpp declined what passed every check made here, or gave nothing to save.
    #[error("llama.cpp declines: {reason}")]
    Declined {
        /// What llama.cpp logged.
        reason: String,
    },
}

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
