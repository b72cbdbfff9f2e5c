//! Requests in the shapes that Open WebUI sends, as its sources have them: `routers/openai.py` (the
//! list of models), `routers/tasks.py` (titles), `utils/middleware.py` (streams, tools).

use super::*;

const CHAT: &str = "/v1/chat/completions";

#[test]
fn it_finds_the_model_with_its_key() {
    let server = Server::of(&["-m", "tiny", "--api-key", "secret"]);
    let headers = [
        ("Authorization", "Bearer secret"),
        ("Content-Type", "application/json"),
        ("X-OpenWebUI-User-Name", "A%20B"),
        ("X-OpenWebUI-User-Email", "a@example.org"),
        ("X-OpenWebUI-User-Role", "admin"),
    ];
    let list = server.ask("GET", "/v1/models", &headers, b"").json();
    // It merges the entries of `data` if there is no `error`, and names a model by its `id`.
    assert!(list.get("error").is_none());
    assert_eq!(list["data"][0]["id"], "tiny");
    assert!(list["data"][0].get("name").is_none_or(Value::is_string));
    let refused = server.ask("GET", "/v1/models", &headers[1..], b"");
    assert_eq!(refused.status, 401);
    assert!(refused.json()["error"]["message"].is_string());
}

#[test]
fn it_chats_with_the_settings_of_its_page() {
    let server = Server::tiny();
    let body = json!({
        "stream": true, "model": "tiny", "stream_options": {"include_usage": true},
        "messages": [
            {"role": "system", "content": "Answer briefly."},
            {"role": "user", "content": "What is a bat?"},
            {"role": "assistant", "content": "A bat is an animal."},
            {"role": "user", "content": [{"type": "text", "text": "Where does it sleep?"}]},
        ],
        "temperature": 0.0, "top_p": 0.9, "max_tokens": 24, "frequency_penalty": 0.0, "seed": 7,
        "stop": ["\n\n"], "logit_bias": {"13": -100},
        // A setting of its own that it passes on.
        "min_p": 0.0, "reasoning_effort": null,
    });
    let parts = server.stream(CHAT, &body);
    let mut said = String::new();
    let mut usage = None;
    for part in &parts {
        assert!(part.get("error").is_none(), "{part}");
        if let Some(delta) = part["choices"].get(0).map(|choice| &choice["delta"]) {
            said += delta["content"].as_str().unwrap_or_default();
        }
        usage = part["usage"].as_object().or(usage);
    }
    assert!(!said.trim().is_empty());
    assert!(usage.unwrap()["completion_tokens"].as_u64().unwrap() > 0);
}

#[test]
fn it_asks_for_a_title_and_reads_the_first_message() {
    let server = Server::tiny();
    let body = json!({
        "model": "tiny", "stream": false, "max_completion_tokens": 1000,
        "messages": [{"role": "user", "content": "### Task:\nGenerate a title.\n### Output:\nJSON"}],
    });
    let answer = server.ok(CHAT, &body);
    assert!(answer["choices"][0]["message"]["content"].is_string());
    // An image is refused with words that its page shows.
    let image = json!({"model": "tiny", "stream": true, "messages": [{"role": "user", "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]}]});
    let (_, said) = server.refused(CHAT, &image);
    assert!(said.contains("image"), "{said}");
}

#[test]
fn it_calls_a_tool_and_gives_the_result_back() {
    let server = Server::tiny();
    let tools = json!([{"type": "function", "function": {
        "name": "look", "description": "Looks.",
        "parameters": {"type": "object", "properties": {"at": {"enum": ["bat", "ball"]}},
            "required": ["at"], "additionalProperties": false},
    }}]);
    let question = json!({"role": "user", "content": "What is a bat?"});
    let body = json!({"model": "tiny", "messages": [question], "tools": tools,
        "tool_choice": "required", "max_tokens": 200, "temperature": 0});
    // It adds up the parts of each call by `index`: names and arguments are concatenated.
    let mut calls: Vec<Value> = Vec::new();
    for part in server.stream(CHAT, &body) {
        let deltas = part["choices"][0]["delta"]["tool_calls"].clone();
        for delta in deltas.as_array().into_iter().flatten() {
            let index = delta["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
                calls.push(delta.clone());
                continue;
            }
            for field in ["name", "arguments"] {
                let more = delta["function"][field].as_str().unwrap_or_default();
                let whole = calls[index]["function"][field].as_str().unwrap_or_default();
                calls[index]["function"][field] = (whole.to_owned() + more).into();
            }
        }
    }
    let call = &calls[0];
    assert_eq!(call["function"]["name"], "look");
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["at"].is_string());
    // It sends the call back as it was added up, with words, without, or with null.
    for content in [json!(""), json!("I look."), Value::Null] {
        let body = json!({"model": "tiny", "tools": tools, "max_tokens": 8, "messages": [question,
            {"role": "assistant", "content": content, "tool_calls": calls},
            {"role": "tool", "tool_call_id": call["id"], "content": "It is asleep."},
        ]});
        assert!(!server.stream(CHAT, &body).is_empty(), "{content}");
    }
}
