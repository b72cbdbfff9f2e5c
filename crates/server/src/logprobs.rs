//! Tokens and their log-probabilities in the forms of OpenAI's API.

use modelve_runtime::{Likely, Step, Token, Vocab};
use serde::ser::{Serialize, SerializeMap, Serializer};
use utoipa::ToSchema;

/// The value for −infinity, which JSON cannot express.
const IMPOSSIBLE: f32 = -9999.0;

/// Returns a log-probability that JSON can express.
pub fn finite(logprob: f32) -> f32 {
    logprob.max(IMPOSSIBLE)
}

/// Returns the bytes of a token; for a control token, its name.
pub fn bytes_of(vocab: &Vocab, token: Token) -> Vec<u8> {
    vocab.piece(token, true).unwrap_or_default()
}

/// Returns a token as a string; one that is not valid UTF-8 is written as `bytes:\xe2\x80`.
pub fn shown(vocab: &Vocab, token: Token) -> String {
    match String::from_utf8(bytes_of(vocab, token)) {
        Ok(text) => text,
        Err(error) => {
            let bytes = error.into_bytes().into_iter();
            let digits: String = bytes.map(|byte| format!("\\x{byte:02x}")).collect();
            format!("bytes:{digits}")
        }
    }
}

/// Likely tokens with their log-probabilities, likeliest first; serialized as an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Top(pub Vec<(String, f32)>);

impl Serialize for Top {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (token, logprob) in &self.0 {
            map.serialize_entry(token, logprob)?;
        }
        map.end()
    }
}

/// Log-probabilities in the form of `/v1/completions`.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, ToSchema)]
pub struct Logprobs {
    /// The tokens.
    pub tokens: Vec<String>,
    /// The natural logarithm of each token's probability; null for the first of a prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// For each token, the likeliest tokens at its position and the token itself.
    #[schema(value_type = Vec<Option<std::collections::BTreeMap<String, f32>>>)]
    pub top_logprobs: Vec<Option<Top>>,
    /// Where each token begins in the text, in characters.
    pub text_offset: Vec<usize>,
}

/// Adds tokens to [`Logprobs`] and keeps track of their place in the text.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Whether the text is known. A tokenizer may have dropped or added white space when it read a
    /// text, so tokens are searched in it; the text of generated tokens is just their
    /// concatenation.
    known: bool,
    /// The rest of the text. If the text is not known: bytes of an incomplete character.
    text: Vec<u8>,
    /// Number of characters before it.
    before: usize,
}

impl Tally {
    /// Makes a tally for the tokens of a given text.
    pub fn of(text: &str) -> Self {
        Tally {
            known: true,
            text: text.as_bytes().to_vec(),
            before: 0,
        }
    }

    /// Makes a tally for generated tokens that begin `before` characters after the beginning of the
    /// text.
    pub fn from(before: usize) -> Self {
        Tally {
            known: false,
            text: Vec::new(),
            before,
        }
    }

    /// Returns where the next token begins, in characters; inside a character, where that begins.
    fn offset(&mut self, piece: &[u8]) -> usize {
        match self.known {
            true => self.find(piece),
            false => self.append(piece),
        }
    }

    fn find(&mut self, piece: &[u8]) -> usize {
        let space = |of: &[u8]| of.iter().take_while(|b| b.is_ascii_whitespace()).count();
        let (here, there) = match self.text.starts_with(piece) {
            true => (0, 0),
            false => (space(&self.text), space(piece)),
        };
        // A token of white space that the text does not have takes no characters.
        if there == piece.len() && !piece.is_empty() {
            return self.before;
        }
        let found = self.text[here..].starts_with(&piece[there..]);
        let here = if found { here } else { 0 };
        self.skip(here);
        let open = self.text.first().is_some_and(|&byte| is_inner(byte));
        let offset = self.before.saturating_sub(usize::from(open));
        self.skip((piece.len() - there).min(self.text.len()));
        offset
    }

    /// Advances by `n` bytes.
    fn skip(&mut self, n: usize) {
        let bytes = self.text.drain(..n);
        self.before += bytes.filter(|&byte| !is_inner(byte)).count();
    }

    fn append(&mut self, piece: &[u8]) -> usize {
        // Complete characters are counted and dropped; the bytes of an incomplete one are kept.
        let whole = match std::str::from_utf8(&self.text) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.text.len(),
        };
        let counted = String::from_utf8_lossy(&self.text[..whole]).chars().count();
        self.before += counted;
        self.text.drain(..whole);
        self.text.extend_from_slice(piece);
        self.before
    }

    /// Adds a token without a log-probability: the first of a prompt. A BOS token takes no
    /// characters of the text.
    pub fn add_first(&mut self, to: &mut Logprobs, vocab: &Vocab, token: Token) {
        let piece = match Some(token) == vocab.bos() {
            true => Vec::new(),
            false => bytes_of(vocab, token),
        };
        let offset = self.offset(&piece);
        to.tokens.push(shown(vocab, token));
        to.token_logprobs.push(None);
        to.top_logprobs.push(None);
        to.text_offset.push(offset);
    }

    /// Adds a token with its log-probability.
    pub fn add(&mut self, to: &mut Logprobs, vocab: &Vocab, step: &Step) {
        let offset = self.offset(&bytes_of(vocab, step.token));
        let token = shown(vocab, step.token);
        let mut top: Vec<(String, f32)> = Vec::with_capacity(step.top.len() + 1);
        let likely = step
            .top
            .iter()
            .map(|&Likely { token, logprob }| (shown(vocab, token), logprob));
        for (name, logprob) in likely.chain([(token.clone(), step.logprob)]) {
            // Different tokens may have the same text; the likelier one is reported.
            if !top.iter().any(|(known, _)| *known == name) {
                top.push((name, finite(logprob)));
            }
        }
        to.tokens.push(token);
        to.token_logprobs.push(Some(finite(step.logprob)));
        to.top_logprobs.push(Some(Top(top)));
        to.text_offset.push(offset);
    }
}

/// Returns whether a byte is a continuation byte of UTF-8.
fn is_inner(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

/// A token of an answer in the form of `/v1/chat/completions`.
#[derive(Debug, Clone, serde::Serialize, ToSchema)]
pub struct ChatLogprob {
    /// The token.
    pub token: String,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The likeliest tokens at its position.
    pub top_logprobs: Vec<ChatTop>,
}

/// A likely token.
#[derive(Debug, Clone, serde::Serialize, ToSchema)]
pub struct ChatTop {
    /// The token.
    pub token: String,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The log-probabilities of an answer in the form of `/v1/chat/completions`.
#[derive(Debug, Clone, Default, serde::Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// The tokens.
    pub content: Vec<ChatLogprob>,
}

/// Returns a token of an answer in the form of `/v1/chat/completions`.
pub fn chat(vocab: &Vocab, step: &Step) -> ChatLogprob {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let bytes = bytes_of(vocab, step.token);
    let top = step.top.iter().map(|likely| {
        let bytes = bytes_of(vocab, likely.token);
        ChatTop {
            token: lossy(&bytes),
            logprob: finite(likely.logprob),
            bytes,
        }
    });
    ChatLogprob {
        token: lossy(&bytes),
        logprob: finite(step.logprob),
        top_logprobs: top.collect(),
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_characters_across_tokens() {
        let mut tally = Tally::from(3);
        let pieces: [&[u8]; 5] = [b"a", b"\xE2\x82", b"\xAC", b"bc", b"d"];
        let offsets: Vec<usize> = pieces.iter().map(|piece| tally.offset(piece)).collect();
        assert_eq!(offsets, [3, 4, 4, 5, 7]);
        // Invalid bytes count as one character each.
        let mut tally = Tally::from(0);
        assert_eq!(
            [
                tally.offset(b"\xFF"),
                tally.offset(b"x"),
                tally.offset(b"y")
            ],
            [0, 1, 2]
        );
    }

    #[test]
    fn offsets_in_a_text_are_where_its_words_are() {
        let of = |text: &str, pieces: &[&[u8]]| -> Vec<usize> {
            let mut tally = Tally::of(text);
            pieces.iter().map(|piece| tally.offset(piece)).collect()
        };
        // A space before the text, and one that the tokenizer dropped.
        let pieces: [&[u8]; 4] = [b"", b" The", b" bat", b"."];
        assert_eq!(of("The bat.", &pieces), [0, 0, 3, 7]);
        let pieces: [&[u8]; 4] = [b"<|user|>", b" What", b" is", b"\n"];
        assert_eq!(of("<|user|>\nWhat is\n", &pieces), [0, 9, 13, 16]);
        let pieces: [&[u8]; 5] = [b"a", b"\xE2\x82", b"\xAC", b"b", b" "];
        assert_eq!(of("a€b", &pieces), [0, 1, 1, 2, 3]);
        assert_eq!(of("ab", &[b"x", b"yz", b"w"]), [0, 1, 2]);
    }

    #[test]
    fn likely_tokens_are_an_object_in_their_order() {
        let top = Top(vec![("b".to_owned(), -0.1), ("a".to_owned(), -2.5)]);
        assert_eq!(
            serde_json::to_string(&top).unwrap(),
            r#"{"b":-0.1,"a":-2.5}"#
        );
        assert_eq!(finite(f32::NEG_INFINITY), -9999.0);
    }
}
