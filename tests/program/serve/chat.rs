//! `/v1/chat/completions` and `/v1/responses`.

use super::*;

const PATH: &str = "/v1/chat/completions";

fn ask(text: &str, more: Value) -> Value {
    let mut body = json!({
        "model": "any", "messages": [{"role": "user", "content": text}],
        "max_tokens": 24, "temperature": 0,
    });
    let body_object = body.as_object_mut().unwrap();
    body_object.extend(more.as_object().unwrap().clone());
    body
}

/// A tool whose calls are short.
fn look() -> Value {
    json!([{"type": "function", "function": {
        "name": "look", "description": "Looks.",
        "parameters": {
            "type": "object",
            "properties": {"at": {"enum": ["bat", "ball"]}},
            "required": ["at"], "additionalProperties": false,
        },
    }}])
}

#[test]
fn gives_the_answer_that_the_command_gives() {
    let server = Server::tiny();
    let question = "What is a bat?";
    let printed = modelve(&[
        "complete", "-m", "tiny", "--chat", "-n", "24", "--json", question,
    ]);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let answer = server.ok(PATH, &ask(question, json!({})));
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["content"], printed["text"]);
    assert_eq!(choice["finish_reason"], printed["finish_reason"]);
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(
        answer["usage"]["prompt_tokens"],
        printed["usage"]["prompt_tokens"]
    );
    // Words in parts are the same words.
    let parts =
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": question}]}]});
    assert_eq!(
        server.ok(PATH, &ask("", parts))["choices"],
        answer["choices"]
    );
}

#[test]
fn a_stream_has_the_role_once_and_an_end_without_words() {
    let server = Server::tiny();
    let body = ask(
        "What is a bat?",
        json!({"stream_options": {"include_usage": true}}),
    );
    let whole = server.ok(PATH, &body);
    let parts = server.stream(PATH, &body);
    let delta = |part: &Value| part["choices"][0]["delta"].clone();
    assert_eq!(delta(&parts[0])["role"], "assistant");
    let (usage, parts) = parts.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(
        usage["usage"]["total_tokens"],
        whole["usage"]["total_tokens"]
    );
    let (last, between) = parts.split_last().unwrap();
    assert!(
        between[1..]
            .iter()
            .all(|part| delta(part).get("role").is_none())
    );
    assert!(
        between
            .iter()
            .all(|part| part["choices"][0]["finish_reason"].is_null())
    );
    assert_eq!(
        (delta(last), &last["choices"][0]["finish_reason"]),
        (json!({}), &json!("length"))
    );
    let text: String = between
        .iter()
        .map(|part| {
            delta(part)["content"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    assert_eq!(text, whole["choices"][0]["message"]["content"]);
    let ids: std::collections::BTreeSet<&str> = parts
        .iter()
        .map(|part| part["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 1);
    assert!(
        parts
            .iter()
            .all(|part| part["object"] == "chat.completion.chunk")
    );
}

#[test]
fn tells_how_likely_each_token_was() {
    let server = Server::tiny();
    let body = ask(
        "What is a bat?",
        json!({"logprobs": true, "top_logprobs": 3, "max_tokens": 6}),
    );
    let whole = server.ok(PATH, &body);
    let told = whole["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(told.len(), 6);
    let mut text = Vec::new();
    for token in told {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!(
            (&top[0]["token"], &top[0]["logprob"]),
            (&token["token"], &token["logprob"])
        );
        let bytes = token["bytes"].as_array().unwrap();
        text.extend(bytes.iter().map(|byte| byte.as_u64().unwrap() as u8));
    }
    assert_eq!(
        String::from_utf8(text).unwrap(),
        whole["choices"][0]["message"]["content"]
    );
    let parts = server.stream(PATH, &body);
    let lists = parts
        .iter()
        .filter_map(|part| part["choices"][0]["logprobs"]["content"].as_array());
    let streamed: Vec<Value> = lists.flatten().cloned().collect();
    assert_eq!(&streamed, told);
}

#[test]
fn an_answer_that_was_begun_goes_on() {
    let server = Server::tiny();
    let whole = server.ok(PATH, &ask("What is a bat?", json!({})));
    let whole = whole["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned();
    let cut = whole.char_indices().nth(12).unwrap().0;
    let begun = json!({"messages": [
        {"role": "user", "content": "What is a bat?"},
        {"role": "assistant", "content": &whole[..cut]},
    ]});
    let rest = server.ok(PATH, &ask("", begun));
    let rest = rest["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(
        rest.starts_with(&whole[cut..cut + 6]),
        "{whole:?}, {rest:?}"
    );
    let twice = json!({"messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "c"},
    ]});
    assert!(
        server
            .refused(PATH, &ask("", twice))
            .1
            .contains("two messages of the assistant")
    );
}

#[test]
fn answers_fit_the_schema() {
    let server = Server::tiny();
    let schema = json!({
        "type": "object",
        "properties": {"animal": {"enum": ["bat", "cat"]}, "legs": {"type": "integer", "minimum": 0, "maximum": 8}},
        "required": ["animal", "legs"], "additionalProperties": false,
    });
    for format in [
        json!({"type": "json_schema", "json_schema": {"name": "animal", "strict": true, "schema": schema}}),
        json!({"type": "json_object", "schema": schema}),
    ] {
        let body = ask(
            "Name an animal.",
            json!({"response_format": format, "max_tokens": 200}),
        );
        let answer = server.ok(PATH, &body);
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let value: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("no JSON: {text}"));
        assert!(
            ["bat", "cat"].contains(&value["animal"].as_str().unwrap()),
            "{text}"
        );
        assert!(value["legs"].as_u64().unwrap() <= 8, "{text}");
    }
    let bad = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x",
        "schema": {"properties": {"a": {"uniqueItems": true}}}}}});
    let (param, message) = server.refused(PATH, &ask("a", bad));
    assert_eq!(param, "response_format.json_schema.schema");
    assert!(message.contains("/properties/a/uniqueItems"), "{message}");
}

#[test]
fn a_call_that_is_required_comes_with_its_arguments() {
    let server = Server::tiny();
    for choice in [
        json!("required"),
        json!({"type": "function", "function": {"name": "look"}}),
    ] {
        let body = ask(
            "Where is the bat?",
            json!({"tools": look(), "tool_choice": choice, "max_tokens": 200}),
        );
        let answer = server.ok(PATH, &body);
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
        assert!(choice["message"]["content"].is_null());
        let call = &choice["message"]["tool_calls"][0];
        assert_eq!(
            (&call["type"], &call["function"]["name"]),
            (&json!("function"), &json!("look"))
        );
        let arguments: Value =
            serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments == json!({"at": "bat"}) || arguments == json!({"at": "ball"}));
        // In a stream the name comes once, and then the arguments.
        let parts = server.stream(PATH, &body);
        let calls: Vec<&Value> = parts
            .iter()
            .flat_map(|part| {
                part["choices"][0]["delta"]["tool_calls"]
                    .as_array()
                    .into_iter()
                    .flatten()
            })
            .collect();
        let names: Vec<&str> = calls
            .iter()
            .filter_map(|call| call["function"]["name"].as_str())
            .collect();
        assert_eq!(names, ["look"]);
        assert!(calls[0]["id"].is_string() && calls[0]["function"]["arguments"] == "");
        assert!(calls.iter().all(|call| call["index"] == 0));
        let streamed: String = calls
            .iter()
            .map(|call| call["function"]["arguments"].as_str().unwrap())
            .collect();
        assert_eq!(serde_json::from_str::<Value>(&streamed).unwrap(), arguments);
        assert_eq!(
            parts.last().unwrap()["choices"][0]["finish_reason"],
            "tool_calls"
        );
    }
    // What was called and what came of it can be told of.
    let history = json!({"tools": look(), "messages": [
        {"role": "user", "content": "Where is the bat?"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{\"at\":\"bat\"}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "in the cave"},
    ]});
    assert!(server.ok(PATH, &ask("", history))["choices"][0]["message"]["content"].is_string());
}

#[test]
fn what_makes_no_sense_is_refused_by_its_name() {
    let server = Server::tiny();
    for (more, param) in [
        (json!({"messages": []}), "messages"),
        (json!({"messages": "hello"}), "messages"),
        (json!({"messages": [{"content": "a"}]}), "messages[0]"),
        (
            json!({"messages": [{"role": "user"}]}),
            "messages[0].content",
        ),
        (
            json!({"messages": [{"role": "us<er", "content": "a"}]}),
            "messages",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
            "messages[0].content[0].type",
        ),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            "top_logprobs",
        ),
        (json!({"logprobs": 3}), "logprobs"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (
            json!({"tool_choice": "sometimes", "tools": look()}),
            "tool_choice",
        ),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "fly"}}, "tools": look()}),
            "tool_choice",
        ),
        (
            json!({"tools": [{"type": "telepathy", "function": {"name": "a"}}]}),
            "tools[0].type",
        ),
        (
            json!({"response_format": {"type": "xml"}}),
            "response_format.type",
        ),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema",
        ),
        (json!({"max_tokens": -4}), "max_tokens"),
        (
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message",
        ),
        (
            json!({"continue_final_message": true}),
            "continue_final_message",
        ),
    ] {
        let (field, message) = server.refused(PATH, &ask("a", more.clone()));
        assert_eq!(field, param, "{more}: {message}");
    }
}

#[test]
fn responses_are_the_same_turn_in_another_form() {
    let server = Server::tiny();
    let chat = server.ok(PATH, &ask("What is a bat?", json!({})));
    let text = &chat["choices"][0]["message"]["content"];
    let body = json!({"model": "any", "input": "What is a bat?", "max_output_tokens": 24, "temperature": 0});
    let whole = server.ok("/v1/responses", &body);
    assert_eq!(whole["output"][0]["content"][0]["text"], *text);
    assert_eq!(whole["status"], "incomplete");
    assert_eq!(whole["usage"]["output_tokens"], 24);
    let parts = server.stream("/v1/responses", &body);
    let of =
        |kind: &str| -> Vec<&Value> { parts.iter().filter(|part| part["type"] == kind).collect() };
    let deltas = of("response.output_text.delta");
    let streamed: String = deltas
        .iter()
        .map(|part| part["delta"].as_str().unwrap())
        .collect();
    assert_eq!(streamed, *text);
    assert_eq!(of("response.output_text.done")[0]["text"], *text);
    for (i, part) in parts.iter().enumerate() {
        assert_eq!(part["sequence_number"], i);
    }
    assert_eq!(parts[0]["type"], "response.created");
    assert_eq!(parts.last().unwrap()["type"], "response.incomplete");
    // Calls, and what came of them.
    let tool = &look()[0]["function"];
    let tools = json!([{"type": "function", "name": "look", "parameters": tool["parameters"]}]);
    let called = server.ok("/v1/responses", &json!({
        "input": "Where is the bat?", "tools": tools, "tool_choice": "required", "temperature": 0,
    }));
    let call = &called["output"][0];
    assert_eq!(
        (&call["type"], &call["name"]),
        (&json!("function_call"), &json!("look")),
        "{called}"
    );
    let next = server.ok(
        "/v1/responses",
        &json!({"tools": tools, "max_output_tokens": 4, "input": [
            {"role": "user", "content": "Where is the bat?"},
            call,
            {"type": "function_call_output", "call_id": call["call_id"], "output": "in the cave"},
        ]}),
    );
    assert_eq!(next["output"][0]["type"], "message");
    let stored = server.refused(
        "/v1/responses",
        &json!({"input": "a", "previous_response_id": "resp_1"}),
    );
    assert_eq!(stored.0, "previous_response_id");
}
