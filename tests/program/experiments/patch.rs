//! `patch` on the command line: maps, noise, many pairs.

use super::*;

#[test]
fn patch_finds_the_token_that_differs() {
    let patch = found(&["patch", PARK, CAVE, "--together"]);
    assert_eq!(
        keys(&patch),
        [
            "model",
            "clean",
            "corrupt",
            "clean_ids",
            "clean_pieces",
            "corrupt_ids",
            "corrupt_pieces",
            "token",
            "against",
            "measure",
            "unit",
            "clean_value",
            "corrupt_value",
            "clean_top",
            "corrupt_top",
            "what",
            "layers",
            "positions",
            "clean_positions",
            "recovered",
            "values",
            "top",
            "followed",
            "probs",
            "tokens",
            "together",
            "complete"
        ]
    );
    // What each prompt would say, against each other.
    assert_eq!(patch["token"]["piece"], " was");
    assert_eq!(patch["against"]["piece"], " fl");
    assert_eq!(patch["layers"], json!([0, 1, 2, 3, 4, 5]));
    assert_eq!(patch["positions"].as_array().unwrap().len(), 10);
    let rows: Vec<Vec<f64>> = patch["recovered"]
        .as_array()
        .unwrap()
        .iter()
        .map(numbers)
        .collect();
    // " park" is the third token: before it nothing differs, at first most of it is there, in the
    // end all of it is at the last token.
    assert!(rows.iter().all(|row| row[0] == 0.0 && row[1] == 0.0));
    let most = |layer: usize| (0..10).max_by(|&a, &b| rows[layer][a].total_cmp(&rows[layer][b]));
    assert_eq!((most(0), most(4), most(5)), (Some(2), Some(9), Some(9)));
    assert!(rows[5][2] == 0.0 && (rows[5][9] - 1.0).abs() < 0.01);
    let difference = number(&patch["clean_value"]) - number(&patch["corrupt_value"]);
    for share in numbers(&patch["together"]) {
        assert!(((share - 1.0) * difference).abs() < ROUNDED, "{share}");
    }
    assert_eq!(patch["top"][5][9][0]["piece"], " was");
    shows_every_token(&patch);

    let heads = found(&[
        "patch", PARK, CAVE, "--what", "head", "--layers", "2-3", "-n", "1",
    ]);
    assert_eq!(heads["heads"], json!([0, 1, 2, 3]));
    assert_eq!(heads["layers"], json!([2, 3]));
    assert_eq!(numbers(&heads["recovered"][1]).len(), 4);
    let one = found(&["patch", PARK, CAVE, "--positions", "-1", "--layer", "4"]);
    assert_eq!(one["positions"], json!([9]));
    assert!(((numbers(&one["recovered"][0])[0] - rows[4][9]) * difference).abs() < ROUNDED);
}

/// A map tells how likely its tokens are at every place and after both prompts.
fn shows_every_token(patch: &Value) {
    let followed = array(&patch["followed"]);
    for top in ["clean_top", "corrupt_top"] {
        for choice in array(&patch[top]) {
            assert!(followed.contains(&choice["id"]));
        }
    }
    let known = |id: &Value| {
        array(&patch["tokens"])
            .iter()
            .find(|token| token["id"] == *id)
    };
    for (row, cells) in array(&patch["top"]).iter().enumerate() {
        for (column, cell) in array(cells).iter().enumerate() {
            let probs = numbers(&patch["probs"][row][column]);
            assert_eq!(probs.len(), followed.len());
            for choice in array(cell) {
                assert!(known(&choice["id"]).is_some());
                if let Some(at) = followed.iter().position(|id| *id == choice["id"]) {
                    let prob = number(&choice["prob"]);
                    assert!((probs[at] - prob).abs() < 1e-3 * prob, "{prob} {probs:?}");
                }
            }
        }
    }
    for (top, key) in [("clean_top", "clean_prob"), ("corrupt_top", "corrupt_prob")] {
        for choice in array(&patch[top]) {
            if let Some(token) = known(&choice["id"]) {
                assert!((number(&token[key]) - number(&choice["prob"])).abs() < 1e-9);
            }
        }
    }
}

/// There is a warning if rounding can have caused the difference, and otherwise none.
#[test]
fn small_differences_of_a_quantized_model_are_doubted() {
    let words = ["was", "fl", "hung", "opened", "flew", "had"];
    let mut doubted = [0, 0];
    for (i, token) in words.iter().enumerate() {
        for against in &words[i + 1..] {
            let asked = ["--token", token, "--against", against];
            let at = ["--layers", "5", "--positions", "-1"];
            let patch = found(&[&["patch", PARK, CAVE][..], &asked, &at].concat());
            let difference = number(&patch["clean_value"]) - number(&patch["corrupt_value"]);
            let doubt = patch["doubt"].as_str();
            assert_eq!(doubt.is_some(), difference.abs() < 0.25, "{patch}");
            doubted[usize::from(doubt.is_some())] += 1;
            if let Some(doubt) = doubt {
                assert!(doubt.contains(&format!("{:.3} logits", difference.abs())));
            }
        }
    }
    assert!(doubted[0] > 0 && doubted[1] > 0, "{doubted:?}");
    // The same prompt twice has no shares.
    let same = found(&["patch", PARK, PARK, "--layers", "0", "--positions", "0"]);
    assert_eq!(same["doubt"], Value::Null);
}

#[test]
fn prompts_that_do_not_match_are_told() {
    let longer = "In the dark cave they saw the bat, and it";
    let patch = found(&["patch", PARK, longer]);
    let sentence = patch["unaligned"].as_str().unwrap();
    assert!(
        sentence.contains(
            r#"" park" of the clean prompt and " dark" " cave" of the corrupt one do not match"#
        ),
        "{sentence}"
    );
    assert_eq!(patch["positions"], json!([0, 1, 4, 5, 6, 7, 8, 9, 10]));
    let (said, code) = refusal(&["patch", PARK, longer, "--positions", "2"]);
    assert_eq!(code, 2);
    assert!(
        said.contains("position 2 has no counterpart in the clean prompt"),
        "{said}"
    );
    let (said, code) = refusal(&["patch", PARK, CAVE, "--positions", "10"]);
    assert_eq!(code, 2);
    assert!(
        said.contains("position 10 of a prompt with 10 tokens"),
        "{said}"
    );
    let (said, code) = refusal(&["patch", PARK]);
    assert_eq!(code, 2);
    assert!(
        said.contains("two prompts, a clean and a corrupt one, not 1"),
        "{said}"
    );
    // The same prompt twice: there is nothing to restore.
    let same = found(&["patch", PARK, PARK]);
    assert_eq!(same["recovered"][0][0], Value::Null);
    for row in same["values"].as_array().unwrap() {
        for value in numbers(row) {
            assert!(
                (value - number(&same["clean_value"])).abs() < ROUNDED,
                "{value}"
            );
        }
    }
    assert!(text(&["patch", PARK, PARK]).contains("there is no share to show"));
}

#[test]
fn noise_takes_the_place_of_a_prompt() {
    let noise = [
        "patch", PARK, "--noise", "2", "--noised", "park", "--seed", "1",
    ];
    let one = found(&noise);
    assert_eq!(
        one["noise"],
        json!({"scale": 2.0, "positions": [2], "seed": 1})
    );
    assert_eq!(one, found(&noise));
    let others = found(&[
        "patch", PARK, "--noise", "2", "--noised", "2", "--seed", "2",
    ]);
    assert_ne!(one["corrupt_value"], others["corrupt_value"]);
    let mean = found(&[&noise[..], &["--samples", "3"]].concat());
    assert_eq!(mean["pairs"].as_array().unwrap().len(), 3);
    assert_eq!(mean["pairs"][2]["noise"]["seed"], 3);
    assert!(number(&mean["interval"][0][2]) >= 0.0);
    for (arguments, said) in [
        (&["--noise", "2"][..], "--noised"),
        (&["--noise", "-1", "--noised", "2"], "above 0"),
        (&["--noise", "nan", "--noised", "2"], "above 0"),
        (
            &["--noise", "2", "--noised", "cave"],
            "\"cave\" is neither a text in the prompt",
        ),
    ] {
        let (error, code) = refusal(&[&["patch", PARK], arguments].concat());
        assert!(error.contains(said) && code == 2, "{error}");
    }
}

#[test]
fn many_pairs_have_a_mean() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pairs.jsonl");
    let line = |clean: &str, corrupt: &str| {
        json!({"clean": clean, "corrupt": corrupt, "token": "was", "against": "fl"}).to_string()
    };
    let at_match = "At the match they saw the bat, and it";
    std::fs::write(
        &file,
        [line(PARK, CAVE), String::new(), line(at_match, CAVE)].join("\n"),
    )
    .unwrap();
    let pairs = ["patch", "--pairs", file.to_str().unwrap()];
    let mean = found(&pairs);
    assert_eq!(
        keys(&mean),
        [
            "model",
            "what",
            "layers",
            "positions",
            "pieces",
            "recovered",
            "interval",
            "pairs",
            "alike",
            "complete"
        ]
    );
    let single = |clean| found(&["patch", clean, CAVE, "--token", "was", "--against", "fl"]);
    let (a, b) = (single(PARK), single(at_match));
    for layer in 0..6 {
        for column in 0..10 {
            let of = |map: &Value| number(&map["recovered"][layer][column]);
            assert!((of(&mean) - (of(&a) + of(&b)) / 2.0).abs() < 1e-6);
        }
    }
    // Prompts of other lengths meet at the end.
    let short = "They saw the bat, and it";
    std::fs::write(
        &file,
        [line(PARK, CAVE), line(short, "We saw the bat, and it")].join("\n"),
    )
    .unwrap();
    let (said, code) = refusal(&pairs);
    assert_eq!(code, 2);
    assert!(
        said.contains("pair 2 has 7 columns where the first has 10"),
        "{said}"
    );
    let ends = found(&[&pairs[..], &["--positions", "-2--1"]].concat());
    assert_eq!(ends["positions"], json!([-2, -1]));
    assert_eq!(ends["pairs"].as_array().unwrap().len(), 2);
    std::fs::write(&file, "{\"clean\": \"a\"}\n").unwrap();
    let (said, _) = refusal(&pairs);
    assert!(
        said.contains("line 1 of") && said.contains("missing field `corrupt`"),
        "{said}"
    );
    std::fs::write(&file, "\n").unwrap();
    let (said, code) = refusal(&pairs);
    assert!(said.contains("holds no pair") && code == 2, "{said}");
}
