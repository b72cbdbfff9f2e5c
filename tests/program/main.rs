//! The program as its users meet it: through the command line.
//!
//! All of these are one binary, because each links llama.cpp anew.

#![allow(missing_docs, clippy::print_stderr)]

#[path = "../support/mod.rs"]
mod support;

mod bench;
mod complete;
mod convert;
mod doctor;
mod experiments;
mod grammar;
mod hints;
mod hostile;
mod hub;
mod imatrix;
mod interrupted;
mod meta;
mod outputs;
mod pages;
mod portable;
mod probe_archs;
mod probe_cli;
mod prompts;
mod serve;
mod setup;
mod steering;
mod store;
mod tiny;
mod vocab;
mod vulkan;
mod workers;
