//! Tool calls in generated text, in the syntaxes of chat templates.
//!
//! A call is recognized when it is complete and names an offered tool; everything else stays text.

mod parser;
mod syntax;

pub use parser::{Parser, overlap};
pub use syntax::Syntax;

/// A tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Name of the tool.
    pub name: String,
    /// The arguments, as JSON.
    pub arguments: String,
}

/// A part of generated text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text.
    Text(String),
    /// A tool call.
    Call(Call),
}
