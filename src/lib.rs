//! modelve takes a Hugging Face checkpoint, writes a quantized GGUF, shows what is inside
//! it, looks up its vocabulary, completes text with it and explains what it computes, on llama.cpp.
//!
//! The library is a set of crates by subject, each usable alone; this one gathers them under the
//! names below and adds the program's commands. Dependencies point down only.
//!
//! | module | what it knows |
//! |---|---|
//! | [`gguf`] | the file format: types, metadata, vocabularies; reading and writing |
//! | [`quant`] | which type for which tensor; rows of weights to blocks |
//! | [`matmul`] | quantized matrices times activations, on the CPU |
//! | [`hub`] | where models are: the Hugging Face Hub, its cache, the folder of converted models |
//! | [`convert`] | a checkpoint and its architecture, and its way to a GGUF: plan, stream, verify |
//! | [`runtime`] | llama.cpp: model, tokenizer, session, sampling |
//! | [`probe`] | what a model expects, layer by layer, and what quantization changed |
//! | [`experiment`] | what it would say without a word, a layer or a head, and so why it says what it says |
//! | [`server`] | the model over HTTP, for clients that speak OpenAI's API |
//! | [`base`] | what all of them share: progress, memory, numbers for people |
//! | [`dispatch`], [`cli`], [`version`] | from the command line to the command; the list of commands; what `--version` says |
//! | [`commands`] | one file or folder per command, its flags beside it: typed options in, a result out |
//! | [`output`], [`table`] | the only place that writes to standard output; columns |
//! | [`bus`] | words for the end that a mapped file brings when it is cut short |
//! | [`progress`], [`hint`] | where long work stands, on standard error; errors that know what helps |

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

pub mod bus;
pub mod cli;
pub mod commands;
pub mod dispatch;
pub mod hint;
pub mod output;
pub mod progress;
pub mod table;
pub mod version;

/// The example of the documentation, compiled.
#[cfg(doctest)]
#[doc = include_str!("../docs/library.md")]
struct Library;
