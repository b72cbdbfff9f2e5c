//! Paths of OpenAI's API, with the fields that its clients send and read.

pub mod chat;
pub mod completions;
pub mod conversation;
pub mod messages;
pub mod models;
pub mod responses;
pub mod turn;
pub mod types;
