//! `scripts/workers`: machines that are network namespaces, where the tests may make them.

use super::*;

#[test]
#[cfg(target_os = "linux")]
#[allow(clippy::print_stderr)]
fn machines_with_a_network_between_them_say_the_same() {
    let may_name = format!("mw-may-{}", std::process::id());
    let may = Command::new("ip")
        .args(["netns", "add", &may_name])
        .output();
    if !may.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: it takes root to make network namespaces");
        return;
    }
    drop(
        Command::new("ip")
            .args(["netns", "del", &may_name])
            .output(),
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut script = Command::new(root.join("scripts/workers"));
    script.args(["--program", env!("CARGO_BIN_EXE_modelve"), "--threads", "1"]);
    script.args([
        "--networks",
        "1",
        "--workers",
        "2",
        "--tokens",
        "8",
        "--kills",
        "2",
    ]);
    let output = script.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(3) {
        eprintln!("skipped: {}", said.trim());
        return;
    }
    let text = printed(&output);
    assert!(text.contains("all equal"), "{text}{said}");
    assert!(
        text.contains("'wrong': 0, 'hung': 0, 'aborted': 0"),
        "{text}{said}"
    );
}
