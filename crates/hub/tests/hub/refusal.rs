//! Answers of a Hub that are errors, and the servers that the token is sent to.

use super::*;

#[test]
fn errors_that_pass_are_tried_again() {
    for (method, path) in [
        ("GET", "/api/models/org/phi?"),
        ("GET", "/tree/"),
        ("HEAD", SHARD_1),
        ("GET", "/resolve/"),
        ("GET", "/cdn/"),
    ] {
        for status in [500, 503, 429] {
            let bench = Bench::new();
            bench
                .server
                .hide_hashes(REPO)
                .fault(method, path, 2, Fault::Status(status, vec![]));
            bench.check(&bench.fetch());
            let notes = bench.told.notes();
            assert!(
                notes.contains(&format!("answers {status}")),
                "{method} {path}: {notes}"
            );
        }
    }
    // An expired signature is refused by the storage server; the next redirect has a new one.
    let bench = Bench::new();
    bench.server.spoil(SHARD_1, 1, Fault::Status(403, vec![]));
    bench.check(&bench.fetch());
}

#[test]
fn errors_that_do_not_pass_end_the_fetch() {
    let bench = Bench::new();
    bench.server.spoil(SHARD_1, 99, Fault::Status(502, vec![]));
    let error = bench.fail();
    assert!(
        matches!(error, Error::Server { status: 502, .. }),
        "{error:?}"
    );
    assert_eq!(bench.server.ranges(SHARD_1).len(), 4);
}

#[test]
fn a_server_that_says_when_is_asked_then() {
    let bench = Bench::new();
    let wait = || Fault::Status(429, vec![("Retry-After", "1".into())]);
    bench.server.fault("GET", "/api/models/org/phi?", 1, wait());
    bench.server.spoil(SHARD_2, 1, wait());
    let start = Instant::now();
    bench.check(&bench.fetch());
    assert!(
        start.elapsed() >= Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    assert!(bench.told.notes().contains("trying again in 1.0 s"));
}

#[test]
fn a_repository_that_is_not_there_comes_with_suggestions() {
    let bench = Bench::new();
    bench
        .server
        .repo("microsoft/Phi-3-mini-128k-instruct")
        .repo("microsoft/phi-1");
    for token in [None, Some("hf_x".to_owned())] {
        let mut options = bench.options.clone();
        options.token = token;
        let id: HubId = "microsoft/Phi-3-mini-128k-instrct@v1".parse().unwrap();
        let error = fetch(&id, Wanted::Any, &options, &bench.told, &bench.told.cancel).unwrap_err();
        assert!(
            error.to_string().starts_with("no such model on 127.0.0.1:"),
            "{error}"
        );
        assert_eq!(
            error.hint().unwrap(),
            "did you mean microsoft/Phi-3-mini-128k-instruct?",
        );
    }
}

#[test]
fn a_revision_or_file_that_is_not_there_is_named() {
    let bench = Bench::new();
    let error = bench
        .try_fetch("org/phi@v9", Wanted::Checkpoint)
        .unwrap_err();
    assert_eq!(error.to_string(), "org/phi has no revision `v9`");

    bench.server.hide_hashes(REPO).fault(
        "HEAD",
        SHARD_1,
        9,
        Fault::Status(404, vec![("X-Error-Code", "EntryNotFound".into())]),
    );
    let error = bench.fail();
    assert!(
        matches!(&error, Error::NoSuchFile { file, .. } if file == SHARD_1),
        "{error:?}"
    );
}

#[test]
fn what_may_not_be_had_says_why_and_what_to_do() {
    let bench = Bench::new();
    bench.server.gate(REPO);
    let hint = bench.fail().hint().unwrap();
    let page = format!("{}/org/phi", bench.server.endpoint());
    assert_eq!(
        hint,
        format!("accept the licence at {page} and set HF_TOKEN")
    );

    let mut bench = Bench::new();
    bench.options.token = Some("hf_old".into());
    let refuse = Fault::Status(401, vec![]);
    bench
        .server
        .fault("GET", "/api/models/org/phi", 9, refuse.clone());
    assert_eq!(
        bench.fail().to_string(),
        "the Hub refuses org/phi: the token is not valid"
    );

    // Without a token, the Hub answers 401 for private repositories and for those that do not
    // exist.
    let bench = Bench::new();
    if bench.options.token.is_none() && std::env::var_os("HF_TOKEN").is_none() {
        bench
            .server
            .fault("GET", "/api/models/org/phi", 9, refuse.clone());
        let error = bench.fail();
        assert!(matches!(error, Error::NoSuchRepo { .. }), "{error:?}");
    }
    let bench = Bench::new();
    bench.server.fault("GET", SHARD_1, 9, refuse);
    let error = bench.fail();
    assert_eq!(
        error.to_string(),
        "the Hub refuses org/phi: it needs a token"
    );
    assert!(error.hint().unwrap().contains("HF_TOKEN"));

    let bench = Bench::new();
    bench
        .server
        .fault("GET", "/tree/", 9, Fault::Status(403, vec![]));
    let error = bench.fail();
    assert!(matches!(error, Error::Forbidden { .. }), "{error:?}");
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let mut bench = Bench::new();
    bench.server.private(REPO, "hf_secret");
    assert!(matches!(bench.fail(), Error::NoSuchRepo { .. }));
    bench.options.token = Some("hf_secret".into());
    bench.server.requests();
    bench.check(&bench.fetch());
    let requests = bench.server.requests();
    assert!(requests.iter().any(|r| r.cdn));
    for request in requests {
        let sent = request.header("authorization");
        let expected = if request.cdn {
            None
        } else {
            Some("Bearer hf_secret")
        };
        assert_eq!(sent, expected, "{} {}", request.method, request.path);
    }
}

#[test]
fn redirects_on_the_hub_itself_are_followed_with_the_token() {
    let mut bench = Bench::new();
    bench.server.hide_hashes(REPO);
    bench.options.token = Some("hf_secret".into());
    let to = |file: &str| {
        let location = format!("/org/phi/resolve/main/{file}");
        Fault::Status(307, vec![("Location", location)])
    };
    bench.server.fault(
        "GET",
        &format!("{COMMIT}/config.json"),
        1,
        to("config.json"),
    );
    bench
        .server
        .fault("HEAD", &format!("{COMMIT}/{SHARD_1}"), 1, to(SHARD_1));
    bench.check(&bench.fetch());
    let requests = bench.server.requests();
    let followed: Vec<_> = requests
        .iter()
        .filter(|r| r.path.contains("/main/"))
        .collect();
    assert_eq!(followed.len(), 2);
    assert!(
        followed
            .iter()
            .all(|r| r.header("authorization") == Some("Bearer hf_secret"))
    );
}

#[test]
fn a_redirect_that_never_ends_does() {
    let bench = Bench::new();
    let around = Fault::Status(
        302,
        vec![("Location", "/org/phi/resolve/main/config.json".into())],
    );
    bench.server.fault("GET", "config.json", 999, around);
    let error = bench.fail();
    assert!(error.to_string().contains("too many redirects"), "{error}");
}

#[test]
fn answers_that_make_no_sense_are_refused() {
    let bench = Bench::new();
    bench.server.commit(REPO, "../../etc");
    let error = bench.fail();
    assert!(matches!(error, Error::Malformed { .. }), "{error:?}");

    let bench = Bench::new();
    bench.server.hide_hashes(REPO).fault(
        "HEAD",
        SHARD_1,
        9,
        Fault::Status(200, vec![("ETag", "\"../x\"".into())]),
    );
    let error = bench.fail();
    assert!(matches!(error, Error::NoChecksum { .. }), "{error:?}");

    let bench = Bench::new();
    let size = Fault::Status(
        302,
        vec![
            ("X-Linked-ETag", "ab".repeat(32)),
            ("X-Linked-Size", "12".into()),
        ],
    );
    bench
        .server
        .hide_hashes(REPO)
        .fault("HEAD", SHARD_1, 9, size);
    let error = bench.fail();
    assert!(
        matches!(error, Error::WrongLength { got: 12, .. }),
        "{error:?}"
    );
}
