//! `scripts/workers`: machines that are network namespaces, where the tests may make them.

use super::*;

#[test]
#[cfg(target_os = "linux")]
#[allow(clippy::print_stderr)]
fn machines_with_a_network_between_them_say_the_same() {
    let may = Command::new("ip").args(["netns", "add", "mw-may"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: it takes root to make network namespaces");
        return;
    }
    drop(Command::new("ip").args(["netns", "del", "mw-may"]).output());
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
    if said.contains("/dev/net/tun") {
        eprintln!("skipped: no netem and no TUN devices here");
        return;
    }
    let text = printed(&output);
    assert!(text.contains("all equal"), "{text}{said}");
    assert!(
        text.contains("'wrong': 0, 'hung': 0, 'aborted': 0"),
        "{text}{said}"
    );
}
