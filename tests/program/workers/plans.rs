//! Plans: which layers go where, and what is refused.

use super::*;

#[test]
fn a_plan_is_shown_or_refused_with_its_arithmetic() {
    let bench = Bench::new();
    let worker = Worker::start(&["--memory", "64MiB"]);
    let workers = ["--workers", worker.address.as_str()];
    let complete = ["complete", "the ball", "-n", "3", "--stats"];
    let split = bench.run(&[&complete[..], &workers, &["--split", "2,4"]].concat());
    printed(&split);
    let said = String::from_utf8_lossy(&split.stderr).into_owned();
    for words in ["here: 2 layers", ": 4 layers", "ms a token", "bytes sent"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // A worker without layers is not used.
    let alone = bench.run(&[&complete[..], &workers, &["--split", "6"]].concat());
    printed(&alone);
    let said = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert!(
        said.contains("workers not used: the model fits here"),
        "{said}"
    );
    for (wrong, words) in [
        ("2,5", "the model has 6 layers, not 7"),
        ("2,2,2", "3 numbers of layers for 2 machines"),
    ] {
        let (said, code) =
            refused(&bench.run(&[&complete[..], &workers, &["--split", wrong]].concat()));
        assert!(code == 1 && said.contains(words), "{said}");
    }
    let long = [
        "complete",
        "the ball",
        "-n",
        "3",
        "--ctx-size",
        "4096",
        "--split",
        "0,6",
    ];
    let (said, code) = refused(&bench.run(&[&long[..], &workers].concat()));
    assert!(code == 1 && said.contains("6 layers need"), "{said}");
    assert!(said.contains("which has 64.0 MiB"), "{said}");
}

#[test]
fn the_doctor_asks_the_workers() {
    let bench = Bench::new();
    let worker = Worker::start(&[]);
    let mut doctor = modelve();
    doctor.args([
        "doctor",
        "--json",
        "--workers",
        &worker.address,
        "--split",
        "2,4",
    ]);
    doctor.env("MODELVE_MODEL", bench.path("model.gguf"));
    let report: serde_json::Value =
        serde_json::from_str(&printed(&doctor.output().unwrap())).unwrap();
    assert!(
        report["backends"]
            .as_array()
            .unwrap()
            .contains(&"rpc".into())
    );
    let machines = &report["machines"];
    let told = &machines["workers"][0];
    assert_eq!(told["name"], worker.address.as_str());
    assert_eq!(told["devices"][0]["name"], "CPU");
    assert!(told["round_trip_seconds"].as_f64().unwrap() < 1.0);
    assert_eq!(machines["plan"][0]["layers"], 2);
    assert_eq!(machines["plan"][1]["layers"], 4);
    assert!(machines["seconds_per_token"].as_f64().unwrap() > 0.0);
    let mut doctor = modelve();
    doctor.args(["doctor", "--workers", "127.0.0.1:1"]);
    let said = printed(&doctor.output().unwrap());
    assert!(
        said.contains("the worker 127.0.0.1:1 cannot be reached"),
        "{said}"
    );
}

#[test]
fn what_workers_cannot_do_is_refused() {
    let bench = Bench::new();
    for flags in [&["--gpu-layers", "all"][..], &["--device", "CUDA0"]] {
        let complete = ["complete", "a", "--workers", "127.0.0.1:1"];
        let (said, code) = refused(&bench.run(&[&complete[..], flags].concat()));
        assert!(
            code == 2 && said.contains("layers are on its CPU"),
            "{said}"
        );
    }
    let (said, code) = refused(&bench.run(&["complete", "a", "--workers", "127.0.0.1:1"]));
    assert!(code == 1 && said.contains("cannot be reached"), "{said}");
    assert!(said.contains("hint: start it there"), "{said}");
}
