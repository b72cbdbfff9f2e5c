//! Encrypted connections: whom the client trusts, and what it does not send to others.

use std::process::Command;

use assert_cmd::cargo::CommandCargoExt;

use super::{Bench, REPO};
use crate::support::hub_server::HubServer;
use crate::support::tls_front::TlsFront;

/// Runs `get` against `front`; `trusted` is told to trust its certificate.
fn get(bench: &Bench, front: &TlsFront, id: &str, trusted: bool) -> super::Ran {
    let mut command = Command::cargo_bin("modelve").unwrap();
    command.args(["get", id]);
    bench.prepare(&mut command);
    command.env("HF_ENDPOINT", front.endpoint());
    command.env("HF_TOKEN", "hf_secret");
    if trusted {
        command.env("SSL_CERT_FILE", TlsFront::certificate());
    }
    Bench::finish(command)
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let bench = Bench::new();
    let front = TlsFront::of(&bench.server.endpoint());
    let ran = get(&bench, &front, &format!("{REPO}:q4"), false);
    assert_eq!(ran.code, Some(1), "{}", ran.said);
    assert!(ran.said.contains("certificate"), "{}", ran.said);
    assert!(bench.server.requests().is_empty(), "nothing was said to it");
}

#[test]
fn a_trusted_server_is_spoken_to_and_does_not_lead_out_of_the_encryption() {
    let server = HubServer::start();
    let tiny = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/crates/hub/tiny/tiny-phi3-Q4_K_M.gguf"
    );
    let tiny = std::fs::read(tiny).unwrap();
    // Small files come from the Hub itself, large ones by a redirect to plain HTTP.
    server
        .repo("org/s-GGUF")
        .small("org/s-GGUF", "s-q4.gguf", &tiny);
    server.repo(REPO).large(REPO, "l-q4.gguf", &tiny);
    let bench = Bench::of(server);
    let front = TlsFront::of(&bench.server.endpoint());

    let ran = get(&bench, &front, "org/s-GGUF:q4", true);
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    assert!(ran.out.trim_end().ends_with("s-q4.gguf"), "{}", ran.out);
    let requests = bench.server.requests();
    let token =
        |r: &crate::support::hub_server::Request| r.header("authorization").map(str::to_owned);
    assert!(!requests.is_empty());
    assert!(
        requests
            .iter()
            .all(|r| token(r).as_deref() == Some("Bearer hf_secret"))
    );

    let ran = get(&bench, &front, &format!("{REPO}:q4"), true);
    assert_eq!(ran.code, Some(1), "{}", ran.said);
    assert!(
        ran.said.contains("a redirect that leads nowhere"),
        "{}",
        ran.said
    );
    assert!(bench.server.requests().iter().all(|r| !r.cdn));
}
