//! Splits a prompt into words, whose tokens can be left out.

use modelve_probe::Piece;
use modelve_runtime::{Token, Vocab};

/// The tokens of one word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Its text, with the space before it.
    pub text: Piece,
    /// Index of its first token.
    pub from: usize,
    /// Index after its last token.
    pub to: usize,
}

/// Splits a prompt at white space; the space before a word belongs to it. Control tokens are words
/// of their own. With `by_token`, every token is a word.
pub fn words(vocab: &Vocab, ids: &[Token], by_token: bool) -> Vec<Word> {
    let pieces: Vec<(Vec<u8>, bool)> = ids
        .iter()
        .map(|&id| {
            let text = vocab.piece(id, false).unwrap_or_default();
            match text.is_empty() {
                // A control token has a text only if it is asked for.
                true => (vocab.piece(id, true).unwrap_or_default(), true),
                false => (text, false),
            }
        })
        .collect();
    let cuts = cuts(&pieces, by_token);
    let ends = cuts.iter().skip(1).copied().chain([ids.len()]);
    let words = cuts.iter().zip(ends).map(|(&from, to)| {
        let texts = pieces[from..to].iter().map(|(text, _)| &text[..]);
        Word {
            text: Piece::new(texts.collect::<Vec<_>>().concat()),
            from,
            to,
        }
    });
    words.collect()
}

/// Returns the index of the first token of each word. `pieces` holds each token's text and whether
/// it is a control token.
fn cuts(pieces: &[(Vec<u8>, bool)], by_token: bool) -> Vec<usize> {
    let blank = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_whitespace);
    let mut cuts = Vec::new();
    let mut inked = false;
    for (i, (text, control)) in pieces.iter().enumerate() {
        let begins = match i.checked_sub(1).map(|before| &pieces[before]) {
            None => true,
            Some((before, was_control)) => {
                by_token
                    || *control
                    || *was_control
                    || inked && (blank(text.first()) || blank(before.last()))
            }
        };
        if begins {
            cuts.push(i);
            inked = false;
        }
        inked |= text.iter().any(|byte| !byte.is_ascii_whitespace());
    }
    cuts
}

/// Returns the number of tokens at the beginning that are never left out: the BOS token, if there
/// is one.
pub fn fixed(vocab: &Vocab, ids: &[Token]) -> usize {
    let bos = vocab.bos().filter(|_| vocab.adds_bos());
    usize::from(bos.is_some() && ids.first().copied() == bos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&str]) -> Vec<usize> {
        let pieces = pieces.iter().map(|text| match text.strip_prefix("<|") {
            Some(_) => (text.as_bytes().to_vec(), true),
            None => (text.as_bytes().to_vec(), false),
        });
        cuts(&pieces.collect::<Vec<_>>(), false)
    }

    #[test]
    fn words_are_kept_whole_with_the_blank_before_them() {
        assert_eq!(cut(&["<|s|>", " The", " bat", "s", "man", "."]), [0, 1, 2]);
        assert_eq!(cut(&["The", " bat", "\n", "\n", "It"]), [0, 1, 2]);
        // White space as tokens of its own, and at the end of tokens.
        assert_eq!(cut(&["a", " ", " b", "c"]), [0, 1]);
        assert_eq!(cut(&["a\n", "b", "c ", "d"]), [0, 1, 3]);
        assert_eq!(cut(&[" ", "a", " "]), [0, 2]);
        assert_eq!(
            cut(&["<|user|>", "\n", "Hi", "<|end|>", "\n"]),
            [0, 1, 3, 4]
        );
        assert_eq!(cut(&[]), [0usize; 0]);
    }
}
