//! `serve --cache`: a server continues what an earlier one computed of a long text.

use super::*;

#[test]
fn a_long_text_is_computed_once_for_two_servers() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let flags = ["-m", "tiny", "--cache", cache.to_str().unwrap()];
    let document = "The ball hit the bat, and it flew to the boundary. ".repeat(12);
    let body = |question: &str| json!({"prompt": format!("{document}{question}"), "max_tokens": 4, "temperature": 0});
    {
        let server = Server::of(&flags);
        server.ok("/v1/completions", &body("The old bat"));
        assert_eq!(server.metric("reused_tokens_total"), 0);
        server.wait_until("a state is saved", |_| {
            let files = std::fs::read_dir(&cache).unwrap().flatten();
            files
                .into_iter()
                .any(|file| file.file_name().to_string_lossy().ends_with(".seq"))
        });
    }
    let server = Server::of(&flags);
    let answer = server.ok("/v1/completions", &body("In the cave"));
    let reused = server.metric("reused_tokens_total");
    let whole = answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(
        reused > 100 && reused + 12 > whole,
        "{reused} of {whole} tokens"
    );
    assert_eq!(
        answer["usage"]["prompt_tokens_details"]["cached_tokens"],
        reused
    );
}
