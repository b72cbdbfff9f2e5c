//! A text to measure importance matrices on, for those who bring none: prose, technical writing,
//! speech, code, tables and numbers, several languages, and conversations in the model's own
//! template. All of it was written for this project, or is taken from its own sources.

use super::Result;
use modelve_runtime::chat::{self, Conversation, Message};
use modelve_runtime::{Model, Reading, Token};

/// The name under which files mention this text. It changes with the text.
pub const NAME: &str = "modelve calibration text 1";

/// A text of the same kinds that is no part of the calibration text, to compare a file on that was
/// chosen by it. It was written for this project.
pub const HELD_OUT: &str = include_str!("held_out.txt");

/// The name under which files mention that text. It changes with the text.
pub const HELD_OUT_NAME: &str = "modelve held-out text 1";

/// Texts by kind.
const TEXTS: [&str; 6] = [
    include_str!("prose.txt"),
    include_str!("code.txt"),
    include_str!("languages.txt"),
    include_str!("writing.txt"),
    include_str!("speech.txt"),
    include_str!("numbers.txt"),
];

/// Conversations: the user and the assistant take turns, separated by a line of three dashes; a
/// line of three equals signs ends a conversation.
const CHATS: &str = include_str!("chats.txt");

/// The tokens of the text, beginning with BOS where the model wants one. Pieces of `window` tokens
/// of each kind take turns, so that the beginning of the text has all kinds, too.
///
/// # Errors
/// What the tokenizer says. A model without a template, or whose template fails, reads
/// conversations as plain text.
pub fn tokens(model: &Model, window: usize) -> Result<Vec<Token>> {
    let vocab = model.vocab();
    let mut kinds = Vec::with_capacity(TEXTS.len() + 1);
    for text in TEXTS {
        kinds.push(vocab.tokenize(text, Reading::TextPart)?);
    }
    let mut talk = Vec::new();
    for chat in CHATS
        .split("\n===\n")
        .map(str::trim)
        .filter(|chat| !chat.is_empty())
    {
        talk.extend(conversation(model, chat)?);
    }
    kinds.push(talk);
    let mut ids = Vec::new();
    if let Some(bos) = vocab.bos().filter(|_| vocab.adds_bos()) {
        ids.push(bos);
    }
    let mut pieces: Vec<_> = kinds
        .iter()
        .map(|kind| kind.chunks(window.max(1)))
        .collect();
    loop {
        let before = ids.len();
        for kind in &mut pieces {
            ids.extend(kind.next().unwrap_or_default());
        }
        if ids.len() == before {
            return Ok(ids);
        }
    }
}

fn conversation(model: &Model, chat: &str) -> Result<Vec<Token>> {
    let roles = ["user", "assistant"].into_iter().cycle();
    let turns = chat.split("\n---\n").map(str::trim);
    let messages: Vec<Message> = roles
        .zip(turns)
        .map(|(role, text)| Message::new(role, text))
        .collect();
    let conversation = Conversation {
        messages: &messages,
        ..Conversation::default()
    };
    match chat::read_chat(model, &conversation) {
        Ok((ids, _)) => Ok(ids),
        Err(_) => {
            let plain: Vec<String> = messages
                .iter()
                .map(|message| format!("{}: {}", message.role, message.content))
                .collect();
            Ok(model
                .vocab()
                .tokenize(plain.join("\n\n"), Reading::TextPart)?)
        }
    }
}
