//! Conversions that do not end well: full disks, kills, Ctrl-C.

use super::*;

/// A checkpoint that takes a while, being encoded by the slowest encoder on one thread.
fn slow() -> Bench {
    let config = toy::config(|c| {
        c["hidden_size"] = json!(512);
        c["intermediate_size"] = json!(2048);
    });
    Bench::of(&config, Dtype::Bf16, 1 << 40)
}

/// Starts a conversion and waits until its temporary file is there.
fn started(bench: &Bench) -> std::process::Child {
    let arguments = ["in", "-q", "IQ4_NL", "-o", "out/x.gguf", "--threads", "1"];
    let mut command = bench.command(&arguments);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while bench.outputs().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing begins");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

/// Converts onto a disk that this test alone sees, and says how it ended, what it said, and
/// what lies on the disk then. `None`: this user may not mount one.
fn onto_a_disk(bench: &Bench, options: &str) -> Option<(i32, String, String)> {
    let program = bench.command(&[]).get_program().to_owned();
    let script = "mount -t tmpfs -o \"$1\" none out || exit 77
        \"$0\" convert in -q F32 -o out/x.gguf; code=$?; ls -A out; exit $code";
    let output = Command::new("unshare")
        .current_dir(bench.dir.path())
        .args(["--mount", "--map-root-user", "sh", "-c", script])
        .arg(program)
        .arg(options)
        .output()
        .ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, left) = (text(&output.stderr), text(&output.stdout));
    let code = output.status.code().filter(|&code| code != 77)?;
    (!said.contains("unshare")).then_some((code, said, left))
}

const NO_DISK: &str = "skipped: this user may not mount a disk of its own";

#[test]
fn a_disk_that_is_too_small_is_left_alone() {
    let Some((code, said, left)) = onto_a_disk(&Bench::new(), "size=1m") else {
        return eprintln!("{NO_DISK}");
    };
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("out has 1.00 MiB free; "), "{said}");
    assert_eq!(left, "", "{said}");
}

#[test]
fn a_disk_that_is_only_read_is_left_alone() {
    let Some((code, said, left)) = onto_a_disk(&Bench::new(), "size=64m,ro") else {
        return eprintln!("{NO_DISK}");
    };
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("out/x.gguf"), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
    assert_eq!(left, "", "{said}");
}

#[test]
fn a_full_disk_leaves_nothing_and_is_said() {
    let bench = Bench::new();
    // 1 MiB: less than the file, more than its header. The shell hands its limit down.
    let program = bench.command(&[]).get_program().to_owned();
    let output = Command::new("bash")
        .current_dir(bench.dir.path())
        .args([
            "-c",
            "ulimit -f 1024; exec \"$0\" convert in -q F32 -o out/x.gguf",
        ])
        .arg(program)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said} {:?}", output.status);
    assert!(
        said.contains("out/x.gguf") && said.contains("too large"),
        "{said}"
    );
    assert_eq!(bench.outputs(), [""; 0]);
}

#[test]
fn killed_at_any_moment_it_leaves_no_model_and_the_next_run_cleans_up() {
    let bench = slow();
    bench.good(&["in", "-q", "IQ4_NL", "-o", "out/x.gguf"]);
    let whole = bench.sha256("out/x.gguf");
    fs::remove_file(bench.path("out/x.gguf")).unwrap();
    for moment in [0, 30, 150] {
        let mut wait = Duration::from_millis(moment);
        loop {
            let mut child = started(&bench);
            std::thread::sleep(wait);
            child.kill().unwrap();
            let ended = child.wait().unwrap();
            if !bench.path("out/x.gguf").exists() {
                assert_eq!(ended.signal(), Some(9));
                break;
            }
            // The kill came too late: the file had its name, so it is whole. An earlier moment is
            // tried instead.
            assert_eq!(bench.sha256("out/x.gguf"), whole);
            assert!(!wait.is_zero(), "it was too fast to be killed");
            fs::remove_file(bench.path("out/x.gguf")).unwrap();
            wait = Duration::from_millis(wait.as_millis() as u64 / 2);
        }
        let left = bench.outputs();
        assert!(left.iter().all(|name| name.ends_with(".part")), "{left:?}");
    }
    bench.good(&["in", "-q", "Q4_0", "-o", "out/x.gguf"]);
    assert_eq!(bench.outputs(), ["x.gguf"]);
}

#[test]
fn interrupted_it_cleans_up_and_says_so() {
    let bench = slow();
    for signal in ["INT", "TERM"] {
        let child = started(&bench);
        let id = child.id().to_string();
        Command::new("kill")
            .args(["-s", signal, &id])
            .status()
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("interrupted"), "{said}");
        assert_eq!(bench.outputs(), [""; 0]);
    }
}

#[test]
fn ctrl_c_at_the_terminal_ends_the_bar_and_leaves_nothing() {
    let bench = slow();
    let arguments = ["in", "-q", "IQ4_NL", "-o", "out/x.gguf", "--threads", "1"];
    let mut command = bench.command(&arguments);
    command.env("TERM", "xterm");
    // The bar as it is drawn first: a share of the whole, with the speed.
    let Some((shown, code)) = terminal::run(&command, 100, " MiB, ") else {
        return eprintln!("skipped: no python3 to make a terminal with");
    };
    assert_eq!(code, 130, "{shown}");
    assert!(
        shown.contains("converting") && shown.contains("left"),
        "{shown}"
    );
    let said = terminal::lines(&shown).pop().unwrap_or_default();
    assert!(said.ends_with("interrupted"), "{shown}");
    assert_eq!(bench.outputs(), [""; 0], "{shown}");
}

#[test]
fn an_existing_model_survives_a_conversion_that_fails() {
    let bench = Bench::of(&toy::config(|_| {}), Dtype::Bf16, 1 << 40);
    bench.good(&["in", "-o", "out/x.gguf"]);
    let before = bench.sha256("out/x.gguf");
    poison(&bench, "lm_head.weight", 9, [0xc0, 0x7f]);
    let output = bench.run(&["in", "--force", "-o", "out/x.gguf"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(bench.outputs(), ["x.gguf"]);
    assert_eq!(bench.sha256("out/x.gguf"), before);
}
