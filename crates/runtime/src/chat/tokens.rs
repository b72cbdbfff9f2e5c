//! Converts the pieces of a conversation to tokens.

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use crate::error::{Error, Result};
use crate::token::Token;
use crate::vocab::{Reading, Vocab};

/// The tokens of pieces that come from messages (true) or from the template (false).
pub(super) fn tokens_of(
    vocab: &Vocab,
    pieces: &[(&str, bool)],
    bos: Option<&str>,
) -> Result<Vec<Token>> {
    let mut apart = Vec::new();
    let mut controls = Vec::new();
    // If the template writes the BOS token itself, no other is added.
    let begins = |(text, foreign): &(&str, bool)| {
        !foreign && bos.is_some_and(|bos| !bos.is_empty() && text.starts_with(bos))
    };
    let add_special = !pieces.first().is_some_and(begins);
    let mut innocent = true;
    for (i, &(text, foreign)) in pieces.iter().enumerate() {
        let add_special = add_special && i == 0;
        if foreign {
            let parsed = vocab.tokenize(text, Reading::PromptPart)?;
            innocent &= controls_of(vocab, &parsed, false).is_empty();
            if add_special {
                apart.extend(vocab.tokenize("", Reading::Prompt)?);
            }
            apart.extend(plain(vocab, text)?);
        } else {
            let tokens = vocab.tokenize(text, reading(add_special))?;
            controls.extend(controls_of(vocab, &tokens, add_special));
            apart.extend(tokens);
        }
    }
    if !innocent {
        return Ok(apart);
    }
    // Tokenized as a whole, words at the borders between pieces become the same tokens as in
    // training. That is correct as long as the only control tokens are those of the template.
    let whole: String = pieces.iter().map(|(text, _)| *text).collect();
    let whole = vocab.tokenize(&whole, reading(add_special))?;
    let same = controls_of(vocab, &whole, add_special) == controls;
    Ok(if same { whole } else { apart })
}

/// How the template's text is tokenized.
fn reading(add_special: bool) -> Reading {
    match add_special {
        true => Reading::Prompt,
        false => Reading::PromptPart,
    }
}

/// The control tokens among `tokens`, without the BOS token if one was `added`.
fn controls_of(vocab: &Vocab, tokens: &[Token], added: bool) -> Vec<Token> {
    let skip = usize::from(added && tokens.first().copied() == vocab.bos());
    let controls = tokens.iter().copied().skip(skip);
    controls.filter(|&token| is_control(vocab, token)).collect()
}

/// Returns whether a token is more than text: a control token, or one that a file declares as
/// user-defined although it delimits turns.
fn is_control(vocab: &Vocab, token: Token) -> bool {
    let raw = vocab.raw().vocab();
    let token = LlamaToken(token.0);
    if raw.is_control(token) || raw.is_eog(token) {
        return true;
    }
    raw.attr(token).contains(LlamaTokenAttr::UserDefined)
        && raw.text(token).is_some_and(|text| {
            let text = text.to_bytes();
            text.starts_with(b"<") && text.ends_with(b">")
        })
}

/// The tokens of a text that must not become control tokens.
fn plain(vocab: &Vocab, text: &str) -> Result<Vec<Token>> {
    let tokens = vocab.tokenize(text, Reading::TextPart)?;
    let Some(&control) = tokens.iter().find(|&&token| is_control(vocab, token)) else {
        return Ok(tokens);
    };
    let name = vocab.piece(control, true)?;
    let name = String::from_utf8_lossy(&name);
    // Tokenized in two parts, split after the first character of the token's name, it is no
    // longer found.
    let cut = text
        .find(name.as_ref())
        .zip(name.chars().next())
        .map(|(at, c)| at + c.len_utf8());
    match cut {
        Some(cut) if cut < text.len() => {
            let mut tokens = plain(vocab, &text[..cut])?;
            tokens.extend(plain(vocab, &text[cut..])?);
            Ok(tokens)
        }
        _ => Err(Error::Template(format!(
            "a message contains {name}, which cannot be written without that control token"
        ))),
    }
}
