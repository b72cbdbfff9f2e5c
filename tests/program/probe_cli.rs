//! The probing commands on the command line: schemas, manners, pages.

use crate::support::asking::{self, array, keys, number, objects, said};
use crate::support::tiny_gguf;
use std::path::PathBuf;

use crate::support::tiny_gguf::Tiny;
use assert_cmd::Command;
use serde_json::Value;

struct Bench {
    dir: tempfile::TempDir,
    model: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("random.gguf");
        Tiny::default().write(&model);
        Bench { dir, model }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("modelve").unwrap();
        command.args(arguments).env("MODELVE_MODEL", &self.model);
        command
    }

    fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        objects(&mut self.command(arguments))
    }

    fn refusal(&self, arguments: &[&str]) -> (String, i32) {
        asking::refusal(&mut self.command(arguments))
    }
}

#[test]
fn next_has_an_object_per_prompt() {
    let bench = Bench::new();
    let found = bench.lines(&[
        "next",
        "the ball",
        "the cave",
        "-n",
        "3",
        "-c",
        "hit,cave hit",
        "--tree",
        "2x2",
        "--json",
    ]);
    assert_eq!(found.len(), 2);
    for (next, prompt) in found.iter().zip(["the ball", "the cave"]) {
        assert_eq!(next["prompt"], prompt);
        assert_eq!(next["top"].as_array().unwrap().len(), 3);
        assert_eq!(keys(&next["top"][0]), ["id", "piece", "prob", "logprob"]);
        let (prob, log) = (&next["top"][0]["prob"], &next["top"][0]["logprob"]);
        assert!((prob.as_f64().unwrap().ln() - log.as_f64().unwrap()).abs() < 1e-6);
        assert_eq!(next["candidates"][1]["text"], "cave hit");
        assert_eq!(next["candidates"][1]["ids"].as_array().unwrap().len(), 2);
        assert!(next["entropy_bits"].as_f64().unwrap() > 0.0);
        // After a token that ends the text there is no branch.
        let mut branches = next["tree"].as_array().unwrap().iter();
        let two = |branch: &Value| branch["branches"].as_array().is_some_and(|b| b.len() == 2);
        assert!(branches.any(two), "{}", next["tree"]);
    }
    assert!(found[0].get("moved").is_none());
    assert_eq!(found[1]["moved"].as_array().unwrap().len(), 3);
    let forced = bench.lines(&["next", "the", "--then", "ball", "-n", "3", "--json"]);
    assert_eq!(forced[0]["prompt"], "the ball");
    assert_eq!(forced[0]["top"], found[0]["top"]);
}

#[test]
fn score_judges_texts_files_and_standard_input_alike() {
    let bench = Bench::new();
    let text = "the ball hit the cave in the weather";
    let file = bench.dir.path().join("text");
    std::fs::write(&file, text).unwrap();
    let argument = bench.lines(&["score", text, "--json"]);
    let score = &argument[0];
    assert_eq!(score["tokens"][0]["logprob"], Value::Null);
    let tokens = score["tokens"].as_array().unwrap();
    let sum: f64 = tokens[1..]
        .iter()
        .map(|t| t["logprob"].as_f64().unwrap())
        .sum();
    assert!((sum - score["total_logprob"].as_f64().unwrap()).abs() < 1e-6);
    // What was expected instead is likelier, and is told only where it is another token.
    for token in &tokens[1..] {
        let instead = &token["instead"];
        match token["rank"].as_u64().unwrap() {
            1 => assert!(instead.is_null(), "{token}"),
            _ => assert!(
                instead["id"] != token["id"]
                    && instead["logprob"].as_f64() >= token["logprob"].as_f64(),
                "{token}"
            ),
        }
    }
    assert!(tokens[1..].iter().any(|token| !token["instead"].is_null()));
    for key in ["bits_per_token", "bits_per_byte", "perplexity"] {
        assert!(score[key].as_f64().unwrap() > 0.0);
    }
    assert_eq!(
        argument,
        bench.lines(&["score", "--file", file.to_str().unwrap(), "--json"])
    );
    let piped = bench
        .command(&["score", "--json"])
        .write_stdin(text)
        .assert()
        .success();
    let piped: Value = serde_json::from_slice(&piped.get_output().stdout).unwrap();
    assert_eq!(&piped, score);
    let piped = bench
        .command(&["score", "--file", "-", "--json"])
        .write_stdin(text)
        .assert()
        .success();
    let piped: Value = serde_json::from_slice(&piped.get_output().stdout).unwrap();
    assert_eq!(&piped, score);
    let shown = bench
        .command(&["score", text, "the ball"])
        .assert()
        .success();
    let shown = String::from_utf8(shown.get_output().stdout.clone()).unwrap();
    assert!(shown.starts_with(text), "{shown}");
    assert!(shown.contains("likeliest first"), "{shown}");
}

#[test]
fn lens_and_attention_have_their_schemas() {
    let bench = Bench::new();
    let lens = &bench.lines(&["lens", "the ball hit", "--json", "--token", "cave"])[0];
    assert_eq!(lens["n_layers"], 2);
    let n = lens["ids"].as_array().unwrap().len();
    assert_eq!(lens["cells"].as_array().unwrap().len(), 2 * n);
    let end = &lens["cells"][2 * n - 1];
    assert_eq!(
        (&end["layer"], &end["position"]),
        (&1.into(), &(n - 1).into())
    );
    assert!(end["kl_to_final"].as_f64().unwrap() < 1e-9);
    assert!(end["token_rank"].as_u64().unwrap() > 0);
    let next = &bench.lines(&["next", "the ball hit", "-n", "5", "--json"])[0];
    let (a, b) = (&end["top"][0], &next["top"][0]);
    assert_eq!(a["id"], b["id"]);
    assert!((a["logprob"].as_f64().unwrap() - b["logprob"].as_f64().unwrap()).abs() < 1e-2);

    let found = &bench.lines(&["attention", "the ball hit", "--layer", "0", "--json"])[0];
    assert_eq!((&found["layer"], &found["ids"]), (&0.into(), &lens["ids"]));
    assert_eq!(found["heads"].as_array().unwrap().len(), 4);
    for row in found["heads"][3]["weights"].as_array().unwrap() {
        let row: Vec<f64> = row
            .as_array()
            .unwrap()
            .iter()
            .map(|w| w.as_f64().unwrap())
            .collect();
        assert_eq!(row.len(), n);
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-4);
    }
}

#[test]
fn a_lens_tells_how_likely_each_layer_gives_the_answer() {
    let bench = Bench::new();
    let lens = &bench.lines(&["lens", "the ball hit", "--top", "400", "--json"])[0];
    for cell in array(&lens["cells"]) {
        let position = cell["position"].as_u64().unwrap() as usize;
        let answer = &lens["answers"][position]["id"];
        let listed = array(&cell["top"]).iter().find(|c| c["id"] == *answer);
        let logprob = number(&listed.unwrap()["logprob"]);
        assert!((number(&cell["answer_logprob"]) - logprob).abs() < 1e-5);
    }
}

#[test]
fn two_prompts_of_a_lens_follow_one_token() {
    let bench = Bench::new();
    let (a, b) = ("the ball hit", "the cave hit the bat");
    let both = bench.lines(&["lens", a, b, "--json"]);
    assert_eq!(both.len(), 2);
    assert_eq!(
        (&both[0]["prompt"], &both[1]["prompt"]),
        (&a.into(), &b.into())
    );
    let answer = &array(&both[0]["answers"]).last().unwrap()["id"];
    for lens in &both {
        assert_eq!(lens["token"]["id"], *answer);
        // Each is what it is alone.
        let id = answer.to_string();
        let alone = bench.lines(&[
            "lens",
            lens["prompt"].as_str().unwrap(),
            "--token",
            &id,
            "--json",
        ]);
        assert_eq!(alone[0]["cells"], lens["cells"]);
    }
    let shown = said(&mut bench.command(&["lens", a, b]));
    assert!(
        shown.contains(&format!("{a:?}")) && shown.contains(&format!("{b:?}")),
        "{shown}"
    );
    let page = bench.dir.path().join("two.html");
    bench.lines(&["lens", a, b, "--json", "--html", page.to_str().unwrap()]);
    assert!(
        std::fs::read_to_string(&page)
            .unwrap()
            .contains(r#"id="data">[{"prompt":"the ball hit""#)
    );
    let (said, code) = bench.refusal(&["lens", "a", "b", "c"]);
    assert!(
        code == 2 && said.contains("lens takes one prompt"),
        "{said}"
    );
}

/// The data of a page.
fn data(page: &std::path::Path) -> Value {
    let page = std::fs::read_to_string(page).unwrap();
    let (_, data) = page.split_once(r#"id="data">"#).unwrap();
    serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn a_page_of_attention_has_the_maps_of_all_layers() {
    let bench = Bench::new();
    let page = bench.dir.path().join("heads.html");
    let prompt = "the ball hit the bat";
    let whole = ["attention", prompt, "--html", page.to_str().unwrap()];
    bench.command(&whole).assert().success();
    let found = data(&page);
    assert_eq!(array(&found["maps"]).len(), 2);
    for (layer, heads) in array(&found["maps"]).iter().enumerate() {
        let name = layer.to_string();
        let alone = &bench.lines(&["attention", prompt, "--layer", &name, "--json"])[0];
        for (head, rows) in array(heads).iter().enumerate() {
            for (query, row) in array(rows).iter().enumerate() {
                assert_eq!(array(row).len(), query + 1);
                for (key, weight) in array(row).iter().enumerate() {
                    let weight = number(weight) / 1e5;
                    let exact = number(&alone["heads"][head]["weights"][query][key]);
                    assert!((weight - exact).abs() < 2e-5, "{weight} {exact}");
                }
            }
        }
    }
    // A layer or a head that was named stands alone, and so does a layer of a long prompt.
    let long = "the ball hit the bat and ".repeat(300);
    for arguments in [
        [&whole[..], &["--layer", "0"]].concat(),
        [&whole[..], &["--head", "1"]].concat(),
        vec!["attention", &long, "--html", page.to_str().unwrap()],
    ] {
        let told = bench.command(&arguments).output().unwrap();
        assert!(told.status.success());
        let said = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(data(&page).get("maps").is_none());
        assert_eq!(
            said.contains("those of all layers would make it"),
            arguments[1] == long,
            "{said}"
        );
    }
}

#[test]
fn prompts_side_by_side_tell_the_same_tokens() {
    let bench = Bench::new();
    let (a, b) = ("the ball hit the bat and", "the cave");
    let both = bench.lines(&["next", a, b, "-n", "4", "--json"]);
    let all = |next: &Value| {
        let own = array(&next["top"]).iter();
        let mut all: Vec<u64> = own
            .chain(next["beside"].as_array().into_iter().flatten())
            .map(|c| c["id"].as_u64().unwrap())
            .collect();
        all.sort_unstable();
        all
    };
    assert_eq!(all(&both[0]), all(&both[1]));
    let alone = &bench.lines(&["next", b, "-n", "400", "--json"])[0];
    assert!(alone.get("beside").is_none());
    for choice in both[1]["beside"].as_array().into_iter().flatten() {
        let same = array(&alone["top"])
            .iter()
            .find(|c| c["id"] == choice["id"]);
        assert!((number(&same.unwrap()["prob"]) - number(&choice["prob"])).abs() < 1e-6);
    }
}

#[test]
fn the_overview_names_the_heads_that_stand_out() {
    let bench = Bench::new();
    let text = "the ball hit the bat and";
    let found = &bench.lines(&["attention", text, "--json"])[0];
    let mut best = (0, 0, 0.0);
    for layer in found["overview"].as_array().unwrap() {
        for (head, habits) in layer["heads"].as_array().unwrap().iter().enumerate() {
            let weight = habits["to_previous"].as_f64().unwrap();
            if weight > best.2 {
                best = (layer["layer"].as_u64().unwrap(), head, weight);
            }
        }
    }
    let shown = bench.command(&["attention", text]).assert().success();
    let shown = String::from_utf8(shown.get_output().stdout.clone()).unwrap();
    let (layer, head, _) = best;
    let line = format!("most on the token before: layer {layer}, head {head},");
    assert!(shown.contains(&line), "{shown}{line}");
    // Two layers, three measures, a block for each of four heads.
    let blocks = shown.chars().filter(|c| ('▁'..='█').contains(c)).count();
    assert_eq!(blocks, 2 * 3 * 4, "{shown}");
}

#[test]
fn compare_needs_two_files_and_no_text() {
    let bench = Bench::new();
    let other = bench.dir.path().join("other.gguf");
    let seed = 2;
    Tiny {
        seed,
        ..Tiny::default()
    }
    .write(&other);
    let (a, b) = (bench.model.to_str().unwrap(), other.to_str().unwrap());
    let found = &bench.lines(&["compare", a, b, "-n", "60", "--json", "--swap", "2"])[0];
    assert_eq!(
        (&found["a"], &found["b"], &found["n_tokens"]),
        (&a.into(), &b.into(), &59.into())
    );
    assert!(found["kl_mean"].as_f64().unwrap() > found["kl_error"].as_f64().unwrap());
    assert!((0.0..1.0).contains(&found["same_top"].as_f64().unwrap()));
    assert_eq!(found["worst"].as_array().unwrap().len(), 10);
    assert!(
        found["tensors"][0]["error"].as_f64().unwrap() > 1.0,
        "other random weights"
    );
    assert_eq!(found["swap"].as_array().unwrap().len(), 2);
    assert_eq!(
        bench
            .lines(&["compare", a, b, a, "-n", "20", "--json"])
            .len(),
        2
    );
    assert_eq!(bench.refusal(&["compare", a]).1, 2);
}

#[test]
fn a_swap_does_not_depend_on_the_windows() {
    // Windows beyond 256 tokens take this model's long RoPE factors, the short text of a swap
    // does not: a session of another size would measure that difference too.
    let bench = Bench::new();
    let other = bench.dir.path().join("other.gguf");
    let mut parts = Tiny::default().parts();
    let (_, _, _, data) = parts
        .tensors
        .iter_mut()
        .find(|tensor| tensor.0 == "blk.0.ffn_up.weight")
        .unwrap();
    for weight in data.chunks_exact_mut(4) {
        let bytes: [u8; 4] = (&*weight).try_into().unwrap();
        weight.copy_from_slice(&(f32::from_le_bytes(bytes) * 1.1).to_le_bytes());
    }
    parts.write(&other);
    let (a, b) = (bench.model.to_str().unwrap(), other.to_str().unwrap());
    let exact = [
        "--kv-type",
        "f32",
        "--flash-attn",
        "off",
        "--greedy",
        "0",
        "--json",
    ];
    let run = |more: &[&str]| {
        bench
            .lines(&[&["compare", a, b], more, &exact].concat())
            .remove(0)
    };
    let whole = run(&["-n", "129"]);
    let swap = run(&["-n", "600", "--window", "512", "--swap"]);
    assert_eq!(swap["swap"][0]["name"], "blk.0.ffn_up.weight");
    let of = |value: &Value| value["kl_mean"].as_f64().unwrap();
    let (one, all) = (of(&swap["swap"][0]), of(&whole));
    assert!((one - all).abs() < 1e-3 * all, "{one} {all}");
}

#[test]
fn a_prompt_says_the_same_beside_a_longer_one() {
    // Beyond 256 tokens this model takes its long RoPE factors.
    let bench = Bench::new();
    let long = "the ball hit the bat and ".repeat(60);
    let exact = ["--kv-type", "f32", "--flash-attn", "off", "--json"];
    let short = "the ball hit the cave";
    let ask = |texts: &[&str], command: &str| {
        let found = bench.lines(&[&[command], texts, &exact].concat());
        assert_eq!(found.len(), texts.len());
        found
    };
    let (alone, beside) = (ask(&[short], "next"), ask(&[&long, short], "next"));
    assert!(beside[0]["ids"].as_array().unwrap().len() > 256);
    assert_eq!(alone[0]["top"], beside[1]["top"]);
    let score = |texts: &[&str]| {
        let window = ["--window", "300"];
        bench.lines(&[&["score"], texts, &window, &exact].concat())
    };
    assert_eq!(
        score(&[short])[0]["tokens"],
        score(&[&long, short])[1]["tokens"]
    );
}

#[test]
fn a_smaller_context_makes_smaller_windows() {
    let bench = Bench::new();
    let text = "the ball hit the bat and ".repeat(20);
    let found = &bench.lines(&["score", &text, "--ctx-size", "32", "--json"])[0];
    assert_eq!(found["windows"]["size"], 32);
    assert!(found["n_scored"].as_u64().unwrap() > 64);
}

#[test]
fn refusals_are_clear() {
    let bench = Bench::new();
    let small = bench.dir.path().join("small.gguf");
    let mut parts = Tiny::default().parts();
    let (mut texts, _, _) = tiny_gguf::vocabulary();
    texts[300] = "something else".to_owned();
    parts.set(
        "tokenizer.ggml.tokens",
        modelve::gguf::Value::Array(texts.iter().collect()),
    );
    parts.write(&small);
    let (a, b) = (bench.model.to_str().unwrap(), small.to_str().unwrap());
    let cases: [(&[&str], &str, i32); 16] = [
        (
            &["attention", "the ball", "--kv-type", "q8_0"],
            "a quantized KV cache needs fused attention",
            2,
        ),
        (&["score", "t"], "a single token", 2),
        (
            &["attention", "the ball", "--head", "9"],
            "head 9 of a layer with 4",
            2,
        ),
        (&["lens", "the", "--positions", "7"], "position 7 of 1", 2),
        (&["next", ""], "the prompt is empty", 2),
        (&["lens", ""], "the prompt is empty", 2),
        (&["score", ""], "text 1 is empty", 2),
        (
            &["score", "the", "--window", "8", "--stride", "8"],
            "stride",
            2,
        ),
        (
            &["next", "the", "--candidates", "ball,,hit"],
            "candidate 2 is empty",
            2,
        ),
        (
            &["next", "the", "--then", "ball cave"],
            "is not one token but",
            2,
        ),
        (
            &["next", "the", "--then", "123456"],
            "token 123456 is outside the vocabulary",
            2,
        ),
        (&["next", "the", "--tree", "20x9"], "nodes", 2),
        (
            &["lens", "the ball", "--layers", "99"],
            "layer 99 of 2, which are 0 to 1",
            2,
        ),
        (
            &["attention", "the ball", "--layer", "99"],
            "layer 99 of 2, which are 0 to 1",
            2,
        ),
        (
            &["attention", "the ball", "--flash-attn", "on"],
            "fused attention keeps no weights",
            2,
        ),
        (
            &["compare", a, b],
            "have different vocabularies: token 300",
            1,
        ),
    ];
    for (arguments, expected, code) in cases {
        let (said, got) = bench.refusal(arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert_eq!(got, code, "{arguments:?}: {said}");
    }
}

#[test]
fn pages_hold_the_data_and_come_whole() {
    let bench = Bench::new();
    let model = bench.model.to_str().unwrap();
    let calls: [&[&str]; 5] = [
        &["next", "the ball </script>"],
        &["score", "the ball"],
        &["lens", "the ball"],
        &["attention", "the ball"],
        &["compare", model, model, "-n", "9"],
    ];
    for call in calls {
        let page = bench.dir.path().join("page.html");
        let html = ["--html", page.to_str().unwrap()];
        let shown = bench.lines(&[call, &html, &["--json"]].concat());
        let text = std::fs::read_to_string(&page).unwrap();
        let mut data = data(&page);
        // The maps of all layers are more than JSON is asked for.
        let maps = data.as_object_mut().and_then(|data| data.remove("maps"));
        assert_eq!(maps.is_some(), call[0] == "attention");
        let expected = match call[0] {
            "lens" | "attention" => shown[0].clone(),
            _ => Value::Array(shown),
        };
        assert_eq!(data, expected);
        assert!(text.ends_with("</html>\n"));
    }
    let nowhere = bench.dir.path().join("no/such/page.html");
    let (said, _) = bench.refusal(&["next", "the ball", "--html", nowhere.to_str().unwrap()]);
    assert!(said.contains("cannot write"), "{said}");
}

/// What a command prints as text.
fn text(bench: &Bench, arguments: &[&str]) -> String {
    let out = bench.command(arguments).assert().success();
    String::from_utf8(out.get_output().stdout.clone()).unwrap()
}

#[test]
fn columns_of_the_lens_do_not_touch() {
    let bench = Bench::new();
    let deep = bench.dir.path().join("deep.gguf");
    Tiny {
        layers: 12,
        ..Tiny::default()
    }
    .write(&deep);
    let shown = text(
        &bench,
        &[
            "lens",
            "the ball hit the cave",
            "-m",
            deep.to_str().unwrap(),
        ],
    );
    let rows = shown.lines().filter(|line| line.starts_with("layer "));
    let rows: Vec<&str> = rows.collect();
    assert_eq!(rows.len(), 12, "{shown}");
    for row in rows {
        let rest = row["layer ".len()..].trim_start_matches(|c: char| c.is_ascii_digit());
        assert!(rest.starts_with("  "), "{row}");
        // A cell ends before the next begins.
        assert!(!row.contains("\"\""), "{row}");
    }
    let header = shown.lines().next().unwrap();
    assert!(header.starts_with("token     "), "{header}");
}

#[test]
fn headings_are_cut_where_they_agree() {
    let bench = Bench::new();
    let end = "the ball hit the bat and the ball hit the bat and the ball hit the bat";
    let (a, b) = (format!("in the park {end}"), format!("in the cave {end}"));
    let shown = text(&bench, &["next", &a, &b, "-n", "1"]);
    let title = shown.lines().next().unwrap();
    assert!(title.contains("park") && title.contains("cave"), "{shown}");
    assert!(title.contains('…') && !title.contains(&a), "{shown}");
    let shown = text(&bench, &["score", &a, &b]);
    let ranking = shown.split("likeliest first").nth(1).unwrap();
    assert!(
        ranking.contains("park") && ranking.contains("cave"),
        "{shown}"
    );
    // Files of one name in two folders.
    for folder in ["old", "new"] {
        std::fs::create_dir(bench.dir.path().join(folder)).unwrap();
        let copy = bench.dir.path().join(folder).join("it.gguf");
        std::fs::copy(&bench.model, copy).unwrap();
    }
    let path = |folder: &str| {
        let path = bench.dir.path().join(folder).join("it.gguf");
        path.to_str().unwrap().to_owned()
    };
    let (old, new) = (path("old"), path("new"));
    let shown = text(
        &bench,
        &["compare", &old, &new, "-n", "20", "--greedy", "2"],
    );
    assert!(
        shown.contains("old/it.gguf") && shown.contains("new/it.gguf"),
        "{shown}"
    );
}

#[test]
fn a_page_takes_the_place_of_text() {
    let bench = Bench::new();
    let page = bench.dir.path().join("page.html");
    for command in ["next", "score", "lens", "attention"] {
        let html = [command, "the ball hit", "--html", page.to_str().unwrap()];
        let out = bench.command(&html).assert().success();
        let out = out.get_output();
        assert!(out.stdout.is_empty(), "{command}");
        let said = String::from_utf8(out.stderr.clone()).unwrap();
        assert!(
            said.contains("wrote ") && said.contains("page.html"),
            "{said}"
        );
    }
    // Another file stays, unless it is said that it may go; one that is read stays always.
    let notes = bench.dir.path().join("notes");
    std::fs::write(&notes, "the ball hit").unwrap();
    let notes = notes.to_str().unwrap();
    bench.refusal(&["next", "the", "--html", notes]);
    let (said, _) = bench.refusal(&["score", "-f", notes, "--html", notes, "--force"]);
    assert!(said.contains("is read by this command"), "{said}");
    text(&bench, &["next", "the", "--html", notes, "--force"]);
    let written = std::fs::read_to_string(notes).unwrap();
    assert!(written.ends_with("</html>\n"));
}

#[test]
fn one_layer_is_named_as_several_are() {
    let bench = Bench::new();
    let layer = |flags: &[&str]| {
        let found = bench.lines(&[&["attention", "the ball", "--json"], flags].concat());
        found[0]["layer"].as_u64().unwrap()
    };
    assert_eq!(layer(&["--layer", "-1"]), 1);
    assert_eq!((layer(&["--layers", "0"]), layer(&["-l", "0"])), (0, 0));
    let (said, code) = bench.refusal(&["attention", "the ball", "--layer", "0-1"]);
    assert!(said.contains("attention shows one layer, not 2"), "{said}");
    assert_eq!(code, 2);
    let cells = |flags: &[&str]| {
        let found = bench.lines(&[&["lens", "the ball", "--json"], flags].concat());
        found[0]["cells"].as_array().unwrap().len()
    };
    assert_eq!(cells(&["--layer", "-1"]), cells(&["--layers", "1"]));
}

#[test]
fn bytes_that_are_no_characters_look_the_same_everywhere() {
    let bench = Bench::new();
    // Tokens 3 + 0xc3 and 3 + 0xa9 spell a letter.
    let (one, two) = ((3 + 0xc3).to_string(), (3 + 0xa9).to_string());
    let then = ["next", "the", "--then", &one, "--then", &two, "-n", "1"];
    assert!(text(&bench, &then).starts_with("theé _"));
    let shown = text(&bench, &["score", "☃", "--tokens"]);
    assert!(
        shown.contains("\"\\xe2\"") && shown.contains("\"\\x98\""),
        "{shown}"
    );
    let shown = text(&bench, &["lens", "☃", "--positions", "-1"]);
    assert!(
        !shown.contains("<0x") && !shown.contains("\\\\x"),
        "{shown}"
    );
}
