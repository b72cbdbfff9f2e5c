//! Who may ask, and what is read of those who may.

use super::*;

#[test]
fn a_key_is_asked_for_where_there_is_one() {
    let server = Server::of(&["-m", "tiny", "--api-key", "secret", "--api-key", "other"]);
    let with = |headers: &[(&str, &str)]| server.ask("GET", "/v1/models", headers, b"").status;
    assert_eq!(with(&[]), 401);
    assert_eq!(with(&[("Authorization", "Bearer wrong")]), 401);
    assert_eq!(with(&[("Authorization", "Bearer secret")]), 200);
    assert_eq!(with(&[("X-Api-Key", "other")]), 200);
    // With a key the name under which it is asked does not matter.
    assert_eq!(
        with(&[
            ("Authorization", "Bearer secret"),
            ("Host", "models.example")
        ]),
        200
    );
    let refused = server.get("/v1/models");
    assert_eq!(refused.header("www-authenticate"), "Bearer");
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
    assert_eq!(server.get("/health").status, 200);
    for path in ["/metrics", "/slots", "/props", "/openapi.json", "/nowhere"] {
        assert_eq!(server.get(path).status, 401, "{path}");
    }
}

#[test]
fn the_key_may_be_in_the_environment() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modelve"));
    command
        .args(["serve", "-m", "tiny", "--port", "0"])
        .env("MODELVE_API_KEY", "from-there");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = lines.next().unwrap().unwrap();
    let said = lines.next().unwrap().unwrap();
    let address: SocketAddr = address.rsplit('/').next().unwrap().parse().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /slots HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(all.starts_with("HTTP/1.1 401"), "{all}");
    assert!(!said.contains("from-there"), "{said}");
}

#[test]
fn pages_of_the_web_are_kept_out() {
    let server = Server::tiny();
    let ask =
        |headers: &[(&str, &str)]| server.ask("POST", "/tokenize", headers, br#"{"content": "a"}"#);
    let own = format!("http://{}", server.address);
    assert_eq!(ask(&[("Origin", &own)]).status, 200);
    for origin in ["https://evil.example", "null", "http://127.0.0.1:1"] {
        let answer = ask(&[("Origin", origin)]);
        assert_eq!(answer.status, 403, "{origin}");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    // A page whose name was made to mean this machine.
    assert_eq!(ask(&[("Host", "evil.example")]).status, 403);
    assert_eq!(ask(&[("Sec-Fetch-Site", "cross-site")]).status, 403);
    assert_eq!(
        server
            .ask(
                "OPTIONS",
                "/tokenize",
                &[("Origin", "https://evil.example")],
                b""
            )
            .status,
        403
    );
    let open = Server::of(&[
        "-m",
        "tiny",
        "--allow-origin",
        "https://ui.example",
        "--allow-host",
        "box.lan",
    ]);
    let headers = [("Origin", "https://ui.example"), ("Host", "box.lan:8080")];
    let preflight = open.ask("OPTIONS", "/v1/completions", &headers, b"");
    assert_eq!(preflight.status, 204);
    assert_eq!(
        preflight.header("access-control-allow-origin"),
        "https://ui.example"
    );
    assert!(
        preflight
            .header("access-control-allow-headers")
            .contains("Authorization")
    );
    let answer = open.ask("POST", "/tokenize", &headers, br#"{"content": "a"}"#);
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, "https://ui.example")
    );
}

#[test]
fn bodies_that_are_no_requests_are_refused() {
    let server = Server::tiny();
    for (body, said) in [
        (&b""[..], "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"\xff\xfe", "not JSON"),
        (b"{\"prompt\": \"\xff\"}", "not JSON"),
        (b"prompt=a", "not JSON"),
        (&b"[".repeat(100_000), "not JSON"),
    ] {
        let answer = server.ask("POST", "/v1/completions", &[], body);
        assert_eq!(answer.status, 400);
        assert!(
            answer.json()["error"]["message"]
                .as_str()
                .unwrap()
                .contains(said),
            "{}",
            answer.text()
        );
    }
    // Whatever a body calls itself.
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let body = br#"{"prompt": "a", "max_tokens": 1}"#;
    assert_eq!(
        server.ask("POST", "/v1/completions", &form, body).status,
        200
    );
    let long = vec![b' '; 33 << 20];
    assert_eq!(
        server.ask("POST", "/v1/completions", &[], &long).status,
        413
    );
}

#[test]
fn what_is_no_http_ends_the_connection_and_nothing_else() {
    let server = Server::tiny();
    let host = format!("Host: {}\r\n", server.address);
    let huge = format!(
        "GET /health HTTP/1.1\r\n{host}X: {}\r\n\r\n",
        "x".repeat(200_000)
    );
    let many = format!(
        "GET /health HTTP/1.1\r\n{host}{}\r\n",
        "X: y\r\n".repeat(1000)
    );
    // Two lengths that do not agree, and a length beside chunks: where a request ends is no
    // matter of opinion.
    let two = format!(
        "POST /tokenize HTTP/1.1\r\n{host}Content-Length: 2\r\nContent-Length: 9\r\n\r\n{{}}GET /metrics HTTP/1.1\r\n\r\n"
    );
    let odd = format!("POST /tokenize HTTP/1.1\r\n{host}Content-Length: +2\r\n\r\n{{}}");
    let chunk = format!(
        "POST /tokenize HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n"
    );
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n\r\nhello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHo\0st: localhost\r\n\r\n",
        huge.as_bytes(),
        many.as_bytes(),
        two.as_bytes(),
        odd.as_bytes(),
        chunk.as_bytes(),
    ] {
        let answer = String::from_utf8_lossy(&server.raw(bytes)).into_owned();
        assert!(!answer.contains("HTTP/1.1 200"), "{bytes:?}: {answer}");
        assert!(answer.matches("HTTP/1.1").count() <= 1, "{answer}");
        assert_eq!(server.get("/health").status, 200);
    }
}

#[test]
fn who_has_no_room_is_told_when_to_come_again() {
    let server = Server::of(&["-m", "tiny", "--queue", "2", "--parallel", "1"]);
    let long = json!({"prompt": "Once", "max_tokens": 900, "ignore_eos": true, "stream": true});
    let held: Vec<TcpStream> = (0..2)
        .map(|_| server.begin("/v1/completions", &long))
        .collect();
    server.wait_until("both are in", |server| {
        server.metric("completions_total") == 2
    });
    let refused = server.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1}));
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert!(server.metric("http_refused_total") > 0);
    drop(held);
    server.wait_until("there is room again", |server| {
        server
            .post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1}))
            .status
            == 200
    });
}
