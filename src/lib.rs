//! modelve takes a Hugging Face checkpoint, writes a quantized GGUF, shows what is inside
//! it, looks up its vocabulary and completes text with it, on llama.cpp.
//!
//! What is where, from the ground up (dependencies point down only):
//!
//! | module | what it knows |
//! |---|---|
//! | [`gguf`] | the file format: types, reading, writing |
//! | [`quant`] | which type for which tensor; rows of weights to blocks |
//! | [`matmul`] | quantized matrices times activations, on the CPU |
//! | [`hub`] | fetching from the Hugging Face Hub: the only outbound network code |
//! | [`store`], [`model`] | where models lie, and which one a MODEL argument means |
//! | [`progress`] | where long work stands, on standard error |
//! | [`runtime`] | llama.cpp: model, tokenizer, session, sampling |
//! | [`probe`] | what a model expects, layer by layer, and what quantization changed |
//! | [`vocab`] | a vocabulary as the file holds it: ids, texts, pieces |
//! | [`memory`] | how much memory there is, control groups included |
//! | [`human`] | sizes and names as a person reads them |
//! | [`checkpoint`] | a Hugging Face checkpoint: shards, configuration, tokenizer files |
//! | [`arch`] | one file per architecture: names, shapes, metadata |
//! | [`convert`] | checkpoint to GGUF: plan, stream, verify |
//! | [`hint`] | an error that knows the command that helps |
//! | [`commands`] | one file per command: typed options in, a result out |
//! | [`cli`] | the flags |
//! | [`table`] | columns |
//! | [`output`] | the only place that writes to standard output |

pub mod arch;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod convert;
pub mod gguf;
pub mod hint;
pub mod hub;
pub mod human;
pub mod map;
pub mod matmul;
pub mod memory;
pub mod model;
pub mod output;
pub mod probe;
pub mod progress;
pub mod quant;
pub mod runtime;
pub mod store;
pub mod table;
pub mod vocab;

/// The example of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
