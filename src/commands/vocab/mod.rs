//! `modelve vocab`: the vocabulary, its tokens, and the tokenization of texts.

mod encode;
mod lookup;
mod overview;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use regex::Regex;
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::find::open_gguf;
use super::flags::ModelFlag;
use super::kind;
use crate::gguf::vocab::{Token, Vocabulary};
use crate::hint::UsageError;
use crate::output::Output;
use crate::runtime;

/// Flags of `modelve vocab`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve vocab                              what kind of vocabulary, its special tokens
  modelve vocab 1001 '<|end|>' ▁bat          tokens by id or by text
  modelve vocab --search '^▁?bat'            tokens whose text matches
  modelve vocab --encode 'I saw a bat'       a text cut into tokens
  modelve vocab --file file.txt              the same for a file, byte for byte
  modelve vocab --decode 306 4446 263 17152  tokens back to text

An argument made of digits is an id; find the token `7` with --search '^7$'.")]
pub struct Args {
    /// Tokens to look up: ids, or texts as the vocabulary spells them
    #[arg(value_name = "ID|TOKEN", allow_negative_numbers = true, conflicts_with_all = ["encode", "decode", "search", "special"])]
    pub tokens: Vec<String>,

    /// The model with the vocabulary.
    #[command(flatten)]
    pub model: ModelFlag,

    /// Tokenize TEXT; `-` reads standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, group = "text", conflicts_with_all = ["decode", "search"])]
    pub encode: Option<OsString>,

    /// Tokenize a file, byte by byte; `-` reads standard input
    #[arg(short, long, value_name = "FILE", group = "text", conflicts_with_all = ["tokens", "decode", "search"])]
    pub file: Option<PathBuf>,

    /// With --encode or --file: read special tokens written in the text as plain characters
    #[arg(long, requires = "text", conflicts_with = "special")]
    pub no_special: bool,

    /// With --encode or --file: add no token before or after the text
    #[arg(long, requires = "text")]
    pub no_bos: bool,

    /// Turn token ids into text
    #[arg(long, value_name = "ID", num_args = 1.., allow_negative_numbers = true, conflicts_with_all = ["search", "special"])]
    pub decode: Option<Vec<String>>,

    /// Show tokens whose text or piece matches REGEX
    #[arg(long, value_name = "REGEX", conflicts_with = "special")]
    pub search: Option<String>,

    /// With --search: show at most N tokens
    #[arg(short = 'n', long, value_name = "N", requires = "search")]
    pub limit: Option<NonZeroUsize>,

    /// Show only special tokens; with --encode or --file the default: they are read as special
    /// tokens
    #[arg(long)]
    pub special: bool,

    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    // Errors that do not depend on the file are reported first.
    let pattern = match &args.search {
        Some(pattern) => Some(Regex::new(pattern).map_err(|error| UsageError(error.to_string()))?),
        None => None,
    };
    let (path, gguf) = open_gguf(args.model.model.as_deref())?;
    let tokenizes = args.encode.is_some() || args.file.is_some() || args.decode.is_some();
    let _starting = tokenizes.then(runtime::start_ahead);
    let vocabulary = Vocabulary::new(&gguf)
        .map_err(|error| anyhow::Error::new(error).context(path.display().to_string()))
        .map_err(|error| kind::instead_of(error, &path))?;
    let mut out = Output::stdout();
    if args.encode.is_some() || args.file.is_some() {
        let text = encode::text(args)?;
        encode::encode(args, &text, &path, &vocabulary, &mut out)?;
    } else if let Some(ids) = &args.decode {
        let ids = lookup::ids(ids, &vocabulary)?;
        encode::decode(&ids, args.json, &path, &vocabulary, &mut out)?;
    } else if let Some(pattern) = pattern {
        lookup::search(&pattern, args.limit, args.json, &vocabulary, &mut out)?;
    } else if !args.tokens.is_empty() {
        let ids = lookup::resolve(&args.tokens, &vocabulary)?;
        lookup::print(&ids, args.json, &vocabulary, &mut out)?;
    } else {
        overview::print(args, &vocabulary, &mut out)?;
    }
    std::io::Write::flush(&mut out)?;
    Ok(())
}

pub(super) use crate::probe::JsonText;

/// A token as JSON: `{"id", "piece", "text", "bytes", "kind", "score"}`.
pub struct JsonToken<'a>(pub Token<'a>);

impl Serialize for JsonToken<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let token = &self.0;
        let mut object = serializer.serialize_struct("token", 6)?;
        object.serialize_field("id", &token.id)?;
        object.serialize_field("piece", &JsonText(&token.piece))?;
        object.serialize_field("text", &JsonText(token.text))?;
        object.serialize_field("bytes", token.piece.as_ref())?;
        object.serialize_field("kind", token.kind.name())?;
        object.serialize_field("score", &token.score)?;
        object.end()
    }
}
