//! Probes over HTTP are the documented JSON of the commands.

use super::*;

/// What a command prints as JSON.
fn printed(arguments: &[&str]) -> Value {
    let text = modelve(&[arguments, &["-m", "tiny", "--json"]].concat());
    let mut lines: Vec<Value> = serde_json::Deserializer::from_str(&text)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    match lines.len() {
        1 => lines.remove(0),
        _ => Value::Array(lines),
    }
}

/// Whether two answers are the same but for the last digits of their numbers.
pub fn assert_near(a: &Value, b: &Value, place: &str) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let names =
                |of: &serde_json::Map<String, Value>| of.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(a), names(b), "{place}");
            a.iter()
                .for_each(|(name, value)| assert_near(value, &b[name], &format!("{place}.{name}")));
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{place}");
            a.iter()
                .zip(b)
                .enumerate()
                .for_each(|(i, (a, b))| assert_near(a, b, &format!("{place}[{i}]")));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!(
                (a - b).abs() <= 3e-4 + 2e-3 * b.abs(),
                "{place}: {a} and {b}"
            );
        }
        _ => assert_eq!(a, b, "{place}"),
    }
}

#[test]
fn probes_tell_what_the_commands_tell() {
    let server = Server::tiny();
    let text = "The ball hit the bat, and";
    for (path, body, command) in [
        (
            "next",
            json!({"prompt": text, "top": 3, "candidates": ["it flew", "boundary"]}),
            vec!["next", text, "-n", "3", "--candidates", "it flew,boundary"],
        ),
        (
            "next",
            json!({"prompt": text, "tree": {"depth": 2, "width": 2}, "then": [" the"]}),
            vec!["next", text, "--tree", "2x2", "--then", " the"],
        ),
        (
            "next",
            json!({"prompt": ["The bat", text], "top": 2}),
            vec!["next", "The bat", text, "-n", "2"],
        ),
        (
            "next",
            json!({"prompt": "What is a bat?", "chat": true}),
            vec!["next", "--chat", "What is a bat?"],
        ),
        (
            "score",
            json!({"prompt": text, "window": 2048}),
            vec!["score", text],
        ),
        (
            "score",
            json!({"prompt": "<|end|> it", "special": true}),
            vec!["score", "--special", "<|end|> it"],
        ),
        (
            "lens",
            json!({"prompt": text, "layers": [0, -1], "positions": [-1], "token": "it"}),
            vec![
                "lens",
                text,
                "--layers",
                "0,-1",
                "--positions",
                "-1",
                "--token",
                "it",
            ],
        ),
        (
            "why",
            json!({"prompt": "The ball hit the bat", "token": "it", "against": "the"}),
            vec![
                "why",
                "The ball hit the bat",
                "--token",
                "it",
                "--against",
                "the",
            ],
        ),
        (
            "patch",
            json!({"prompt": "The ball hit", "corrupt": "The club hit", "layers": [0, -1]}),
            vec!["patch", "The ball hit", "The club hit", "--layers", "0,-1"],
        ),
        (
            "ablate",
            json!({"prompt": text, "parts": ["2.1", "mlp.0@-1"], "top": 3, "max_tokens": 4}),
            vec![
                "ablate",
                text,
                "--part",
                "2.1,mlp.0@-1",
                "--top",
                "3",
                "-n",
                "4",
            ],
        ),
        (
            "ablate",
            json!({"prompt": "The ball hit", "all": "attn", "with": "mean"}),
            vec!["ablate", "The ball hit", "--all", "attn", "--with", "mean"],
        ),
        (
            "heads",
            json!({"prompt": text, "length": 10, "draws": 1, "seed": 3, "top": 2}),
            vec![
                "heads", text, "--length", "10", "--draws", "1", "--seed", "3", "-n", "2",
            ],
        ),
        (
            "heads",
            json!({"length": 8}),
            vec!["heads", "--length", "8"],
        ),
        (
            "attention",
            json!({"prompt": text, "layer": 2}),
            vec!["attention", text, "--layer", "2"],
        ),
    ] {
        let mut expected = printed(&command);
        let mut given = server.ok(&format!("/v1/modelve/{path}"), &body);
        if path == "score" {
            // The command's window is what the text needs.
            expected["windows"] = Value::Null;
            given["windows"] = Value::Null;
        }
        assert_near(&given, &expected, path);
    }
}

#[test]
fn a_text_that_somebody_writes_is_told_anew_at_each_key() {
    let server = Server::tiny();
    // Of a quantized model the batch decides the last digits.
    let close = |a: &Value, b: &Value| {
        let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
        assert!((a - b).abs() < 0.05, "{a} and {b}");
    };
    let text = "The ball hit the bat, and";
    for n in (4..=text.len()).chain([text.len() - 3, text.len()]) {
        let typed = &text[..n];
        let body = json!({"prompt": typed, "top": 4, "also": [" it", 300]});
        let live = server.ok("/v1/modelve/live", &body);
        let body = json!({"prompt": typed, "top": 4});
        let next = server.ok("/v1/modelve/next", &body);
        assert_eq!(live["next"]["ids"], next["ids"], "{typed}");
        close(&live["next"]["top"][0]["prob"], &next["top"][0]["prob"]);
        let also = json!({"prompt": typed, "candidates": [" it"]});
        let also = server.ok("/v1/modelve/next", &also);
        close(&live["also"][0]["prob"], &also["candidates"][0]["prob"]);
        assert_eq!(live["also"][1]["id"], 300);
        if next["ids"].as_array().unwrap().len() > 1 {
            let score = json!({"prompt": typed, "special": true});
            let score = server.ok("/v1/modelve/score", &score);
            close(&live["score"]["bits_per_token"], &score["bits_per_token"]);
        }
    }
    let again = server.ok("/v1/modelve/live", &json!({"prompt": text}));
    let n = again["next"]["ids"].as_array().unwrap().len();
    assert_eq!(again["reused"], n);
}

#[test]
fn a_long_probe_tells_how_far_it_is() {
    let server = Server::tiny();
    let body =
        json!({"prompt": "The ball hit the bat. ".repeat(120), "stream": true, "window": 512});
    let answer = server.post("/v1/modelve/score", &body);
    let text = answer.text();
    assert!(text.contains("event: progress\n"), "{text}");
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    assert!(last.starts_with("event: result\ndata: {"), "{last}");
    let parts = answer.events();
    let done: Vec<u64> = parts
        .iter()
        .filter_map(|part| part["done"].as_u64())
        .collect();
    assert!(done.is_sorted() && !done.is_empty());
    assert_eq!(parts.last().unwrap()["complete"], true);
}

#[test]
fn what_makes_no_sense_is_refused_by_its_name() {
    let server = Server::tiny();
    for (path, body, param) in [
        ("next", json!({}), "prompt"),
        (
            "next",
            json!({"prompt": "a", "tree": {"depth": 99, "width": 99}}),
            "tree",
        ),
        (
            "next",
            json!({"prompt": "a", "candidates": [""]}),
            "candidates",
        ),
        (
            "next",
            json!({"prompt": "a", "then": ["never one token"]}),
            "then",
        ),
        ("next", json!({"prompt": "bat ".repeat(5000)}), "prompt"),
        (
            "score",
            json!({"prompt": "a", "window": 4, "stride": 4}),
            "window",
        ),
        ("score", json!({"prompt": [1]}), "prompt"),
        ("live", json!({"prompt": ["a", "b"]}), "prompt"),
        ("live", json!({"prompt": "a", "also": [1 << 30]}), "also"),
        ("lens", json!({"prompt": "a", "layers": [77]}), "layers"),
        (
            "lens",
            json!({"prompt": "a", "positions": [-9]}),
            "positions",
        ),
        ("lens", json!({"prompt": ["a", "b"]}), "prompt"),
        ("why", json!({"prompt": "a", "token": ""}), "token"),
        ("patch", json!({"prompt": "a"}), "corrupt"),
        (
            "patch",
            json!({"prompt": "a", "corrupt": "b", "what": "soul"}),
            "what",
        ),
        (
            "patch",
            json!({"prompt": "a", "corrupt": "b", "positions": [77]}),
            "positions",
        ),
        ("attention", json!({"prompt": "a", "layer": 77}), "layer"),
        ("ablate", json!({"prompt": "a"}), "parts"),
        ("ablate", json!({"prompt": "a", "parts": ["soul"]}), "parts"),
        ("ablate", json!({"prompt": "a", "parts": ["77.0"]}), "parts"),
        ("ablate", json!({"prompt": "a", "all": "souls"}), "all"),
        (
            "ablate",
            json!({"prompt": "a", "parts": ["0.0"], "with": "x"}),
            "with",
        ),
        ("heads", json!({"length": 1}), "length"),
        ("heads", json!({"draws": 0}), "draws"),
        (
            "attention",
            json!({"prompt": "a", "layer": 0, "head": 77}),
            "head",
        ),
    ] {
        let (field, message) = server.refused(&format!("/v1/modelve/{path}"), &body);
        assert_eq!(field, param, "{path} {body}: {message}");
    }
}

#[test]
fn a_probe_does_not_stop_a_stream() {
    let server = Server::tiny();
    let prompts: Vec<String> = vec!["The ball hit the bat. ".repeat(120); 60];
    let mut probe = server.begin("/v1/modelve/score", &json!({"prompt": prompts}));
    server.wait_until("the probe runs", |server| {
        server.metric("probes_total") == 1
    });
    let body = json!({"prompt": "Once", "max_tokens": 30, "ignore_eos": true, "temperature": 0});
    let beside = server.ok("/v1/completions", &body);
    assert_eq!(beside["usage"]["completion_tokens"], 30);
    // The probe is still at it.
    probe.set_nonblocking(true).unwrap();
    let answered = probe.read(&mut [0; 16]);
    assert!(answered.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
}
