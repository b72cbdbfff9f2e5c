//! Very many prompts, and very long ones.

use super::*;

/// A model of one layer and one head: little to compute for each token.
fn slight() -> &'static PathBuf {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = files().small.with_file_name("slight.gguf");
        Tiny {
            layers: 1,
            heads: 1,
            heads_kv: 1,
            width: 16,
            feed_forward: 16,
            context: 131_072,
            ..Tiny::default()
        }
        .write(&path);
        path
    })
}

fn written(name: &str, text: &str) -> PathBuf {
    let path = files().small.with_file_name(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn ten_thousand_prompts_are_answered_in_order() {
    let lines: Vec<String> = (0..10_000).map(|i| format!("number {i}")).collect();
    let file = written("many.txt", &lines.join("\n"));
    let output = run(modelve(slight())
        .args(["-n", "2", "--json", "--lines", "--file"])
        .arg(&file));
    let objects = objects(&output);
    assert_eq!(objects.len(), lines.len());
    for (i, (object, line)) in objects.iter().zip(&lines).enumerate() {
        assert_eq!(object["index"], i);
        assert_eq!(object["prompt"].as_str().unwrap(), line);
    }
}

#[test]
fn a_prompt_of_a_hundred_thousand_tokens_is_worked_off() {
    // " the" is one token.
    let file = written("long.txt", &"the ".repeat(100_000));
    let output = run(modelve(slight())
        .args(["-n", "2", "--json", "--lines", "--file"])
        .arg(&file));
    let object = &objects(&output)[0];
    assert!(object["usage"]["prompt_tokens"].as_u64().unwrap() >= 100_000);
    assert!(object["usage"]["completion_tokens"].as_u64().unwrap() > 0);
    // A model that was trained on less says so.
    let path = files().small.with_file_name("short.gguf");
    Tiny::default().write(&path);
    let (code, said) = failure(modelve(&path).arg("--file").arg(&file));
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("tokens do not fit into a context of 4096"),
        "{said}"
    );
}
