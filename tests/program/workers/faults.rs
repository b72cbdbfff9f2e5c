//! Workers that go away. The program says which one and ends; it never hangs, aborts, or prints a
//! wrong text.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;

use super::*;

/// How long the program may take to notice.
const NOTICED: Duration = Duration::from_secs(10);

/// Ends a process with SIGKILL or stops it with SIGSTOP.
fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// The process of ggml's server that a worker has started.
fn child_of(pid: u32) -> Option<u32> {
    let is_parent = |entry: &std::fs::DirEntry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map(|(_, after)| after.to_owned());
        let parent = after.and_then(|after| after.split_whitespace().nth(1)?.parse().ok());
        parent == Some(pid)
    };
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let child = processes.into_iter().find(is_parent)?;
    child.file_name().to_str()?.parse().ok()
}

struct Run {
    text: String,
    said: String,
    code: Option<i32>,
    took: Duration,
}

/// When something happens to a worker.
enum Moment {
    After(Duration),
    /// When the first text is out.
    Printing,
}

/// Runs a completion and does something to its worker at a moment.
fn disturbed(bench: &Bench, worker: &str, moment: Moment, disturb: impl FnOnce()) -> Run {
    let mut child = complete(bench, worker)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (first, printing) = channel();
    let printed = std::thread::spawn(move || {
        let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = stdout.read(&mut chunk) {
            text.extend_from_slice(&chunk[..n]);
            let _ = first.send(());
        }
        text
    });
    match moment {
        Moment::After(pause) => std::thread::sleep(pause),
        Moment::Printing => printing.recv_timeout(PATIENCE).unwrap(),
    }
    disturb();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            drop(child.kill());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = begun.elapsed();
    let output = child.wait_with_output().unwrap();
    Run {
        text: String::from_utf8_lossy(&printed.join().unwrap()).into_owned(),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
        took,
    }
}

fn complete(bench: &Bench, worker: &str) -> Command {
    let text = "the ball hit the bat ".repeat(30);
    bench.command(&[
        "complete",
        &text,
        "-n",
        "200",
        "--ignore-eos",
        "--workers",
        worker,
        "--split",
        "3,3",
    ])
}

#[test]
fn thirty_kills_at_any_moment_end_with_the_text_so_far() {
    let bench = Bench::new();
    let mut worker = Worker::start(&[]);
    let begun = Instant::now();
    let whole = printed(&complete(&bench, &worker.address).output().unwrap());
    let duration = begun.elapsed();
    let address = worker.address.clone();
    let (mut ended, mut cut) = (0, 0);
    for i in 0..30u32 {
        // Every other one while the text is printed, the others spread over the whole run and beyond
        // its end.
        let pause = duration * ((i * 17) % 31) / 28;
        let moment = match i % 2 {
            0 => Moment::After(pause),
            _ => Moment::Printing,
        };
        let run = disturbed(&bench, &address, moment, || worker.kill());
        match run.code {
            Some(0) => {
                ended += 1;
                assert_eq!(run.text, whole, "kill {i} after {pause:?}");
            }
            Some(1) => {
                cut += 1;
                let text = run.text.trim_end_matches('\n');
                assert!(
                    whole.starts_with(text),
                    "kill {i} after {pause:?}: {:?}",
                    run.text
                );
                assert!(run.said.contains(&address), "kill {i}: {}", run.said);
                assert!(run.said.contains("hint: "), "kill {i}: {}", run.said);
                assert!(
                    run.took < NOTICED,
                    "kill {i} after {pause:?}: {:?}",
                    run.took
                );
            }
            code => panic!("kill {i} after {pause:?}: {code:?}: {}", run.said),
        }
        worker = Worker::at(&address, &[]);
    }
    assert!(cut >= 10, "{cut} were cut, {ended} ended before");
    // When it is back, the next start uses it.
    assert_eq!(
        printed(&complete(&bench, &address).output().unwrap()),
        whole
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_server_of_ggml_that_dies_is_started_anew() {
    let bench = Bench::new();
    let worker = Worker::start(&[]);
    let whole = printed(&complete(&bench, &worker.address).output().unwrap());
    let pid = worker.child.id();
    let run = disturbed(&bench, &worker.address, Moment::Printing, || {
        signal(child_of(pid).unwrap(), "KILL");
    });
    assert_eq!(run.code, Some(1), "{}", run.said);
    assert!(
        run.said.contains("ggml's server ended by signal: 9"),
        "{}",
        run.said
    );
    assert!(run.took < NOTICED && whole.starts_with(run.text.trim_end_matches('\n')));
    assert_eq!(
        printed(&complete(&bench, &worker.address).output().unwrap()),
        whole
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_worker_that_is_silent_is_given_up() {
    let bench = Bench::new();
    let worker = Worker::start(&[]);
    let pid = worker.child.id();
    // As when a cable is pulled: nothing arrives any more, and nobody says so.
    let run = disturbed(&bench, &worker.address, Moment::Printing, || {
        signal(pid, "STOP")
    });
    signal(pid, "CONT");
    assert_eq!(run.code, Some(1), "{}", run.said);
    assert!(
        run.said.contains("nothing was heard of it for 6 seconds"),
        "{}",
        run.said
    );
    assert!(run.took < NOTICED, "{:?}", run.took);
}

/// A server, ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What a server answers to a completion: the whole response.
fn post(address: &str) -> String {
    let body = r#"{"prompt": "the ball", "max_tokens": 4}"#;
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_server_answers_503_once_its_worker_is_lost() {
    let bench = Bench::new();
    let mut worker = Worker::start(&[]);
    let mut child = bench
        .command(&["serve", "--port", "0", "--workers", &worker.address])
        .args(["--split", "3,3", "--ctx-size", "512"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let server = Server(child);
    let first = lines.next().unwrap().unwrap();
    let address = first
        .strip_prefix("listening on http://")
        .expect(&first)
        .to_owned();
    let mut said = Vec::new();
    while !said
        .last()
        .is_some_and(|line: &String| line.starts_with("ready"))
    {
        let line = lines.next().unwrap_or_else(|| panic!("it ended: {said:?}"));
        said.push(line.unwrap());
    }
    let answer = post(&address);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    worker.kill();
    for _ in 0..2 {
        let answer = post(&address);
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.contains(&worker.address) && answer.contains("is lost"),
            "{answer}"
        );
    }
    drop(server);
}
