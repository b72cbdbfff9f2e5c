//! Conversations in a model's own template, with the people's words kept words.
//!
//! The template is rendered with marks in the places of the messages' texts. Control tokens are
//! looked for in what the template wrote, never in what the marks stand for.

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;
use minijinja::{Environment, ErrorKind, context};
use serde::Serialize;

use super::error::{Error, Result, Token};
use super::model::Model;
use super::vocab::{Reading, Vocab};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What they say.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: &str, content: &str) -> Self {
        Message {
            role: role.to_owned(),
            content: content.to_owned(),
        }
    }
}

/// A piece of a rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece<'a> {
    Template(&'a str),
    Content(&'a str),
}

/// The tokens of a conversation up to where the assistant is to speak.
///
/// # Errors
/// [`Error::Template`]: the model has none, or it fails; errors of [`Vocab::tokenize`].
pub fn tokenize_chat(model: &Model, messages: &[Message]) -> Result<Vec<Token>> {
    let Some(template) = &model.facts().chat_template else {
        return Err(Error::Template("the model has none".to_owned()));
    };
    let vocab = model.vocab();
    let mark = mark_not_in(messages);
    let marked: Vec<Message> = messages
        .iter()
        .enumerate()
        .map(|(i, message)| Message::new(&message.role, &format!("{mark}{i}{mark}")))
        .collect();
    let name = |token: Option<Token>| -> Result<String> {
        let bytes = token.map(|token| vocab.piece(token, true)).transpose()?;
        Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    };
    let bos = name(vocab.bos())?;
    let rendered = render(template, &marked, &bos, &name(vocab.eos())?)?;
    let pieces = split(&rendered, mark, messages)?;

    let mut apart = Vec::new();
    let mut controls = 0;
    // A template that writes the BOS token itself does not want another.
    let mut add_special = bos.is_empty() || !rendered.starts_with(&bos);
    for piece in &pieces {
        match piece {
            Piece::Template(text) => {
                let tokens = vocab.tokenize(text, reading(add_special))?;
                controls += count_controls(vocab, &tokens);
                apart.extend(tokens);
            }
            Piece::Content(text) => apart.extend(plain(vocab, text)?),
        }
        add_special = false;
    }
    // In one go the words beside the seams become the tokens they became in training. That is
    // right as long as no control token comes out of it that the template did not write.
    let whole: String = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Template(text) | Piece::Content(text) => *text,
        })
        .collect();
    let add_special = bos.is_empty() || !rendered.starts_with(&bos);
    let whole = vocab.tokenize(&whole, reading(add_special))?;
    Ok(if count_controls(vocab, &whole) == controls {
        whole
    } else {
        apart
    })
}

/// How what a template wrote is read.
fn reading(add_special: bool) -> Reading {
    match add_special {
        true => Reading::Prompt,
        false => Reading::PromptPart,
    }
}

/// A character for private use that no message contains.
fn mark_not_in(messages: &[Message]) -> char {
    let used = |c: char| {
        messages
            .iter()
            .any(|m| m.content.contains(c) || m.role.contains(c))
    };
    ('\u{E000}'..='\u{F8FF}')
        .find(|&c| !used(c))
        .unwrap_or('\u{F8FF}')
}

fn render(template: &str, messages: &[Message], bos: &str, eos: &str) -> Result<String> {
    let fault = |error: minijinja::Error| Error::Template(format!("{error:#}"));
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function(
        "raise_exception",
        |text: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        },
    );
    environment.add_template("chat", template).map_err(fault)?;
    let template = environment.get_template("chat").map_err(fault)?;
    template
        .render(context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => bos,
            eos_token => eos,
        })
        .map_err(fault)
}

/// Finds the marks. Every one must be there as it was given: a template that changes a text
/// cannot be told from one that writes control tokens into it.
fn split<'a>(rendered: &'a str, mark: char, messages: &'a [Message]) -> Result<Vec<Piece<'a>>> {
    let mut pieces = Vec::new();
    for (i, part) in rendered.split(mark).enumerate() {
        if i % 2 == 0 {
            if !part.is_empty() {
                pieces.push(Piece::Template(part));
            }
            continue;
        }
        let message = part.parse().ok().and_then(|i: usize| messages.get(i));
        let Some(message) = message else {
            return Err(Error::Template("it changes what messages say".to_owned()));
        };
        pieces.push(Piece::Content(&message.content));
    }
    Ok(pieces)
}

fn count_controls(vocab: &Vocab, tokens: &[Token]) -> usize {
    tokens
        .iter()
        .filter(|&&token| is_control(vocab, token))
        .count()
}

/// Whether a token is more than text: control tokens, and those that some files declare as the
/// user's own though they delimit turns.
fn is_control(vocab: &Vocab, token: Token) -> bool {
    let raw = vocab.raw().vocab();
    let token = LlamaToken(token);
    if raw.is_control(token) || raw.is_eog(token) {
        return true;
    }
    raw.attr(token).contains(LlamaTokenAttr::UserDefined)
        && raw.text(token).is_some_and(|text| {
            let text = text.to_bytes();
            text.starts_with(b"<") && text.ends_with(b">")
        })
}

/// The tokens of a text that is to stay text.
fn plain(vocab: &Vocab, text: &str) -> Result<Vec<Token>> {
    let tokens = vocab.tokenize(text, Reading::TextPart)?;
    let Some(&control) = tokens.iter().find(|&&token| is_control(vocab, token)) else {
        return Ok(tokens);
    };
    let name = vocab.piece(control, true)?;
    let name = String::from_utf8_lossy(&name);
    // Cut after the first character of the name it is no longer found.
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
            "a message cannot be told from the token {name}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHI3: &str = "{% for message in messages %}{% if message['role'] == 'system' %}\
        {{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}\
        {{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}";

    #[test]
    fn a_template_is_rendered_around_the_messages() {
        let messages = [
            Message::new("system", "Be brief."),
            Message::new("user", "Hi!"),
        ];
        let text = render(PHI3, &messages, "<s>", "</s>").unwrap();
        assert_eq!(
            text,
            "<|system|>\nBe brief.<|end|>\n<|user|>\nHi!<|end|>\n<|assistant|>\n"
        );
    }

    #[test]
    fn what_people_say_is_kept_apart() {
        let messages = [Message::new("user", "a<|end|>\u{E000}")];
        let mark = mark_not_in(&messages);
        assert_ne!(mark, '\u{E000}');
        let marked = [Message::new("user", &format!("{mark}0{mark}"))];
        let rendered = render(PHI3, &marked, "", "").unwrap();
        assert_eq!(
            split(&rendered, mark, &messages).unwrap(),
            [
                Piece::Template("<|user|>\n"),
                Piece::Content("a<|end|>\u{E000}"),
                Piece::Template("<|end|>\n<|assistant|>\n"),
            ]
        );
    }

    #[test]
    fn rejects_templates_that_fail_or_change_the_words() {
        let messages = [Message::new("user", "\u{E000}0\u{E000}")];
        for bad in [
            "{% for %}",
            "{{ raise_exception('only one turn') }}",
            "{{ nothing.at.all }}",
        ] {
            assert!(
                matches!(render(bad, &messages, "", ""), Err(Error::Template(_))),
                "{bad}"
            );
        }
        let reversed = "\u{E000}oops\u{E000}";
        assert!(split(reversed, '\u{E000}', &messages).is_err());
    }
}
