//! What a model says with layers on workers is what it says alone.

use super::*;

const TEXT: &str = "The ball hit the bat, and it";

/// The lines of JSON without what differs from run to run.
fn without_times(text: &str) -> Vec<serde_json::Value> {
    let lines = text.lines().map(serde_json::from_str);
    let values: Result<Vec<serde_json::Value>, _> = lines.collect();
    let mut values = values.unwrap_or_else(|_| vec![serde_json::from_str(text).unwrap()]);
    for value in &mut values {
        if let Some(object) = value.as_object_mut() {
            object.remove("timing");
            object.remove("seconds");
        }
    }
    values
}

#[test]
fn greedy_text_and_probes_are_those_of_one_machine() {
    let (a, b) = (Worker::start(&[]), Worker::start(&[]));
    let one = a.address.clone();
    let both = format!("{},{}", a.address, b.address);
    for arguments in [
        &["complete", TEXT, "-n", "24", "--json"][..],
        &[
            "complete",
            TEXT,
            "In the cave",
            "The old",
            "-n",
            "12",
            "--json",
        ],
        &["next", TEXT, "--json"],
        &["score", TEXT, "--json"],
        &["lens", TEXT, "--json"],
        &["attention", TEXT, "--json"],
    ] {
        let run = |more: &[&str]| {
            let mut command = modelve();
            command
                .args(arguments)
                .args(["-m", "tiny", "--threads", "1"])
                .args(more);
            without_times(&printed(&command.output().unwrap()))
        };
        let alone = run(&[]);
        for (workers, split) in [
            (&one, "3,3"),
            (&one, "0,6"),
            (&one, "5,1"),
            (&both, "2,2,2"),
        ] {
            let with = run(&["--workers", workers, "--split", split]);
            assert_eq!(with, alone, "{arguments:?} {split}");
        }
    }
}

#[test]
fn a_wider_model_and_a_long_text_are_computed_alike() {
    let bench = Bench::new();
    let worker = Worker::start(&[]);
    let text = "the ball hit the bat and the bat hit the ball in the cave ".repeat(20);
    let score = ["score", text.as_str(), "--json"];
    let alone = without_times(&printed(&bench.run(&score)));
    let flags = ["--workers", &worker.address, "--split", "2,4"];
    let with = without_times(&printed(&bench.run(&[&score[..], &flags].concat())));
    assert_eq!(with, alone);
    // Two models in one process share the connection.
    let file = bench.path("model.gguf");
    let file = file.to_str().unwrap();
    let mut compare = modelve();
    compare.args([
        "compare",
        file,
        file,
        "--text",
        TEXT,
        "--json",
        "--threads",
        "1",
    ]);
    compare.args(flags).env("MODELVE_HOME", bench.path("home"));
    printed(&compare.output().unwrap());
    worker.note("ggml's server saw 1 connection");
}

/// A cache leaves a gigabyte of the disk free.
fn has_room(folder: &Path) -> bool {
    let asked = Command::new("df").arg("-Pk").arg(folder).output().unwrap();
    let text = String::from_utf8_lossy(&asked.stdout).into_owned();
    let free = text
        .lines()
        .nth(1)
        .and_then(|line| line.split_whitespace().nth(3));
    free.and_then(|free| free.parse::<u64>().ok())
        .is_none_or(|kib| kib > 2 << 20)
}

#[test]
#[allow(clippy::print_stderr)]
fn tensors_that_the_worker_keeps_are_not_sent_again() {
    let bench = Bench::new();
    if !has_room(&bench.path(".")) {
        eprintln!("skipped: the disk is nearly full");
        return;
    }
    let folder = bench.path("cache");
    let worker = Worker::start(&["--cache", folder.to_str().unwrap()]);
    let complete = [
        "complete",
        TEXT,
        "-n",
        "4",
        "--stats",
        "--workers",
        &worker.address,
        "--split",
        "1,5",
    ];
    let sent = |output: &Output| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = said
            .lines()
            .find(|line| line.contains("bytes sent"))
            .unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "bytes").unwrap();
        words[at - 1].replace(',', "").parse::<u64>().unwrap()
    };
    let first = bench.run(&complete);
    let text = printed(&first);
    let second = bench.run(&complete);
    assert_eq!(printed(&second), text);
    // A megabyte of both is the measurement of the network.
    let (first, second) = (sent(&first) - (1 << 20), sent(&second) - (1 << 20));
    assert!(second * 4 < first, "{second} after {first}");
    // What is damaged on the disk is noticed and sent again.
    let mut damaged = 0;
    for entry in std::fs::read_dir(&folder).unwrap().flatten() {
        let mut bytes = std::fs::read(entry.path()).unwrap();
        let half = bytes.len() / 2;
        bytes[half] ^= 1;
        std::fs::write(entry.path(), bytes).unwrap();
        damaged += 1;
    }
    assert!(damaged > 5);
    let third = bench.run(&complete);
    assert_eq!(printed(&third), text);
    assert!(sent(&third) - (1 << 20) > first / 2);
}
