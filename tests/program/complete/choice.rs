//! How tokens are chosen, and what ends a text.

use super::*;

#[test]
fn a_stop_text_ends_the_completion_before_it() {
    let whole = &objects(&run(small().args(["today is", "-n", "30", "--json"])))[0];
    let whole = whole["text"].as_str().unwrap();
    // Across tokens: from the middle of the text.
    let characters: Vec<char> = whole.chars().filter(|&c| c != '\u{FFFD}').collect();
    let middle: String = characters[characters.len() / 2..][..1].iter().collect();
    let expected = whole.split(&middle).next().unwrap();
    let stopped = run(small().args(["today is", "-n", "30", "--json", "--stop", &middle]));
    let object = &objects(&stopped)[0];
    assert_eq!(object["text"], expected);
    assert_eq!(object["finish_reason"], "stop");
    // One that never comes loses nothing.
    let unharmed = run(small().args(["today is", "-n", "30", "--json", "--stop", "never so"]));
    assert_eq!(objects(&unharmed)[0]["text"], whole);
    assert_eq!(failure(small().args(["a", "--stop", ""])).0, 2);
}

#[test]
fn tokens_that_end_a_text_end_it_and_are_not_shown() {
    let (texts, _, _) = tiny_gguf::vocabulary();
    for name in ["<|end|>", "<|endoftext|>", "<|assistant|>"] {
        let id = texts.iter().position(|text| text == name).unwrap();
        let bias = format!("{id}=+1000");
        let ended = run(small().args(["today", "-n", "9", "--json", "--logit-bias", &bias]));
        let object = &objects(&ended)[0];
        assert_eq!(
            (&object["text"], &object["finish_reason"]),
            (&"".into(), &"stop".into())
        );
        let on = [
            "today",
            "-n",
            "9",
            "--json",
            "--ignore-eos",
            "--logit-bias",
            &bias,
        ];
        let object = &objects(&run(small().args(on)))[0];
        assert_eq!(object["usage"]["completion_tokens"], 9);
        assert!(!object["text"].as_str().unwrap().contains(name));
    }
}

#[test]
fn sampling_is_random_by_seed_only() {
    let draw = |seed: &str| {
        stdout(&run(
            small().args(["a", "-n", "20", "--temp", "1.5", "--seed", seed])
        ))
    };
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
    let greedy = stdout(&run(small().args(["a", "-n", "20"])));
    for narrow in [["--top-k", "1"], ["--top-p", "0"], ["--min-p", "1"]] {
        assert_eq!(
            stdout(&run(small().args(["a", "-n", "20"]).args(narrow))),
            greedy,
            "{narrow:?}"
        );
    }
    // A token that is pushed forward comes again and again, until the penalty catches up.
    let pushed = ["a", "-n", "12", "--logit-bias", "300=+100"];
    let all_same = stdout(&run(small().args(pushed)));
    for penalty in [["--frequency-penalty", "60"], ["--repeat-penalty", "1000"]] {
        assert_ne!(
            stdout(&run(small().args(pushed).args(penalty))),
            all_same,
            "{penalty:?}"
        );
    }
}

#[test]
fn a_grammar_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let gbnf = write(
        "yes.gbnf",
        "root ::= (\" bat\" | \" ball\") \" \" [0-9] [0-9] \"!\"\n",
    );
    let output = run(small().args(["the", "--json", "--grammar"]).arg(&gbnf));
    let object = &objects(&output)[0];
    let text = object["text"].as_str().unwrap();
    assert!(text.starts_with(" ba") && text.ends_with('!'), "{text:?}");
    assert_eq!(object["finish_reason"], "stop");

    let schema = write(
        "schema.json",
        r#"{"type":"object","properties":{"a":{"type":"integer","maximum":99,"minimum":1},
            "b":{"enum":["x","y"]}},"required":["a","b"],"additionalProperties":false}"#,
    );
    let output = run(small()
        .args(["the", "-n", "200", "--json-schema"])
        .arg(&schema));
    let json: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(json["a"].as_i64().unwrap() < 100 && ["x", "y"].contains(&json["b"].as_str().unwrap()));

    let schema = write(
        "pattern.json",
        r#"{"type":"string","pattern":"^\\d{3}-\\d{4}$"}"#,
    );
    let output = run(small()
        .args(["the", "-n", "60", "--json-schema"])
        .arg(&schema));
    let text: String = serde_json::from_str(&stdout(&output)).unwrap();
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (a, b) = text.split_once('-').unwrap();
    assert!(
        a.len() == 3 && b.len() == 4 && digits(a) && digits(b),
        "{text}"
    );

    let token = write("token.gbnf", "root ::= \" bat\" <|system|> \"!\"\n");
    let output = run(small().args(["the", "--json", "--grammar"]).arg(&token));
    let object = &objects(&output)[0];
    assert_eq!(object["text"], " bat!", "{object}");

    for (flag, bad, told) in [
        (
            "--grammar",
            "root ::= (\"a\"",
            "line 1, column 10: this bracket is not closed",
        ),
        (
            "--grammar",
            "root ::= missing",
            "there is no rule named missing",
        ),
        ("--grammar", "root ::= root \"a\"", "no text follows it"),
        (
            "--grammar",
            "root ::= \"a\"{5,0}",
            "the most is less than the least",
        ),
        (
            "--grammar",
            "root ::= <|nosuch|>",
            "<|nosuch|> is not one token",
        ),
        ("--grammar", "nothing", "::= is expected"),
        ("--grammar", "", "does not define a rule named root"),
        ("--json-schema", "{", "it is no JSON"),
        (
            "--json-schema",
            r#"{"type": "nonsense"}"#,
            "/type: a type is one of",
        ),
        (
            "--json-schema",
            r#"{"not": {"type": "number"}}"#,
            "/not: not cannot be followed",
        ),
        (
            "--json-schema",
            r#"{"type":"array","items":{"type":"integer"},"minItems":5,"maxItems":2}"#,
            "nothing fits it: minItems (5)",
        ),
        (
            "--json-schema",
            r#"{"type":"string","minLength":5,"maxLength":2}"#,
            "nothing fits it: minLength (5)",
        ),
        (
            "--json-schema",
            r#"{"type":"integer","minimum":5,"maximum":2}"#,
            "nothing fits it",
        ),
    ] {
        let path = write("bad", bad);
        let (code, said) = failure(small().args(["the", flag]).arg(&path));
        assert_eq!(code, 1, "{bad}: {said}");
        assert!(said.contains(told), "{bad}: {said}");
    }
}
