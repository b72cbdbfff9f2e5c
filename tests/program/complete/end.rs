//! Ends that come from outside: Ctrl-C, a reader that goes away.

use super::*;

use rustix::process::{Pid, Signal, kill_process};

fn interrupt(child: &Child) {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
}

/// What a process that was interrupted leaves; it has so long to end.
fn ended(mut child: Child, limit: Duration) -> Output {
    let deadline = Instant::now() + limit;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it goes on after Ctrl-C");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Waits until a process has computed for so many clock ticks (of 10 ms): it has loaded its
/// model long since.
#[cfg(target_os = "linux")]
fn wait_for_ticks(child: &Child, ticks: u64) {
    let deadline = Instant::now() + Duration::from_secs(100);
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1;
        // The 14th field of all.
        let used: u64 = fields.split_whitespace().nth(11).unwrap().parse().unwrap();
        if used >= ticks {
            return;
        }
        assert!(Instant::now() < deadline, "it does not compute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_stops_in_the_middle_of_a_prompt() {
    let prompt = "the ball hit the bat ".repeat(2000);
    let file = files().small.with_file_name("long.txt");
    std::fs::write(&file, &prompt).unwrap();
    for json in [false, true] {
        let child = modelve(&files().large)
            .args(["--threads", "1", "--file"])
            .arg(&file)
            .args(json.then_some("--json"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for_ticks(&child, 50);
        interrupt(&child);
        let output = ended(child, Duration::from_secs(60));
        assert_eq!(output.status.code(), Some(130));
        if json {
            let object: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(object["finish_reason"], "cancelled");
            assert_eq!(object["usage"]["completion_tokens"], 0);
            assert_eq!(object["timing"]["first_token_s"], Value::Null);
        } else {
            assert_eq!(output.stdout, b"\n");
        }
    }
}

/// Whether this process ignores Ctrl-C, as shells start what runs in the background. Its
/// children begin likewise, and hear it only once they have said what to do with it.
fn is_deaf() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    ignored.is_some_and(|bits| bits & 2 != 0)
}

#[test]
#[allow(clippy::print_stderr)]
fn ctrl_c_at_any_moment_ends_it() {
    use std::os::unix::process::ExitStatusExt;
    if is_deaf() {
        return eprintln!("skipped: SIGINT is ignored where this runs");
    }
    for wait in [0, 3, 6, 10, 15, 25, 50, 100, 200] {
        let child = modelve(&files().large)
            .args(["the ball", "-n", "100000", "--ignore-eos", "--threads", "1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        interrupt(&child);
        let output = ended(child, Duration::from_secs(60));
        // Before the program has said what to do with it, the signal ends the process.
        let ended = output.status.code() == Some(130) || output.status.signal() == Some(2);
        assert!(ended, "after {wait} ms: {output:?}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let mut child = small()
        .args(["the ball", "-n", "3000", "--ignore-eos"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 5];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn ctrl_c_prints_what_there_is() {
    let large = &files().large;
    for json in [false, true] {
        let mut command = modelve(large);
        command.args(["the ball", "-n", "100000", "--ignore-eos", "--threads", "1"]);
        let mut child = command
            .args(json.then_some("--json"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if json {
            std::thread::sleep(Duration::from_millis(1500));
        } else {
            child
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut [0; 8])
                .unwrap();
        }
        interrupt(&child);
        let output = ended(child, Duration::from_secs(20));
        assert_eq!(output.status.code(), Some(130));
        assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
        if json {
            let object: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(object["finish_reason"], "cancelled");
            assert!(object["usage"]["completion_tokens"].as_u64().unwrap() > 0);
        }
    }
}

#[test]
fn notes_that_nobody_reads_are_no_fault() {
    let mut child = modelve(&files().small)
        .args(["-n", "4", "--stats", "Today is"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!output.stdout.is_empty());

    let mut child = modelve("absent.gguf".as_ref())
        .arg("x")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

/// Before the first batch is done nothing is known of a text, and nothing is claimed.
#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_before_anything_is_known_shows_nothing() {
    let file = files().small.with_file_name("long-to-score.txt");
    std::fs::write(&file, "the ball hit the bat ".repeat(2000)).unwrap();
    for ticks in [1, 5, 10, 20] {
        let page = files().small.with_file_name(format!("page-{ticks}.html"));
        let child = Command::new(env!("CARGO_BIN_EXE_modelve"))
            .arg("score")
            .arg("-m")
            .arg(&files().large)
            .args(["--threads", "1", "--json", "--file"])
            .arg(&file)
            .arg("--html")
            .arg(&page)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for_ticks(&child, ticks);
        interrupt(&child);
        let output = ended(child, Duration::from_secs(20));
        if output.status.code() != Some(130) {
            // The signal came before the program had said what to do with it.
            continue;
        }
        assert_eq!(page.exists(), !output.stdout.is_empty());
        if let Ok(object) = serde_json::from_slice::<Value>(&output.stdout) {
            assert!(object["n_scored"].as_u64().unwrap() > 0, "{object}");
        }
    }
}
