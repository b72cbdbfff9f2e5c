//! What llama.cpp's server has, too.

use super::*;

#[test]
fn tokens_and_texts_are_those_of_the_command() {
    let server = Server::tiny();
    let text = "The bat, ärger 😀 <|end|>";
    let printed = modelve(&["vocab", "-m", "tiny", "--json", "--encode", text]);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let ids = &server.ok("/tokenize", &json!({"content": text, "add_special": true}))["tokens"];
    assert_eq!(*ids, printed["ids"]);
    assert_eq!(
        server.ok("/detokenize", &json!({"tokens": ids}))["content"],
        text
    );
    let plain = &server.ok(
        "/tokenize",
        &json!({"content": text, "parse_special": false}),
    )["tokens"];
    assert!(plain.as_array().unwrap().len() > ids.as_array().unwrap().len());
    let pieces =
        server.ok("/tokenize", &json!({"content": "ä😀", "with_pieces": true}))["tokens"].clone();
    let mut bytes = Vec::new();
    for token in pieces.as_array().unwrap() {
        match &token["piece"] {
            Value::String(text) => bytes.extend_from_slice(text.as_bytes()),
            other => bytes.extend(
                other
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|b| b.as_u64().unwrap() as u8),
            ),
        }
    }
    assert_eq!(String::from_utf8_lossy(&bytes).trim_start(), "ä😀");
    assert_eq!(
        server.refused("/detokenize", &json!({"tokens": [99999]})).0,
        "tokens"
    );
    assert_eq!(
        server.refused("/tokenize", &json!({"content": 3})).0,
        "content"
    );
}

#[test]
fn a_conversation_is_shown_as_the_model_reads_it() {
    let server = Server::tiny();
    let body = json!({"messages": [{"role": "user", "content": "What is a bat?"}]});
    let prompt = server.ok("/apply-template", &body)["prompt"].clone();
    assert_eq!(prompt, "<|user|>\nWhat is a bat?<|end|>\n<|assistant|>\n");
}

#[test]
fn completion_is_the_same_text_with_its_own_fields() {
    let server = Server::tiny();
    let prompt = "The ball hit the bat, and";
    let body = json!({"prompt": prompt, "max_tokens": 5, "temperature": 0});
    let openai = server.ok("/v1/completions", &body);
    let body = json!({"prompt": prompt, "n_predict": 5, "temperature": 0, "n_probs": 2, "return_tokens": true});
    let answer = server.ok("/completion", &body);
    assert_eq!(answer["content"], openai["choices"][0]["text"]);
    assert_eq!(
        (&answer["stop"], &answer["stop_type"]),
        (&json!(true), &json!("limit"))
    );
    assert_eq!(answer["tokens_predicted"], 5);
    assert_eq!(answer["tokens"].as_array().unwrap().len(), 5);
    let probabilities = answer["completion_probabilities"].as_array().unwrap();
    assert!(
        probabilities
            .iter()
            .all(|token| token["top_logprobs"].as_array().unwrap().len() == 2)
    );
    let parts = server.stream("/completion", &body);
    let (last, before) = parts.split_last().unwrap();
    let mut text: String = before
        .iter()
        .map(|part| part["content"].as_str().unwrap())
        .collect();
    text += last["content"].as_str().unwrap();
    assert_eq!(answer["content"], text);
    assert!(last["stop"] == true && before.iter().all(|part| part["stop"] == false));
    // Tokens and texts mixed are one prompt, lists of them several.
    let ids = server.ok("/tokenize", &json!({"content": "The ball"}))["tokens"].clone();
    let mixed = json!([ids[0], ids[1], " hit the bat, and"]);
    let one = server.ok(
        "/completion",
        &json!({"prompt": mixed, "n_predict": 4, "temperature": 0}),
    );
    assert!(one["content"].is_string());
    let two = server.ok(
        "/completion",
        &json!({"prompt": [mixed, "Today is"], "n_predict": 4, "temperature": 0}),
    );
    assert_eq!(two.as_array().unwrap().len(), 2);
    assert_eq!(two[0]["content"], one["content"]);
    let grammar = json!({"prompt": prompt, "n_predict": 8, "grammar": "root ::= \" yes\" | \" no\"", "temperature": 0});
    let held = server.ok("/completion", &grammar)["content"].clone();
    assert!(held == " yes" || held == " no", "{held}");
}

#[test]
fn a_template_can_take_the_place_of_the_models_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chat.jinja");
    let template = "{% if tools %}[{{ tools[0].function.name }}]{% endif %}\
        {% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";
    std::fs::write(&path, template).unwrap();
    let server = Server::of(&["-m", "tiny", "--chat-template", path.to_str().unwrap()]);
    let mut body = json!({"messages": [{"role": "user", "content": "What is a bat?"}]});
    let prompt = server.ok("/apply-template", &body)["prompt"].clone();
    assert_eq!(prompt, "user: What is a bat?\nassistant:");
    assert_eq!(server.get("/props").json()["chat_template"], template);
    body["tools"] = json!([{"type": "function", "function": {"name": "look"}}]);
    let prompt = server.ok("/apply-template", &body)["prompt"].clone();
    assert_eq!(prompt, "[look]user: What is a bat?\nassistant:");
    let probe = json!({"prompt": "What is a bat?", "chat": true});
    let text = server.ok("/v1/modelve/next", &probe)["prompt"].clone();
    assert_eq!(
        text.as_str().unwrap().trim_start(),
        "user: What is a bat?\nassistant:"
    );
}
