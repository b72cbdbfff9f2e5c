//! Calls in what a model writes, in the ways that templates teach.
//!
//! A call is recognized when it is complete and names a tool that was offered; everything else
//! stays text.

mod parser;
mod syntax;

pub use parser::{Parser, overlap};
pub use syntax::Syntax;

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// Its arguments, as JSON.
    pub arguments: String,
}

/// A part of what a model writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Words.
    Text(String),
    /// A call.
    Call(Call),
}
