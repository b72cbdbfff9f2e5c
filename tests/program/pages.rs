//! The pages of the probes in a browser: `scripts/check-pages`, where there is one.

use std::path::Path;
use std::process::Command;

#[test]
#[allow(clippy::print_stderr)]
fn pages_work_in_a_browser() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check-pages");
    let home = tempfile::tempdir().unwrap();
    let run = Command::new("node")
        .arg(script)
        .args(["--modelve", env!("CARGO_BIN_EXE_modelve")])
        .env("MODELVE_HOME", home.path())
        .output();
    let Ok(output) = run else {
        eprintln!("skipped: no node, which scripts/check-pages needs");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    if let Some(reason) = said.lines().find(|line| line.starts_with("skipped: ")) {
        eprintln!("{reason}");
        return;
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    let opened = said.lines().filter(|line| line.contains(": ok")).count();
    assert_eq!(
        opened, 56,
        "fourteen pages, two widths, two colour schemes:\n{said}"
    );
}
