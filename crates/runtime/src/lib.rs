//! A safe interface to llama.cpp: load a model, tokenize, compute, sample, and look inside.
//!
//! - [`Model`]: a GGUF file's weights and vocabulary, loaded once and shared by threads.
//! - [`Session`]: one context of a model: a KV cache, the logits of the tokens that were fed, and
//!   [hooks](graph) on the graph, to look inside.
//! - [`Engine`]: completes many prompts at once, which may arrive at any time; [`complete`] does so
//!   for prompts that are all known beforehand.
//!
//! Unsafe code is in `ffi.rs` and `*_ffi.rs` only; files are checked before llama.cpp sees them.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::path::Path;
//!
//! use modelve_runtime::{
//!     Event, LoadOptions, Model, Options, Reading, Request, Result, Session, Settings, Setup, WantLogits,
//!     complete, likeliest,
//! };
//!
//! fn main() -> Result<()> {
//!     let model = Model::load(Path::new("phi3.gguf"), &LoadOptions::default())?;
//!     let prompt = model.vocab().tokenize("Today is", Reading::Prompt)?;
//!
//!     // A completion, with a callback per token.
//!     let options = Options { max_tokens: 16, ..Options::default() };
//!     let request = Request { prompt: prompt.clone(), seed: 0, options: options.into() };
//!     complete(&model, vec![request], Setup::default(), &mut |event| {
//!         if let Event::Token { text, .. } = event {
//!             print!("{text}");
//!         }
//!         ControlFlow::Continue(())
//!     })?;
//!
//!     // The most likely next tokens at every position of the prompt.
//!     let mut session = Session::new(&model, &Settings { n_ctx: 256, ..Settings::default() })?;
//!     let seq = session.open()?;
//!     session.feed(&seq, &prompt, WantLogits::All, &mut |i, logits| {
//!         println!("after token {i}: {:?}", likeliest(logits, 3));
//!     })?;
//!     Ok(())
//! }
//! ```

mod active_hook;
pub mod backends;
mod batch;
mod cancel;
mod cells;
pub mod chat;
mod check;
mod completion;
pub mod context;
mod context_ffi;
mod control;
mod device;
pub mod engine;
mod error;
mod exchange_ffi;
mod families;
mod ffi;
mod grammar;
pub mod graph;
pub mod host;
pub mod kv;
mod log;
mod model;
mod node;
mod node_ffi;
mod params;
pub mod placement;
mod remote;
mod role;
mod roles;
mod rope;
mod rpc_ffi;
mod sampling;
mod seq;
mod session;
mod sessions;
mod settings;
mod start;
mod state;
mod store;
pub mod text;
mod token;
mod trace;
mod values;
mod vocab;
pub mod weights;
pub mod working;

pub use cancel::Cancel;
pub use check::{Facts, StopTokens, is_weight_type};
pub use completion::{Completion, ContextReport, Event, Finish, Options, Report, Step};
pub use control::ControlVector;
pub use device::Device;
pub use engine::{Engine, Request, RequestId, Setup, complete};
pub use error::{Error, MemoryShortage, Result, StateFault};
pub use exchange_ffi::Exchange;
pub use ffi::on_abort;
pub use grammar::Grammar;
pub use model::{CheckedFile, GpuLayers, LoadOptions, Model, Weights};
pub use remote::{Remote, RemoteLayers, serve_devices, stop_serving};
pub use rope::{Rope, RopeFactors};
pub use sampling::{Likely, Sampling, likeliest, log_sum_exp};
pub use seq::{Position, Seq, SeqId};
pub use session::{Entry, Session, WantLogits};
pub use sessions::Sessions;
pub use settings::{FlashAttention, KvType, Settings};
pub use start::{Starting, devices, own_kernels, start_ahead, system_info};
pub use store::StateStore;
pub use token::Token;
pub use vocab::{Reading, Vocab};
