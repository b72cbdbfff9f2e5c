//! One file per command: typed options in, a result out.

pub mod again;
pub mod attention;
pub mod compare;
pub mod complete;
pub mod completions;
pub mod convert;
pub mod doctor;
pub mod engine;
pub mod find;
pub mod flags;
pub mod greeting;
pub mod headings;
pub mod kind;
pub mod lens;
pub mod man;
pub mod meta;
pub mod next;
pub mod probing;
pub mod prompt;
pub mod results;
pub mod score;
pub mod serve;
pub mod trial;
pub mod vocab;
pub mod waiting;
