//! `/v1/completions`.

use super::*;
use crate::support::tiny_gguf::Tiny;

const PATH: &str = "/v1/completions";

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

#[test]
fn gives_the_text_that_the_command_gives() {
    let server = Server::tiny();
    let prompt = "The ball hit the bat, and";
    let printed = modelve(&["complete", "-m", "tiny", "-n", "12", "--json", prompt]);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let body = json!({"model": "whatever", "prompt": prompt, "max_tokens": 12, "temperature": 0});
    let answer = server.ok(PATH, &body);
    assert_eq!(text(&answer), printed["text"]);
    assert_eq!(
        answer["choices"][0]["finish_reason"],
        printed["finish_reason"]
    );
    assert_eq!(answer["model"], "tiny");
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(
        answer["usage"]["prompt_tokens"],
        printed["usage"]["prompt_tokens"]
    );
    // Token by token it is the same text, with one id.
    let parts = server.stream(PATH, &body);
    let streamed: String = parts.iter().map(text).collect();
    assert_eq!(streamed, printed["text"]);
    let ids: std::collections::BTreeSet<&str> = parts
        .iter()
        .map(|part| part["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 1);
    let finish: Vec<&Value> = parts
        .iter()
        .map(|part| &part["choices"][0]["finish_reason"])
        .collect();
    assert_eq!(*finish[finish.len() - 1], printed["finish_reason"]);
    assert!(
        finish[..finish.len() - 1]
            .iter()
            .all(|finish| finish.is_null())
    );
}

/// Holds the log-probabilities of a prompt against those that `score` prints, within `most`.
fn compare_with_score(server: &Server, model: &str, flags: &[&str], text: &str, most: f64) {
    let arguments = ["score", "-m", model, "--special", "--json", text];
    let scored: Value = serde_json::from_str(&modelve(&[&arguments, flags].concat())).unwrap();
    let scored = scored["tokens"].as_array().unwrap();
    let ids: Vec<&Value> = scored.iter().map(|token| &token["id"]).collect();
    for (max_tokens, prompt) in [(0, json!(text)), (1, json!(text)), (1, json!(ids))] {
        let body = json!({
            "prompt": &prompt, "echo": true, "logprobs": 1, "max_tokens": max_tokens,
            "temperature": 0,
        });
        let answer = server.ok(PATH, &body);
        let told = &answer["choices"][0]["logprobs"];
        let n = scored.len();
        let logprobs = told["token_logprobs"].as_array().unwrap();
        assert_eq!(logprobs.len(), n + max_tokens, "{answer}");
        assert!(logprobs[0].is_null() && told["top_logprobs"][0].is_null());
        for (i, token) in scored.iter().enumerate().skip(1) {
            let given = logprobs[i].as_f64().unwrap();
            let expected = token["logprob"].as_f64().unwrap();
            let place = format!("{text:?} token {i}: {given} and {expected}");
            assert!((given - expected).abs() < most, "{place}");
            let top = told["top_logprobs"][i].as_object().unwrap();
            let best = top
                .values()
                .map(|v| v.as_f64().unwrap())
                .fold(f64::MIN, f64::max);
            assert_eq!(given == best, token["rank"] == 1, "{place}");
        }
        // Each token begins where it is said to.
        let echoed = answer["choices"][0]["text"].as_str().unwrap();
        // Tokens alone do not tell of white space that the tokenizer left out.
        if prompt.is_string() {
            assert!(echoed.starts_with(text), "{echoed:?}");
        }
        let chars: Vec<char> = echoed.chars().collect();
        for i in 0..n {
            let token = told["tokens"][i].as_str().unwrap();
            let at = told["text_offset"][i].as_u64().unwrap() as usize;
            let here: String = chars[at..].iter().collect();
            let same = here.starts_with(token) || here.starts_with(token.trim_start());
            let is_text = !token.starts_with("bytes:") && token != "<s>";
            assert!(same || !is_text, "{token:?} at {at} of {echoed:?}");
        }
    }
}

#[test]
fn tells_what_score_tells_of_a_prompt() {
    let texts = [
        "The ball hit the bat, and it flew to the boundary.",
        "A bat sleeps by day, ärger und 😀 inclusive.",
        "<|user|>\nWhat is a bat?<|end|>\n<|assistant|>\n",
    ];
    let server = Server::tiny();
    for text in texts {
        compare_with_score(&server, "tiny", &[], text, 2e-2);
    }
    // In 32 bits there is nothing to round.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f32.gguf");
    Tiny::default().write(&path);
    let exact = ["--kv-type", "f32", "--flash-attn", "off"];
    let server = Server::file(&path, &exact);
    for text in texts {
        compare_with_score(&server, path.to_str().unwrap(), &exact, text, 1e-4);
    }
}

#[test]
fn a_prompt_is_judged_the_same_beside_others_and_in_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f32.gguf");
    Tiny {
        original: 4096,
        ..Tiny::default()
    }
    .write(&path);
    let server = Server::file(&path, &["--kv-type", "f32", "--flash-attn", "off"]);
    let prompt = "The ball hit the bat, and it flew to the boundary. ".repeat(12);
    let body = json!({"prompt": prompt, "echo": true, "logprobs": 2, "max_tokens": 4, "temperature": 0, "ignore_eos": true});
    let alone = server.ok(PATH, &body);
    let alone = &alone["choices"][0];
    let longest = json!({"prompt": "Once", "max_tokens": 300, "ignore_eos": true, "stream": true, "temperature": 0});
    let others: Vec<TcpStream> = (0..3).map(|_| server.begin(PATH, &longest)).collect();
    let beside = server.ok(PATH, &body);
    let parts = server.stream(PATH, &body);
    drop(others);
    assert_eq!(beside["choices"][0]["text"], alone["text"]);
    let near = |a: &Value, b: &Value| {
        let numbers = |of: &Value| -> Vec<f64> {
            of["token_logprobs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|v| v.as_f64().unwrap_or(0.0))
                .collect()
        };
        let (a, b) = (numbers(a), numbers(b));
        assert_eq!(a.len(), b.len());
        a.iter()
            .zip(&b)
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{a} {b}"));
    };
    near(&beside["choices"][0]["logprobs"], &alone["logprobs"]);
    let mut told =
        json!({"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []});
    for part in &parts {
        for (name, list) in told.as_object_mut().unwrap() {
            let more = part["choices"][0]["logprobs"][name]
                .as_array()
                .unwrap()
                .clone();
            list.as_array_mut().unwrap().extend(more);
        }
    }
    near(&told, &alone["logprobs"]);
    assert_eq!(told["text_offset"], alone["logprobs"]["text_offset"]);
    assert_eq!(
        parts.iter().map(text).collect::<String>(),
        *alone["text"].as_str().unwrap()
    );
}

#[test]
fn many_prompts_and_many_texts_come_in_order() {
    let server = Server::tiny();
    let prompts = ["Today is", "The ball hit the", "A bat sleeps by"];
    let alone: Vec<String> = prompts
        .iter()
        .map(|prompt| {
            let answer = server.ok(
                PATH,
                &json!({"prompt": prompt, "max_tokens": 8, "temperature": 0}),
            );
            text(&answer).to_owned()
        })
        .collect();
    let answer = server.ok(
        PATH,
        &json!({"prompt": prompts, "max_tokens": 8, "temperature": 0, "n": 2}),
    );
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 6);
    for (i, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], i);
        assert_eq!(choice["text"], alone[i / 2]);
    }
    // A seed gives the same texts again, each of several its own.
    let drawn =
        json!({"prompt": "Today is", "max_tokens": 12, "seed": 7, "n": 3, "temperature": 1.5});
    let (once, again) = (server.ok(PATH, &drawn), server.ok(PATH, &drawn));
    assert_eq!(once["choices"], again["choices"]);
    assert_ne!(once["choices"][0]["text"], once["choices"][1]["text"]);
    // The best of several is one of them.
    let mut best = drawn.clone();
    (best["n"], best["best_of"], best["logprobs"]) = (1.into(), 3.into(), 0.into());
    let best = server.ok(PATH, &best);
    let all: Vec<&Value> = once["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["text"])
        .collect();
    assert!(
        all.contains(&&best["choices"][0]["text"]),
        "{best} of {all:?}"
    );
    assert_eq!(best["choices"].as_array().unwrap().len(), 1);
}

#[test]
fn ends_where_it_is_told_to() {
    let server = Server::tiny();
    let body = json!({"prompt": "The ball hit the bat, and", "max_tokens": 12, "temperature": 0});
    let whole = server.ok(PATH, &body);
    let whole = text(&whole).to_owned();
    let stop: String = whole.chars().skip(4).take(4).collect();
    for stops in [json!(stop), json!(["never", stop])] {
        let mut body = body.clone();
        body["stop"] = stops;
        body["logprobs"] = 1.into();
        let answer = server.ok(PATH, &body);
        let expected = whole.split(&stop).next().unwrap();
        assert_eq!(text(&answer), expected);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        // What was cut away is not told of either.
        let tokens = answer["choices"][0]["logprobs"]["tokens"]
            .as_array()
            .unwrap();
        let told: String = tokens.iter().map(|token| token.as_str().unwrap()).collect();
        assert!(
            told.starts_with(expected) && told.len() < whole.len(),
            "{told:?}"
        );
        let parts = server.stream(PATH, &body);
        assert_eq!(parts.iter().map(text).collect::<String>(), expected);
    }
    // A token that must not come, and one that must.
    let ids = server.ok("/tokenize", &json!({"content": " ball"}))["tokens"].clone();
    let id = ids.as_array().unwrap().last().unwrap().to_string();
    let mut biased = body.clone();
    biased["logit_bias"] = json!({id.as_str(): 100});
    biased["max_tokens"] = 2.into();
    assert_eq!(text(&server.ok(PATH, &biased)), " ball ball");
}

#[test]
fn streams_tell_what_they_took_when_asked() {
    let server = Server::tiny();
    let mut body =
        json!({"prompt": "Today is", "max_tokens": 3, "temperature": 0, "ignore_eos": true});
    let plain = server.stream(PATH, &body);
    assert!(plain.iter().all(|part| part.get("usage").is_none()));
    body["stream_options"] = json!({"include_usage": true});
    let parts = server.stream(PATH, &body);
    let (last, before) = parts.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 3);
    assert!(
        before
            .iter()
            .all(|part| part["usage"].is_null() && part.get("usage").is_some())
    );
}

#[test]
fn a_beginning_that_was_seen_is_not_computed_again() {
    let server = Server::tiny();
    let prompt = "The ball hit the bat, and it flew to the boundary. ".repeat(4);
    let body = json!({"prompt": prompt, "max_tokens": 2, "temperature": 0});
    let first = server.ok(PATH, &body);
    let again = server.ok(PATH, &body);
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let n = again["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(
        again["usage"]["prompt_tokens_details"]["cached_tokens"],
        n - 1
    );
    assert_eq!(first["choices"], again["choices"]);
}

#[test]
fn what_makes_no_sense_is_refused_by_its_name() {
    let server = Server::of(&[
        "-m",
        "tiny",
        "--ctx-size",
        "64",
        "--cells",
        "256",
        "--queue",
        "8",
    ]);
    for (body, param, said) in [
        (json!({}), "prompt", "missing field `prompt`"),
        (
            json!({"prompt": 7}),
            "prompt",
            "a string, a list of strings",
        ),
        (json!({"prompt": []}), "prompt", "no prompt"),
        (
            json!({"prompt": [99999]}),
            "prompt",
            "outside the vocabulary",
        ),
        (
            json!({"prompt": "a", "max_tokens": -1}),
            "max_tokens",
            "max_tokens: ",
        ),
        (
            json!({"prompt": "a", "max_tokens": "many"}),
            "max_tokens",
            "max_tokens: ",
        ),
        (
            json!({"prompt": "a", "temperature": -1}),
            "temperature",
            "temperature cannot be -1",
        ),
        (
            json!({"prompt": "a", "temperature": 1e300}),
            "temperature",
            "temperature",
        ),
        (
            json!({"prompt": "a", "top_p": 2}),
            "top_p",
            "top-p cannot be 2",
        ),
        (json!({"prompt": "a", "n": 0}), "n", "1 to 128"),
        (
            json!({"prompt": "a", "n": 9}),
            "prompt",
            "the 8 of the queue",
        ),
        (
            json!({"prompt": "a", "n": 3, "best_of": 2}),
            "best_of",
            "3 to 128",
        ),
        (
            json!({"prompt": "a", "best_of": 2, "stream": true}),
            "best_of",
            "cannot be used with stream",
        ),
        (
            json!({"prompt": "a", "logprobs": 101}),
            "logprobs",
            "0 to 100",
        ),
        (
            json!({"prompt": "a", "logit_bias": {"x": 1}}),
            "logit_bias",
            "not a token id",
        ),
        (
            json!({"prompt": "a", "logit_bias": {"99999": 1}}),
            "logit_bias",
            "outside",
        ),
        (
            json!({"prompt": "a", "stop": 3}),
            "stop",
            "a string or a list",
        ),
        (
            json!({"prompt": "a", "grammar": "root ::= ["}),
            "grammar",
            "grammar: ",
        ),
        (
            json!({"prompt": "a", "json_schema": {"not": {}}}),
            "json_schema",
            "not cannot be followed",
        ),
        (json!({"prompt": "bat ".repeat(100)}), "prompt", "64 tokens"),
    ] {
        let (field, message) = server.refused(PATH, &body);
        assert_eq!(field, param, "{body}: {message}");
        assert!(message.contains(said), "{body}: {message}");
    }
    let long = server.post(PATH, &json!({"prompt": "bat ".repeat(100)}));
    let error = long.json()["error"].clone();
    assert_eq!(error["code"], "context_length_exceeded");
    assert_eq!(error["n_ctx"], 64);
    assert!(error["n_prompt_tokens"].as_u64().unwrap() > 64);
    // Null is not there, and what is not known is not looked at.
    server.ok(
        PATH,
        &json!({"prompt": "a", "max_tokens": null, "stop": null, "user": "x", "foo": [1]}),
    );
    // A full context ends a text.
    let full = server.ok(
        PATH,
        &json!({"prompt": "a", "max_tokens": 1000, "ignore_eos": true}),
    );
    assert_eq!(full["choices"][0]["finish_reason"], "length");
}
