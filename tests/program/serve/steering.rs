//! Control vectors that whoever started the server named, asked for by requests.

use super::*;

/// Two vectors as files in a folder, and the flags that name them.
fn vectors(folder: &Path) -> Vec<String> {
    let made = [
        (
            "park",
            "They were in the park",
            "They were in the cave",
            "2",
        ),
        (
            "night",
            "It was night in the cave",
            "It was noon in the park",
            "3",
        ),
    ];
    let flags = made.iter().map(|(name, plus, minus, layer)| {
        let file = folder.join(format!("{name}.gguf"));
        let file = file.to_str().unwrap();
        modelve(&[
            "steer", "learn", "-m", "tiny", "--plus", plus, "--minus", minus, "--layers", layer,
            "-o", file,
        ]);
        format!("--control-vector={name}={file}")
    });
    flags.collect()
}

fn text(answer: &Value) -> String {
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_request_is_led_by_the_vectors_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let flags = vectors(folder.path());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::of(&[&["-m", "tiny"][..], &flags].concat());
    let prompt = "The ball hit the bat, and it";
    let body = |shares: Value| json!({"prompt": prompt, "max_tokens": 8, "temperature": 0, "control_vectors": shares});
    let alone = |shares: &[&str]| {
        let given: Vec<String> = (shares.iter())
            .map(|share| format!("--control-vector={}", folder.path().join(share).display()))
            .collect();
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let command = [
            "complete",
            prompt,
            "-m",
            "tiny",
            "-n",
            "8",
            "--temp",
            "0",
            "--threads",
            "1",
            "--json",
        ];
        let line = modelve(&[&command[..], &given].concat());
        let done: Value = serde_json::from_str(&line).unwrap();
        done["text"].as_str().unwrap().to_owned()
    };
    let plain = alone(&[]);
    let cases = [
        (json!([]), alone(&[])),
        (
            json!([{"name": "park", "scale": 4}]),
            alone(&["park.gguf:4"]),
        ),
        (
            json!([{"name": "park", "scale": -4}]),
            alone(&["park.gguf:-4"]),
        ),
        (
            json!([{"name": "night", "scale": 5}]),
            alone(&["night.gguf:5"]),
        ),
        (
            json!([{"name": "park"}, {"name": "night", "scale": 3}]),
            alone(&["park.gguf", "night.gguf:3"]),
        ),
    ];
    assert!(
        cases.iter().any(|(_, text)| *text != plain),
        "no vector leads anywhere"
    );
    for (shares, expected) in &cases {
        let given = text(&server.ok("/v1/completions", &body(shares.clone())));
        assert_eq!(given, *expected, "{shares}");
    }
    // All at once: those with the same vector together, the others after them, none mixed up.
    let asked: Vec<_> = (cases.iter().cycle().take(15))
        .map(|(shares, expected)| {
            (
                server.begin("/v1/completions", &body(shares.clone())),
                expected,
            )
        })
        .collect();
    let mut right = 0;
    for (mut stream, expected) in asked {
        let mut all = Vec::new();
        drop(stream.read_to_end(&mut all));
        let answer = Answer::read(&all);
        assert_eq!(answer.status, 200, "{}", answer.text());
        right += usize::from(text(&answer.json()) == *expected);
    }
    // Of a quantized model, the batch may turn a token that is as likely as another.
    assert!(
        right >= 12,
        "{right} of 15 texts are those that each gets alone"
    );
    assert!(server.is_idle());
    assert_eq!(
        server.get("/props").json()["control_vectors"],
        json!(["night", "park"])
    );
}

#[test]
fn steering_over_http_tells_what_the_command_tells() {
    let folder = tempfile::tempdir().unwrap();
    let flags = vectors(folder.path());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::of(&[&["-m", "tiny"][..], &flags].concat());
    let body = json!({"prompt": "The ball hit the bat, and", "control_vectors": [{"name": "park"}],
        "scale": [-1, 2], "max_tokens": 6, "top": 3});
    let given = server.ok("/v1/modelve/steer", &body);
    let file = folder.path().join("park.gguf");
    let line = modelve(&[
        "steer",
        "run",
        "The ball hit the bat, and",
        "-m",
        "tiny",
        "--vector",
        file.to_str().unwrap(),
        "--scale=-1,2",
        "-n",
        "6",
        "--top",
        "3",
        "--threads",
        "1",
        "--json",
    ]);
    let mut expected: Value = serde_json::from_str(&line).unwrap();
    expected["files"][0]["file"] = "park".into();
    probes::assert_near(&given, &expected, "steer");
    for (body, param) in [
        (json!({"prompt": "a"}), "control_vectors"),
        (
            json!({"prompt": "a", "control_vectors": [{"name": "soul"}]}),
            "control_vectors",
        ),
        (
            json!({"prompt": "a", "control_vectors": [{"name": "park"}], "layers": [5]}),
            "layers",
        ),
        (
            json!({"prompt": "a", "control_vectors": [{"name": "park"}], "scale": []}),
            "scale",
        ),
    ] {
        let (field, message) = server.refused("/v1/modelve/steer", &body);
        assert_eq!(field, param, "{body}: {message}");
    }
    for path in ["/v1/completions", "/completion"] {
        let body = json!({"prompt": "a", "control_vectors": [{"name": "soul"}]});
        let (field, message) = server.refused(path, &body);
        assert!(
            field == "control_vectors" && message.contains("night, park"),
            "{message}"
        );
    }
}

#[test]
fn a_vector_that_is_none_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("none.gguf");
    std::fs::write(&file, b"GGUF").unwrap();
    let file = file.to_str().unwrap();
    for (flag, code) in [
        (format!("joy={file}"), 1),
        (file.to_owned(), 2),
        (format!("={file}"), 2),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_modelve"))
            .args([
                "serve",
                "-m",
                "tiny",
                "--port",
                "0",
                "--control-vector",
                &flag,
            ])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{flag}: {said}");
        assert!(!said.contains("listening"), "{said}");
    }
}
