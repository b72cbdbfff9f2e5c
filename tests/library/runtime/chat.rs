//! Chat templates against jinja2 as transformers sets it up; see `scripts/make_chat_fixtures.py`.

use modelve::runtime::chat::{Message, render_chat};
use serde_json::Value;
use sha2::{Digest, Sha256};

#[test]
fn templates_give_what_jinja2_gives() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/chat"));
    let read = |path: &str| std::fs::read_to_string(folder.join(path)).unwrap();
    let all: Value = serde_json::from_str(&read("rendered.json")).unwrap();
    let conversations: Vec<Vec<Message>> = all["conversations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|turns| {
            let turns = turns.as_array().unwrap().iter();
            turns
                .map(|turn| Message::new(turn[0].as_str().unwrap(), turn[1].as_str().unwrap()))
                .collect()
        })
        .collect();
    let rendered = all["rendered"].as_object().unwrap();
    assert!(rendered.len() >= 40 && conversations.len() >= 20);
    let mut wrong = Vec::new();
    for (name, expected) in rendered {
        let template = read(&format!("templates/{name}.jinja"));
        for (i, conversation) in conversations.iter().enumerate() {
            let given = match render_chat(&template, conversation, Some("<s>"), Some("</s>")) {
                Ok(text) => {
                    let digest = Sha256::digest(text.as_bytes());
                    digest[..8]
                        .iter()
                        .map(|byte| format!("{byte:02x}"))
                        .collect()
                }
                Err(error) => {
                    let error = error.to_string();
                    match error.split_once("it refuses: ") {
                        Some((_, reason)) => format!("!{reason}"),
                        None if error.contains("leaves out") => "lost".to_owned(),
                        None => error,
                    }
                }
            };
            if expected[i] != given.as_str() {
                wrong.push(format!(
                    "{name}, conversation {i}: {given} instead of {}",
                    expected[i]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
