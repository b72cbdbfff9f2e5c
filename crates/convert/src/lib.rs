//! From a checkpoint to a quantized GGUF in one pass: plan, stream, verify.
//!
//! [`Plan`] decides everything from headers alone: source, name, type, shape and offset of every
//! tensor, and all metadata. [`write()`] then moves the weights, shards → rows → blocks → file, on
//! all cores and in constant memory. [`check`] and [`measure`] read back what was written.
//!
//! | module | contents |
//! |---|---|
//! | [`checkpoint`] | the files of a Hugging Face checkpoint: configuration, tokenizer, shards |
//! | [`arch`] | one file per architecture: names, shapes and metadata |
//! | [`sized`] | the choice of types for a file of a given size |
//!
//! ```no_run
//! use modelve_convert::{Plan, Provenance, Request, checkpoint::Checkpoint};
//! use modelve_quant::mix::{Overrides, Recipe};
//!
//! let checkpoint = Checkpoint::open("models/tiny-phi3".as_ref())?;
//! let request = Request {
//!     recipe: Recipe::find("Q4_K_M").ok_or("no such recipe")?,
//!     overrides: &Overrides::default(),
//!     types: None,
//!     imatrix: None,
//!     provenance: &Provenance::default(),
//!     extra: &[],
//! };
//! let plan = Plan::new(&checkpoint, &request)?;
//! for tensor in plan.tensors() {
//!     println!("{} {:?} {}", tensor.name, tensor.shape, tensor.ty.name());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod arch;
pub mod checkpoint;
mod chunks;
mod error;
mod estimate;
mod metadata;
mod naming;
mod plan;
mod rows;
pub mod sized;
mod stream;
mod substitute;
mod verify;

pub use chunks::memory;
pub use error::Error;
pub use modelve_quant::imatrix::{self, Imatrix};
pub use plan::{Plan, PlannedTensor, Request, Source, estimate, file_name};
pub use stream::{Options, Written, check_name, check_output, write, write_aside};
pub use substitute::substitute;
pub use verify::{Deviation, check, measure};

/// The origin of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The repository on the Hub: `microsoft/Phi-3-mini-128k-instruct`.
    pub repository: Option<String>,
    /// The commit of that repository.
    pub commit: Option<String>,
}
