//! The library's crates, held against implementations that are not ours and against hostile input.
//!
//! All of these are one binary, because each links llama.cpp anew.

#![allow(missing_docs, clippy::print_stderr)]

#[path = "../support/mod.rs"]
mod support;

mod control;
mod convert_bytes;
mod detect;
mod dump;
mod experiment;
mod experiment_reference;
mod gguf;
mod probe;
mod probe_compare;
mod probe_live;
mod probe_tiny;
mod quant_bytes;
mod reference;
mod runtime;
