//! modelve takes a Hugging Face checkpoint, writes a quantized GGUF, shows what is inside
//! it, looks up its vocabulary, completes text with it and explains what it computes, on llama.cpp.
//!
//! The library is a set of crates by subject, each usable alone; this one gathers them under the
//! names below and adds the program's commands. Dependencies point down only.
//!
//! | module | contents |
//! |---|---|
//! | [`gguf`] | the file format: types, metadata, vocabularies; reading and writing |
//! | [`quant`] | the choice of a type for each tensor; encoding rows of weights to blocks |
//! | [`matmul`] | CPU kernels that multiply quantized matrices with activations |
//! | [`hub`] | finding models: the Hugging Face Hub, its cache, the folder of converted models |
//! | [`convert`] | converting a checkpoint to a GGUF: architectures, plan, stream, verification |
//! | [`runtime`] | llama.cpp: model, tokenizer, session, sampling |
//! | [`probe`] | what a model expects, layer by layer, and what quantization changed |
//! | [`experiment`] | what a model would say without a word, a layer or a head, to explain its answers |
//! | [`server`] | serving a model over HTTP, for clients of OpenAI's API |
//! | [`workers`] | other machines that compute layers: the authenticated stream to them |
//! | [`base`] | shared helpers: progress, memory, numbers for people |
//! | [`dispatch`], [`cli`], [`version`] | running a command line; the list of commands; `--version` |
//! | [`commands`] | one file or folder per command, with its flags |
//! | [`output`], [`table`] | writing to standard output; columns |
//! | [`bus`] | the error message when a mapped file is truncated |
//! | [`program`] | whether this process is the program, or a module of another |
//! | [`progress`], [`hint`] | progress of long work, on standard error; hints for errors |

pub use modelve_base as base;
pub use modelve_convert as convert;
pub use modelve_experiment as experiment;
pub use modelve_gguf as gguf;
pub use modelve_hub as hub;
pub use modelve_matmul as matmul;
pub use modelve_probe as probe;
pub use modelve_quant as quant;
pub use modelve_runtime as runtime;
pub use modelve_server as server;
pub use modelve_workers as workers;

pub mod bus;
pub mod cli;
pub mod commands;
pub mod dispatch;
pub mod hint;
pub mod output;
pub mod program;
pub mod progress;
pub mod table;
pub mod version;

/// The example of the documentation, compiled.
#[cfg(doctest)]
#[doc = include_str!("../docs/library.md")]
struct Library;
