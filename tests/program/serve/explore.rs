//! `modelve explore`: the address, the browser, and who may open the page. What the page does is
//! tried in a browser, see `pages.rs`.

use super::*;

/// A server for the page, and the address that it printed.
fn exploring(arguments: &[&str], environment: &[(&str, &str)]) -> (Server, String) {
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_modelve"))
        .args(["explore", "-m", "tiny", "--threads", "1"])
        .args(arguments)
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .env_remove("WSL_DISTRO_NAME")
        .env_remove("BROWSER")
        .envs(environment.iter().copied())
        .env("MODELVE_HOME", home.path())
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = lines.next().expect("it prints the address").unwrap();
    let address = url.strip_prefix("http://").unwrap();
    let address = address.split('/').next().unwrap().parse().unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap()).lines();
    let (send, notes) = channel();
    std::thread::spawn(move || {
        errors
            .map_while(Result::ok)
            .all(|line| send.send(line).is_ok())
    });
    let server = Server {
        child,
        address,
        notes,
        _home: home,
    };
    server.wait_until("it loads", |server| server.get("/health").status == 200);
    (server, url)
}

#[test]
fn the_page_opens_with_the_token_of_its_address_alone() {
    let (server, url) = exploring(&["--no-open"], &[]);
    let path = &url[url.rfind('/').unwrap()..];
    let token = path.strip_prefix("/?token=").unwrap();
    assert!(
        token.len() == 32 && server.address.ip().is_loopback(),
        "{url}"
    );
    let page = server.get(path);
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    let policy = page.header("content-security-policy");
    let nonce = policy
        .split("'nonce-")
        .nth(1)
        .and_then(|rest| rest.split('\'').next());
    let nonce = nonce.unwrap().to_owned();
    assert!(
        policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert!(page.text().contains(&format!("<script nonce=\"{nonce}\">")));
    assert!(
        !page.text().contains(token),
        "the page does not hold its key"
    );
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    assert!(
        !server
            .get(path)
            .header("content-security-policy")
            .contains(&nonce)
    );
    for wrong in [
        "/",
        "/?token=",
        "/?token=0",
        &path[..path.len() - 1],
        &format!("{path}0"),
    ] {
        let locked = server.get(wrong);
        assert_eq!(locked.status, 403, "{wrong}");
        assert!(locked.text().contains("the whole address"), "{wrong}");
    }
    // Whatever it asks needs the same token.
    assert_eq!(server.get("/props").status, 401);
    assert_eq!(server.get(&format!("/props?token={token}")).status, 401);
    let key = format!("Bearer {token}");
    let key = [("Authorization", key.as_str())];
    let props = server.ask("GET", "/props", &key, b"").json();
    assert_eq!(
        (&props["n_layer"], &props["n_head"]),
        (&json!(6), &json!(4))
    );
    assert!(props["control_tokens"].as_array().unwrap().len() > 3);
    let crossing = [key[0], ("Origin", "https://evil.example")];
    assert_eq!(server.ask("GET", "/props", &crossing, b"").status, 403);

    // A view that is kept is what the command writes.
    let keep =
        |body: &Value| server.ask("POST", "/explore/page", &key, body.to_string().as_bytes());
    let body = json!({"page": "next", "data": [{"prompt": "</script>"}], "command": "modelve next", "date": "2020-01-01 00:00"});
    let kept = keep(&body);
    assert_eq!(kept.status, 200);
    assert!(
        kept.text()
            .contains("<meta name=\"generator\" content=\"modelve\">")
    );
    assert!(kept.text().contains("\\u003c/script>") && kept.text().contains("tiny"));
    for wrong in [
        json!({"page": "nothing", "data": [], "command": "", "date": ""}),
        json!({"page": "next"}),
    ] {
        assert_eq!(keep(&wrong).status, 400);
    }
}

#[test]
fn a_server_without_a_page_has_none() {
    let server = Server::tiny();
    assert_eq!(server.get("/").status, 404);
    assert_eq!(server.post("/explore/page", &json!({})).status, 404);
}

#[test]
fn a_file_that_is_no_model_is_told_before_an_address() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.gguf");
    std::fs::write(&file, "hello").unwrap();
    for command in [
        &["explore", "--no-open", "-m"][..],
        &["serve", "--port", "0"],
    ] {
        let mut run = assert_cmd::Command::cargo_bin("modelve").unwrap();
        let output = run.args(command).arg(&file).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(output.stdout.is_empty(), "{command:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("is not a GGUF file"), "{said}");
        assert!(!said.contains("http://"), "{said}");
    }
}

#[test]
fn without_a_screen_the_address_is_told() {
    let (server, url) = exploring(&[], &[]);
    let note = server.notes.recv_timeout(PATIENCE).unwrap();
    if cfg!(target_os = "linux") {
        assert!(
            note.contains("no browser was opened (this session has no screen)"),
            "{note}"
        );
        let how = server.notes.recv_timeout(PATIENCE).unwrap();
        let port = server.address.port();
        assert!(
            how.contains(&format!("ssh -L {port}:127.0.0.1:{port} ")),
            "{how}"
        );
    }
    assert!(url.starts_with("http://127.0.0.1:"));
    let (server, _) = exploring(&["--no-open"], &[]);
    let note = server.notes.recv_timeout(PATIENCE).unwrap();
    assert!(note.starts_with("ready: "), "{note}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_browser_is_opened_with_the_address() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (program, opened) = (folder.path().join("xdg-open"), folder.path().join("opened"));
    let script = format!("#!/bin/sh\necho \"$1\" > '{}'\n", opened.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let (server, url) = exploring(&[], &[("PATH", &path), ("DISPLAY", ":77")]);
    server.wait_until("a browser is opened", |_| {
        std::fs::read_to_string(&opened).is_ok_and(|text| text == format!("{url}\n"))
    });
}
