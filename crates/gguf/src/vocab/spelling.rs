//! Conversion of a token's text to its piece.

use std::borrow::Cow;

use super::Kind;

/// How a vocabulary writes the bytes of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// SentencePiece's way: `▁` is a space, `<0x0A>` a byte.
    SpaceMark,
    /// GPT-2's byte alphabet: every byte is written as one printable character.
    ByteAlphabet,
    /// The tokenizer is unknown, so texts are taken as they are.
    Plain,
}

impl Spelling {
    /// The spelling for a value of `tokenizer.ggml.model`, and for `tokenizer.ggml.pre` where it
    /// matters.
    pub fn of(model: &str, pre: Option<&str>) -> Self {
        match model {
            "llama" | "bert" | "t5" => Spelling::SpaceMark,
            // Gemma 4 spells SentencePiece's way with GPT-2's merges.
            "gpt2" if pre == Some("gemma4") => Spelling::SpaceMark,
            "gpt2" => Spelling::ByteAlphabet,
            _ => Spelling::Plain,
        }
    }

    /// The bytes that a token of this text and kind stands for.
    pub fn piece(self, text: &[u8], kind: Kind) -> Cow<'_, [u8]> {
        match (kind, self) {
            (Kind::Unused | Kind::Undefined, Spelling::SpaceMark | Spelling::ByteAlphabet) => {
                Cow::Borrowed(&[])
            }
            (Kind::Byte, Spelling::SpaceMark | Spelling::ByteAlphabet) => match hex_byte(text) {
                Some(byte) => Cow::Owned(vec![byte]),
                None => Cow::Borrowed(text),
            },
            (Kind::Normal, Spelling::SpaceMark) => spaces(text),
            (Kind::Normal, Spelling::ByteAlphabet) => from_byte_alphabet(text),
            _ => Cow::Borrowed(text),
        }
    }
}

/// Parses a byte token's text: `<0x0A>` gives 10.
fn hex_byte(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    match digits {
        [a, b] => {
            let digit = |c: u8| char::from(c).to_digit(16);
            u8::try_from(digit(*a)? * 16 + digit(*b)?).ok()
        }
        _ => None,
    }
}

/// U+2581, which SentencePiece writes for a space.
const SPACE_MARK: &[u8] = "▁".as_bytes();

fn spaces(text: &[u8]) -> Cow<'_, [u8]> {
    if !text
        .windows(SPACE_MARK.len())
        .any(|part| part == SPACE_MARK)
    {
        return Cow::Borrowed(text);
    }
    let mut piece = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        match rest.strip_prefix(SPACE_MARK) {
            Some(after) => {
                piece.push(b' ');
                rest = after;
            }
            None => {
                piece.push(*first);
                rest = tail;
            }
        }
    }
    Cow::Owned(piece)
}

/// Inverts GPT-2's `bytes_to_unicode`: printable Latin-1 characters stand for themselves, those
/// from U+0100 on for the other bytes in order. A character outside this alphabet stands for its
/// own UTF-8.
fn from_byte_alphabet(text: &[u8]) -> Cow<'_, [u8]> {
    let Ok(text) = std::str::from_utf8(text) else {
        return Cow::Borrowed(text);
    };
    let mut piece = Vec::with_capacity(text.len());
    for c in text.chars() {
        let byte = match u32::from(c) {
            code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code),
            code @ 0x100..=0x120 => Some(code - 0x100),
            code @ 0x121..=0x142 => Some(code - 0x121 + 0x7f),
            0x143 => Some(0xad),
            _ => None,
        };
        match byte.and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) => piece.push(byte),
            None => piece.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    Cow::Owned(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_pieces() {
        assert_eq!(spaces("▁a▁▁b".as_bytes()).as_ref(), b" a  b");
        assert_eq!(spaces(b"\xe2\x96").as_ref(), b"\xe2\x96");
        assert_eq!(hex_byte(b"<0x0A>"), Some(10));
        assert_eq!(hex_byte(b"<0xZZ>"), None);
        assert_eq!(hex_byte(b"<0x+1>"), None);
    }

    #[test]
    fn the_byte_alphabet_covers_every_byte_once() {
        // The alphabet's own definition: printable bytes first, the rest from U+0100 on.
        let mut next = 0x100;
        for byte in 0..=255u8 {
            let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
            let c = if printable {
                char::from(byte)
            } else {
                next += 1;
                char::from_u32(next - 1).unwrap()
            };
            let text = c.to_string();
            assert_eq!(from_byte_alphabet(text.as_bytes()).as_ref(), [byte]);
        }
        assert_eq!(from_byte_alphabet("Ġbat".as_bytes()).as_ref(), b" bat");
        assert_eq!(from_byte_alphabet("▁".as_bytes()).as_ref(), "▁".as_bytes());
    }
}
