//! The cache on this machine: alone, shared, without a network, behind a proxy.

use super::*;

#[test]
fn offline_uses_what_is_here_and_names_what_is_not() {
    let mut bench = Bench::new();
    bench.options.offline = true;
    let error = bench.fail();
    assert!(error.to_string().contains("missing everything"), "{error}");
    bench.options.offline = false;
    bench.try_fetch(REPO, Wanted::Description).unwrap();
    bench.options.offline = true;
    bench.server.requests();
    let error = bench.fail();
    assert!(
        matches!(&error, Error::Offline { missing, .. } if missing == &[SHARD_1, SHARD_2]),
        "{error:?}"
    );
    bench.options.offline = false;
    let fetched = bench.fetch();
    bench.options.offline = true;
    bench.server.requests();
    let again = bench.fetch();
    assert_eq!(
        (again.folder, again.commit, again.received),
        (fetched.folder.clone(), fetched.commit, 0)
    );
    fs::remove_file(fetched.folder.join(SHARD_2)).unwrap();
    let error = bench.fail();
    assert!(
        matches!(&error, Error::Offline { missing, .. } if missing == &[SHARD_2]),
        "{error:?}"
    );
    assert!(bench.server.requests().is_empty(), "nobody was asked");
}

#[test]
fn a_copy_of_nothing_but_a_snapshot_is_found_offline() {
    let mut bench = Bench::new();
    let fetched = bench.fetch();
    fs::remove_dir_all(bench.dir.path().join("hub/models--org--phi/refs")).unwrap();
    bench.options.offline = true;
    assert_eq!(bench.fetch().folder, fetched.folder);
    let other = "beef000000beef000000beef000000beef000000";
    fs::create_dir(bench.folder().with_file_name(other)).unwrap();
    let error = bench.fail().to_string();
    assert!(error.contains("which commit `main` stands for"), "{error}");
    assert!(error.contains(other) && error.contains(COMMIT), "{error}");
    let pinned = format!("{REPO}@{COMMIT}");
    let again = bench.try_fetch(&pinned, Wanted::Checkpoint).unwrap();
    assert_eq!(again.folder, fetched.folder);
}

#[cfg(unix)]
#[test]
fn a_link_in_the_place_of_a_part_file_or_a_lock_is_not_written_through() {
    use sha2::Digest;
    use std::os::unix::fs::symlink;
    let bench = Bench::new();
    let sha: String = sha2::Sha256::digest(shard(1))
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let victim = bench.dir.path().join("victim");
    fs::write(&victim, &shard(1)[..1000]).unwrap();
    let hub = bench.dir.path().join("hub");
    let part = hub.join(format!("models--org--phi/blobs/{sha}.incomplete"));
    let lock = hub.join(format!(".locks/models--org--phi/{sha}.lock"));
    let nowhere = bench.dir.path().join("nowhere");
    for (link, target) in [(&part, &victim), (&lock, &nowhere)] {
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(target, link).unwrap();
    }
    bench.check(&bench.fetch());
    assert_eq!(fs::read(&victim).unwrap(), &shard(1)[..1000]);
    assert!(!nowhere.exists());
    assert_eq!(
        bench.server.ranges(SHARD_1),
        [None],
        "it is no part of ours"
    );
}

#[cfg(unix)]
#[test]
fn an_index_that_is_a_pipe_or_a_device_is_not_read() {
    let mut bench = Bench::new();
    let fetched = bench.fetch();
    bench.options.offline = true;
    let index = fetched.folder.join("model.safetensors.index.json");
    for target in ["/dev/zero", "/dev/full"] {
        fs::remove_file(&index).unwrap();
        std::os::unix::fs::symlink(target, &index).unwrap();
        let error = bench.fail();
        assert!(matches!(error, Error::Select { .. }), "{error:?}");
    }
}

#[test]
fn without_a_hub_what_is_here_is_used_with_a_note() {
    let mut bench = Bench::new();
    let closed = "http://127.0.0.1:1".to_owned();
    let open = std::mem::replace(&mut bench.options.endpoint, closed.clone());
    let error = bench.fail();
    assert!(
        matches!(&error, Error::Unreachable { host, .. } if host == "127.0.0.1:1"),
        "{error:?}"
    );
    bench.options.endpoint = open;
    bench.fetch();
    bench.options.endpoint = closed;
    assert_eq!(bench.fetch().commit, COMMIT);
    assert!(
        bench.told.notes().contains("using commit c0ffee00c0ff"),
        "{}",
        bench.told.notes()
    );
}

#[test]
fn too_little_space_is_said_before_the_first_byte_of_a_shard() {
    let mut bench = Bench::new();
    bench.options.free_space = |_| Some(64 << 20);
    let error = bench.fail();
    assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
    assert!(bench.server.ranges("").is_empty());

    bench.options.free_space = |_| Some((64 << 20) + 1_500_000);
    let error = bench.fail().to_string();
    assert!(error.contains("1.91 MiB in 6 files"), "{error}");
    assert!(error.contains("65.4 MiB free"), "{error}");
    assert!(bench.server.ranges("").is_empty());
    bench.options.free_space = |_| Some((64 << 20) + 2_100_000);
    bench.check(&bench.fetch());
    // Files in the cache need no space.
    bench.options.free_space = |_| Some(0);
    bench.fetch();
}

#[test]
fn two_at_once_fetch_each_file_once() {
    let bench = Bench::new();
    bench.server.spoil(
        "model-0000",
        9,
        Fault::Slow(100_000, Duration::from_millis(20)),
    );
    let received: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (id, told) = (REPO.parse().unwrap(), Told::default());
                    let fetched =
                        fetch(&id, Wanted::Checkpoint, &bench.options, &told, &told.cancel);
                    assert_eq!(told.done(), told.total.load(Ordering::Relaxed));
                    (fetched.unwrap().received, told.notes())
                })
            })
            .collect();
        let results: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        let waited = |(_, notes): &(u64, String)| notes.contains("waiting for another process");
        assert!(results.iter().any(waited), "{results:?}");
        results.iter().map(|(received, _)| received).sum()
    });
    assert_eq!(bench.server.ranges("model-0000").len(), 2);
    let size = |name| bench.folder().join(name).metadata().unwrap().len();
    assert!(received >= size(SHARD_1) + size(SHARD_2));
    bench.told.done.store(0, Ordering::Relaxed);
    bench.check(&bench.fetch());
}

#[test]
fn a_blob_that_somebody_else_left_is_used_and_checked_when_asked() {
    let mut bench = Bench::new();
    let fetched = bench.fetch();
    let mut wrong = shard(1);
    wrong[0] ^= 1;
    fs::write(fetched.folder.join(SHARD_1), &wrong).unwrap();
    fs::write(fetched.folder.join("config.json"), "[]").unwrap();
    assert_eq!(bench.fetch().received, 2, "small files are always hashed");
    assert_eq!(fs::read(fetched.folder.join("config.json")).unwrap(), b"{}");
    bench.options.verify = true;
    assert_eq!(bench.fetch().received, 1_000_001);
    bench.check(&fetched);
}

/// Runs in a child process if the environment says so; otherwise it does nothing.
#[test]
fn child() {
    let Ok(cache) = std::env::var("HUB_TEST_CACHE") else {
        return;
    };
    let mut options = FetchOptions::from_env();
    options.cache = Cache::in_folder(cache);
    options.free_space = |_| None;
    let told = Told::default();
    let fetched = fetch(
        &REPO.parse().unwrap(),
        Wanted::Checkpoint,
        &options,
        &told,
        &told.cancel,
    );
    assert_eq!(fetched.unwrap().commit, COMMIT);
}

fn child_command(bench: &Bench) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let (_, module) = module_path!().split_once("::").unwrap();
    command
        .args(["--exact", &format!("{module}::child"), "--nocapture"])
        .env("HUB_TEST_CACHE", bench.options.cache.root())
        .env("HF_ENDPOINT", bench.server.endpoint())
        .env_remove("HF_HUB_OFFLINE")
        .stdout(std::process::Stdio::null());
    command
}

#[test]
fn a_killed_process_leaves_nothing_wrong_and_the_next_goes_on() {
    let bench = Bench::new();
    let slow = Fault::Slow(20_000, Duration::from_millis(10));
    bench.server.spoil("model-0000", 99, slow);
    let kept = || bench.parts().iter().map(|(_, len)| len).sum::<u64>();
    for goal in [1, 100_000, 600_000] {
        let mut child = child_command(&bench).spawn().unwrap();
        let start = Instant::now();
        while kept() < goal && start.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(3));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            !bench.folder().join(SHARD_1).exists(),
            "it was killed half-way"
        );
    }
    let kept = kept();
    assert!(
        kept >= 600_000,
        "each goes on from where the one before was killed"
    );
    let fetched = bench.fetch();
    bench.check(&fetched);
    assert!(fetched.received <= 2_000_003 + 10_000 - kept);
}

#[test]
fn processes_at_once_do_not_disturb_each_other() {
    let bench = Bench::new();
    bench.server.spoil(
        "model-0000",
        99,
        Fault::Slow(100_000, Duration::from_millis(10)),
    );
    let children: Vec<_> = (0..3)
        .map(|_| child_command(&bench).spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(bench.server.ranges("model-0000").len(), 2);
    bench.check(&bench.fetch());
}

#[test]
fn it_works_behind_a_proxy() {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    let bench = Bench::new();
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap();
    let (hub, seen) = (bench.server.endpoint(), Arc::new(AtomicU64::new(0)));
    let count = seen.clone();
    // A plain HTTP proxy: the request line holds the whole address. The names in it exist only
    // behind the proxy.
    std::thread::spawn(move || {
        for stream in proxy.incoming() {
            let (Ok(mut client), hub, count) = (stream, hub.clone(), count.clone()) else {
                return;
            };
            std::thread::spawn(move || {
                let mut reader = BufReader::new(client.try_clone().unwrap());
                let mut head = String::new();
                while reader.read_line(&mut head).unwrap_or(0) > 2 {}
                let rest = head.replacen("http://hub.invalid", "", 1);
                let cdn = rest.split_whitespace().nth(1).and_then(|url| {
                    let (host, _) = url.strip_prefix("http://")?.split_once('/')?;
                    Some(host.to_owned())
                });
                let to = cdn
                    .clone()
                    .unwrap_or_else(|| hub["http://".len()..].to_owned());
                let rest = match &cdn {
                    Some(host) => rest.replacen(&format!("http://{host}"), "", 1),
                    None => rest,
                };
                count.fetch_add(1, Ordering::Relaxed);
                let mut server = TcpStream::connect(to).unwrap();
                server.write_all(rest.as_bytes()).unwrap();
                let mut answer = Vec::new();
                let _ = server.read_to_end(&mut answer);
                let _ = client.write_all(&answer);
            });
        }
    });
    let status = child_command(&bench)
        .env("HF_ENDPOINT", "http://hub.invalid")
        .env("HTTP_PROXY", format!("http://{address}"))
        .env("http_proxy", format!("http://{address}"))
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .status()
        .unwrap();
    assert!(status.success());
    assert!(
        seen.load(Ordering::Relaxed) >= 8,
        "everything goes through the proxy"
    );
    assert!(bench.folder().join(SHARD_1).is_file());
}
