//! Answers of the Hub's API that are long, slow, paged or false.

use super::*;

#[test]
fn a_listing_in_pages_is_read_to_its_end() {
    let bench = Bench::new();
    bench.server.pages(REPO, 3, None);
    bench.check(&bench.fetch());
    let pages = |r: &hub_server::Request| r.path.contains("/tree/");
    assert_eq!(
        bench.server.requests().iter().filter(|r| pages(r)).count(),
        3
    );
}

#[test]
fn pages_on_another_host_are_asked_of_the_hub_itself() {
    let mut bench = Bench::new();
    bench.options.token = Some("hf_secret".into());
    let other = bench.server.other();
    bench.server.pages(REPO, 2, Some(&other));
    bench.check(&bench.fetch());
    for request in bench.server.requests() {
        assert!(
            !request.cdn || request.path.starts_with("/cdn/"),
            "{request:?}"
        );
        assert_eq!(request.header("authorization").is_some(), !request.cdn);
    }
}

#[test]
fn a_listing_whose_pages_do_not_end_does() {
    let bench = Bench::new();
    let page = Fault::Body(
        "[]".to_owned(),
        vec![("Link", "</again?cursor=1>; rel=\"next\"".to_owned())],
    );
    bench.server.fault("GET", "/tree/", u32::MAX, page);
    let error = bench.fail();
    assert!(
        error.to_string().contains("more than 1000 pages"),
        "{error}"
    );
}

#[test]
fn an_answer_without_end_is_cut_off() {
    for path in ["/api/models/org/phi?", "/tree/"] {
        let bench = Bench::new();
        bench.server.fault("GET", path, 9, Fault::Endless);
        let error = bench.fail();
        assert!(error.to_string().contains("it is longer than"), "{error}");
    }
    // Suggestions are optional: without them the error is the same.
    let bench = Bench::new();
    bench.server.fault("GET", "/api/models?", 9, Fault::Endless);
    let error = bench.try_fetch("org/phj", Wanted::Any).unwrap_err();
    assert!(matches!(error, Error::NoSuchRepo { .. }), "{error:?}");
}

#[test]
fn an_answer_of_a_byte_now_and_then_is_given_up() {
    for path in ["/api/models/org/phi?", "/tree/"] {
        let mut bench = Bench::new();
        bench.options.answer_time = Duration::from_millis(700);
        let slow = Fault::Slow(1, Duration::from_millis(50));
        bench.server.fault("GET", path, 9, slow);
        let error = bench.fail();
        assert!(matches!(error, Error::TooSlow { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("--offline"));
    }
}

#[test]
fn a_file_of_a_byte_now_and_then_is_given_up_and_kept() {
    let mut bench = Bench::new();
    bench.options.answer_time = Duration::from_millis(700);
    bench.options.attempts = 2;
    let slow = Fault::Slow(1, Duration::from_millis(50));
    bench.server.spoil("model-0000", 99, slow);
    let error = bench.fail();
    assert!(matches!(error, Error::TooSlow { .. }), "{error:?}");
    // The bytes received are kept for the next attempt.
    assert!(bench.parts().iter().any(|(_, len)| *len > 0));
}

#[test]
fn what_is_here_is_used_when_answers_do_not_end() {
    let mut bench = Bench::new();
    bench.fetch();
    bench.options.answer_time = Duration::from_millis(700);
    let slow = Fault::Slow(1, Duration::from_millis(50));
    bench.server.fault("GET", "/tree/", 9, slow);
    assert_eq!(bench.fetch().received, 0);
    assert!(bench.told.notes().contains("using commit c0ffee00c0ff"));
}

#[test]
fn impossible_sizes_are_refused() {
    let entry = |name: &str, size: &str| {
        format!(
            r#"{{"type":"file","path":"{name}","size":{size},"lfs":{{"oid":"{}"}}}}"#,
            "ab".repeat(32)
        )
    };
    for (sizes, said) in [
        (["1", "18446744073709551615"], "impossible sizes"),
        (["-1", "1"], "no JSON as expected"),
        (["18446744073709551616", "1"], "no JSON as expected"),
        (["300000000", "1"], "config.json with 286 MiB"),
        (["null", "1"], "without a size"),
        (["1e30", "1"], "no JSON as expected"),
    ] {
        let bench = Bench::new();
        let [config, weights] = sizes;
        let listing = format!(
            "[{},{}]",
            entry("config.json", config),
            entry("model.safetensors", weights)
        );
        let listing = Fault::Body(listing, Vec::new());
        bench.server.fault("GET", "/tree/", 9, listing);
        let error = bench.fail();
        assert!(matches!(error, Error::Malformed { .. }), "{error:?}");
        assert!(error.to_string().contains(said), "{sizes:?}: {error}");
    }
}

#[test]
fn a_hash_in_the_listing_needs_no_question_about_the_file() {
    let bench = Bench::new();
    // A mirror that states nothing about a file, but sends it.
    bench
        .server
        .fault("HEAD", "", 99, Fault::Status(200, vec![]));
    bench.check(&bench.fetch());
    assert!(bench.server.requests().iter().all(|r| r.method == "GET"));

    let bench = Bench::new();
    bench.server.hide_hashes(REPO);
    bench.check(&bench.fetch());
    assert!(bench.server.requests().iter().any(|r| r.method == "HEAD"));
}

#[test]
fn a_page_of_a_network_that_wants_a_login_is_called_that() {
    let bench = Bench::new();
    let page = Fault::Body("\n<!doctype html>".to_owned(), Vec::new());
    bench.server.fault("GET", "/api/", 9, page);
    let error = bench.fail();
    assert!(
        error.to_string().contains("a web page where JSON"),
        "{error}"
    );
}

#[test]
fn the_name_that_the_hub_gives_is_taken_only_if_it_is_one() {
    for (said, taken) in [
        ("Org/Phi", "Org/Phi"),
        ("../../x", REPO),
        ("a b/\\u001b[2J", REPO),
    ] {
        let bench = Bench::new();
        let info = format!(r#"{{"id":"{said}","sha":"{COMMIT}"}}"#);
        let info = Fault::Body(info, Vec::new());
        bench.server.fault("GET", "/api/models/org/phi?", 1, info);
        assert_eq!(bench.fetch().repo, taken);
    }
}

#[test]
fn a_token_that_no_header_takes_is_called_that() {
    let mut bench = Bench::new();
    bench.options.token = Some("hf_a\nX: y".into());
    let error = bench.fail().to_string();
    assert!(error.contains("the token holds characters"), "{error}");
    assert!(!error.contains("hf_a"), "{error}");
    assert!(bench.server.requests().is_empty());
}

#[test]
fn a_very_large_listing_takes_no_very_long_time() {
    let bench = Bench::new();
    let rows: Vec<String> = (0..100_000)
        .map(|n| format!(r#"{{"type":"file","path":"m{n}-Q8_0.gguf","size":1}}"#))
        .collect();
    let listing = Fault::Body(format!("[{}]", rows.join(",")), Vec::new());
    bench.server.fault("GET", "/tree/", 1, listing);
    let error = bench.try_fetch(REPO, Wanted::Gguf).unwrap_err().to_string();
    assert!(error.ends_with("m10006-Q8_0, 99988 more"), "{error}");
}
