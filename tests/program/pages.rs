//! The pages in a browser: `scripts/check-pages` and `scripts/check-explore`, where there is one.

use std::path::Path;
use std::process::Command;

/// What a script said that uses pages in a browser; none where there is no browser.
#[allow(clippy::print_stderr)]
fn used(script: &str) -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scripts")
        .join(script);
    let home = tempfile::tempdir().unwrap();
    let run = Command::new("node")
        .arg(&script)
        .args(["--modelve", env!("CARGO_BIN_EXE_modelve")])
        .env("MODELVE_HOME", home.path())
        .output();
    let Ok(output) = run else {
        eprintln!("skipped: no node, which {} needs", script.display());
        return None;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    if let Some(reason) = said.lines().find(|line| line.starts_with("skipped: ")) {
        eprintln!("{reason}");
        return None;
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    Some(said.into_owned())
}

fn n_ok(said: &str) -> usize {
    said.lines().filter(|line| line.contains(": ok")).count()
}

#[test]
fn pages_work_in_a_browser() {
    let Some(said) = used("check-pages") else {
        return;
    };
    assert_eq!(
        n_ok(&said),
        56,
        "fourteen pages, two widths, two colour schemes:\n{said}"
    );
}

#[test]
fn explore_works_in_a_browser() {
    let Some(said) = used("check-explore") else {
        return;
    };
    assert_eq!(
        n_ok(&said),
        60,
        "fifteen things that a person does, two widths, two colour schemes:\n{said}"
    );
}
