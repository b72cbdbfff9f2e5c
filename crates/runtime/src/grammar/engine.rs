//! Compiles grammars with llguidance, for a vocabulary and within limits.

use std::sync::{Arc, OnceLock};

use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Logger, Matcher, ParserFactory};

use crate::error::{Error, Result};
use crate::token::Token;
use crate::vocab::Vocab;

/// Stack size: llguidance recurses for nested schemas, and the largest schema needs this much.
const STACK: usize = 256 << 20;
/// Maximum length of a token in bytes, because llguidance's trie stores its depth in ten bits.
const LONGEST_TOKEN: usize = 1000;

/// Compiles grammars for one vocabulary.
pub(super) struct Engine {
    factory: ParserFactory,
}

impl Engine {
    /// An engine whose tokens are the 256 bytes.
    pub fn bytes() -> Result<Arc<Engine>> {
        static BYTES: OnceLock<Option<Arc<Engine>>> = OnceLock::new();
        let engine = BYTES.get_or_init(|| {
            let words = (0..=255u8)
                .map(|byte| match byte {
                    // This byte marks special tokens, and does not occur in UTF-8.
                    TokTrie::SPECIAL_TOKEN_MARKER => Vec::new(),
                    byte => vec![byte],
                })
                .collect();
            Engine::new(words).ok().map(Arc::new)
        });
        engine.clone().ok_or_else(|| fault("no engine"))
    }

    /// An engine for a model's tokens.
    pub fn of(vocab: &Vocab) -> Result<Engine> {
        let words = vocab
            .all()
            .map(|token| word(vocab, token))
            .collect::<Result<_>>()?;
        Engine::new(words).map_err(|reason| fault(&reason))
    }

    fn new(mut words: Vec<Vec<u8>>) -> Result<Engine, String> {
        // The vocabulary decides which tokens end a text; llguidance gets an additional token as
        // its end token, which is never used.
        let end = u32::try_from(words.len()).unwrap_or(u32::MAX);
        words.push(Vec::new());
        let trie = TokTrie::from(&TokRxInfo::new(end + 1, end), &words);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let factory = ParserFactory::new(&env, InferenceCapabilities::default(), &[])
            .map_err(|error| error.to_string())?;
        Ok(Engine { factory })
    }

    /// The token of a name in angle brackets (`<|end|>`); `None` if it is not a single token.
    pub fn token_named(&self, name: &str) -> Option<Token> {
        let trie = self.factory.tok_env().tok_trie();
        let mut special = vec![TokTrie::SPECIAL_TOKEN_MARKER];
        special.extend(name.as_bytes());
        trie.token_id_at_bytes(&special)
            .or_else(|| trie.token_id_at_bytes(name.as_bytes()))
            .and_then(|id| Token::try_from(id).ok())
    }

    /// Makes a parser at the start of a text; the error is the reason why it cannot. `most_items`
    /// limits the number of parser items at one position of a text.
    pub fn compile(&self, grammar: TopLevelGrammar, most_items: usize) -> Result<Matcher, String> {
        let limits = ParserLimits {
            max_items_in_row: most_items,
            // A step visits every token of the vocabulary. This limits it to some hundred
            // milliseconds.
            step_max_items: 10_000_000,
            step_lexer_fuel: 1_000_000,
            max_lexer_states: 50_000,
            precompute_large_lexemes: false,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        std::thread::scope(|scope| {
            let work = || {
                let parser = self.factory.create_parser_from_init_ext(
                    GrammarInit::Serialized(grammar),
                    Logger::new(0, 0),
                    InferenceCapabilities::default(),
                    limits,
                );
                let matcher = Matcher::new(parser);
                match matcher.get_error() {
                    None => Ok(matcher),
                    Some(reason) => Err(readable(&reason)),
                }
            };
            let thread = std::thread::Builder::new()
                .name("grammar".to_owned())
                .stack_size(STACK)
                .spawn_scoped(scope, work)
                .map_err(|error| format!("no thread to read it on: {error}"))?;
            thread
                .join()
                .unwrap_or_else(|_| Err("the parser gave up".to_owned()))
        })
    }
}

/// The bytes of a token in llguidance's form: for a control token, its name after a byte that does
/// not occur in texts; for a token that no grammar can use, none.
fn word(vocab: &Vocab, token: Token) -> Result<Vec<u8>> {
    let bytes = vocab.piece(token, false)?;
    let bytes = match bytes.is_empty() && !vocab.ends_grammar(token) {
        true => {
            let mut name = vocab.piece(token, true)?;
            if !name.is_empty() {
                name.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
            }
            name
        }
        false => bytes,
    };
    let usable = bytes.len() <= LONGEST_TOKEN
        && !bytes
            .iter()
            .skip(1)
            .any(|&b| b == TokTrie::SPECIAL_TOKEN_MARKER);
    Ok(if usable { bytes } else { Vec::new() })
}

/// The first line of a message of llguidance, without internal details.
pub(super) fn readable(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or(reason).trim();
    line.strip_prefix("panic: ").map_or_else(
        || line.to_owned(),
        |_| "the parser gave up on it".to_owned(),
    )
}

fn fault(what: &str) -> Error {
    Error::Grammar(format!("grammar: {what}"))
}
