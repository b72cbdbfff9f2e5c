//! `lens` and `attention`, and prompts beside each other.

use super::*;

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
        code == 2 && said.contains("lens takes one prompt or two, not 3"),
        "{said}"
    );
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
    let line = format!("most on the previous token: layer {layer}, head {head},");
    assert!(shown.contains(&line), "{shown}{line}");
    // Two layers, three measures, a block for each of four heads.
    let blocks = shown.chars().filter(|c| ('▁'..='█').contains(c)).count();
    assert_eq!(blocks, 2 * 3 * 4, "{shown}");
}
