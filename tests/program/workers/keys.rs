//! Keys: how they are made, which files are refused, and where they are needed.

use super::*;

#[test]
fn a_key_is_made_once_and_only_for_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("workers.key");
    new_key(&path);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let text = std::fs::read(&path).unwrap();
    let again = modelve().arg("worker").arg("--new-key").arg(&path).output();
    let (said, code) = refused(&again.unwrap());
    assert!(code == 1 && said.contains("workers.key exists"), "{said}");
    assert!(
        said.contains("hint: to use it: modelve worker --key-file"),
        "{said}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), text, "it is not replaced");
}

#[test]
fn a_worker_offers_something() {
    let nothing = modelve()
        .args(["worker", "--memory", "0", "--listen", "127.0.0.1:0"])
        .output();
    let (said, code) = refused(&nothing.unwrap());
    assert!(code == 2 && said.contains("nothing to offer"), "{said}");
}

#[test]
#[cfg(unix)]
fn a_key_file_that_others_may_read_is_refused_on_both_sides() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let path = bench.path("workers.key");
    new_key(&path);
    let key = path.to_str().unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let worker = modelve()
        .args(["worker", "--listen", "127.0.0.1:0", "--key-file", key])
        .output();
    let client = bench.run(&[
        "complete",
        "a",
        "--workers",
        "127.0.0.1:1",
        "--key-file",
        key,
    ]);
    for output in [worker.unwrap(), client] {
        let (said, code) = refused(&output);
        assert!(code == 1 && said.contains("mode 644"), "{said}");
        assert!(said.contains("hint: chmod 600"), "{said}");
    }
    std::fs::write(&path, "secret").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let (said, _) = refused(&bench.run(&[
        "complete",
        "a",
        "--workers",
        "127.0.0.1:1",
        "--key-file",
        key,
    ]));
    assert!(said.contains("not a key file"), "{said}");
}

#[test]
fn other_machines_need_a_key() {
    let bench = Bench::new();
    let open = modelve()
        .args(["worker", "--listen", "0.0.0.0:0"])
        .output()
        .unwrap();
    let far = bench.run(&["complete", "a", "--workers", "192.0.2.1:7420"]);
    for output in [open, far] {
        let (said, code) = refused(&output);
        assert!(code == 2 && said.contains("there is no key"), "{said}");
        assert!(
            said.contains("modelve worker --new-key workers.key"),
            "{said}"
        );
    }
}

#[test]
fn the_key_may_come_from_the_environment() {
    let bench = Bench::new();
    let key = bench.path("workers.key");
    new_key(&key);
    let worker = Worker::start(&["--key-file", key.to_str().unwrap()]);
    let mut command = bench.command(&["complete", "the ball", "-n", "4", "--split", "3,3"]);
    command
        .env("MODELVE_KEY_FILE", &key)
        .env("MODELVE_WORKERS", &worker.address);
    printed(&command.output().unwrap());
    worker.note("left after");
}
