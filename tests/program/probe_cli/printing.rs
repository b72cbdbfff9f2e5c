//! What the probes print, and the pages that they write.

use super::*;

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
