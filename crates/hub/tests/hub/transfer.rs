//! Transfers: complete, broken, and resumed.

use super::*;

#[test]
fn a_checkpoint_arrives_with_what_is_needed_and_nothing_else() {
    let bench = Bench::new();
    let fetched = bench.fetch();
    bench.check(&fetched);
    assert_eq!(fetched.folder, bench.folder());
    assert_eq!(fetched.commit, COMMIT);
    assert_eq!(fetched.repo, REPO);
    assert_eq!(
        names(&fetched.folder),
        [
            "README.md",
            "config.json",
            SHARD_1,
            SHARD_2,
            "model.safetensors.index.json",
            "tokenizer.model"
        ]
    );
    let sizes: u64 = names(&fetched.folder)
        .iter()
        .map(|name| fetched.folder.join(name).metadata().unwrap().len())
        .sum();
    assert_eq!(fetched.received, sizes);
    // The cache layout of Python's `huggingface_hub`.
    let reference = bench.dir.path().join("hub/models--org--phi/refs/main");
    assert_eq!(fs::read_to_string(reference).unwrap(), COMMIT);
    #[cfg(unix)]
    {
        use sha2::Digest;
        let link = fs::read_link(fetched.folder.join(SHARD_1)).unwrap();
        let sha: String = sha2::Sha256::digest(shard(1))
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(link, Path::new("../../blobs").join(sha));
    }
    let pinned = |r: &hub_server::Request| !r.path.contains("/resolve/") || r.path.contains(COMMIT);
    assert!(bench.server.requests().iter().all(pinned));
}

#[test]
fn what_is_here_is_not_fetched_again() {
    let bench = Bench::new();
    bench.fetch();
    bench.server.requests();
    let again = bench.fetch();
    assert_eq!(again.received, 0);
    let requests = bench.server.requests();
    assert!(requests.iter().all(|r| !r.cdn), "{requests:?}");
    // A new commit with one changed shard: only that one is fetched.
    let next = "beef000000beef000000beef000000beef000000";
    bench.server.commit(REPO, next);
    bench.server.large(REPO, SHARD_2, &bytes(1_000_002, 77));
    let fetched = bench.fetch();
    assert_eq!(fetched.commit, next);
    assert_eq!(fetched.received, 1_000_002);
    assert!(bench.folder().join(SHARD_2).is_file(), "the old one stays");
}

#[test]
fn the_description_comes_without_weights() {
    let bench = Bench::new();
    let fetched = bench.try_fetch(REPO, Wanted::Description).unwrap();
    assert!(fetched.folder.join("tokenizer.model").is_file());
    assert!(!fetched.folder.join(SHARD_1).exists());
}

#[test]
fn a_cut_shard_goes_on_with_a_range() {
    let bench = Bench::new();
    bench.server.spoil(SHARD_1, 1, Fault::CutAfter(300_000));
    bench.server.spoil(SHARD_1, 1, Fault::CutAfter(200_000));
    let fetched = bench.fetch();
    bench.check(&fetched);
    let ranges = bench.server.ranges(SHARD_1);
    assert_eq!(
        ranges,
        [
            None,
            Some("bytes=300000-".into()),
            Some("bytes=500000-".into())
        ]
    );
    assert!(
        bench.told.notes().contains("trying again"),
        "{}",
        bench.told.notes()
    );
}

#[test]
fn a_connection_that_falls_silent_is_left_and_resumed() {
    let mut bench = Bench::new();
    bench.options.silence = Duration::from_millis(300);
    let stall = Fault::StallAfter(400_000, Duration::from_secs(8));
    bench.server.spoil(SHARD_2, 1, stall);
    let start = Instant::now();
    bench.check(&bench.fetch());
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(
        bench.server.ranges(SHARD_2)[1].as_deref(),
        Some("bytes=400000-")
    );
}

#[test]
fn a_connection_that_always_breaks_ends_the_fetch_and_keeps_the_part() {
    let bench = Bench::new();
    bench.server.spoil(SHARD_1, 1, Fault::CutAfter(300_000));
    bench.server.spoil(SHARD_1, 99, Fault::CutAfter(0));
    let error = bench.fail();
    assert!(
        matches!(
            &error,
            Error::Cut {
                at: 300_000,
                attempts: 4,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("continues where it stopped"));
    assert!(bench.parts().iter().any(|(_, len)| *len == 300_000));
}

#[test]
fn ctrl_c_keeps_the_part_and_the_next_fetch_goes_on_from_it() {
    let mut bench = Bench::new();
    bench.told.cancel_at = Some(1_300_000);
    let slow = Fault::Slow(50_000, Duration::from_millis(5));
    bench.server.spoil("model-0000", 2, slow);
    let start = Instant::now();
    let error = bench.fail();
    assert!(start.elapsed() < Duration::from_secs(3));
    let Error::Interrupted { here, total } = error else {
        panic!("{error:?}");
    };
    assert!(here >= 1_300_000 && here < total, "{here} of {total}");
    assert!(!bench.folder().join(SHARD_1).exists());
    let parts = bench.parts();
    assert_eq!(parts.len(), 2, "{parts:?}");

    bench.told = Told::default();
    bench.server.requests();
    let fetched = bench.fetch();
    bench.check(&fetched);
    assert_eq!(fetched.received, total - here);
    for name in [SHARD_1, SHARD_2] {
        let range = bench.server.ranges(name).remove(0).unwrap();
        let there = |(_, len): &(PathBuf, u64)| range == format!("bytes={len}-");
        assert!(parts.iter().any(there), "{range} {parts:?}");
    }
}

#[test]
fn ctrl_c_is_noticed_while_waiting_to_try_again() {
    let bench = Bench::new();
    let wait = Fault::Status(429, vec![("Retry-After", "100".into())]);
    bench.server.fault("GET", "/api/models", 9, wait);
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            bench.told.cancel.store(true, Ordering::Relaxed);
        });
        assert!(matches!(bench.fail(), Error::Interrupted { .. }));
    });
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_damaged_part_is_found_out_and_fetched_anew() {
    let bench = Bench::new();
    bench.server.spoil(SHARD_1, 1, Fault::CutAfter(300_000));
    bench.server.spoil(SHARD_1, 3, Fault::CutAfter(0));
    bench.fail();
    let (part, _) = bench
        .parts()
        .into_iter()
        .find(|(_, len)| *len == 300_000)
        .unwrap();
    let mut damaged = fs::read(&part).unwrap();
    damaged[1234] ^= 1;
    fs::write(&part, damaged).unwrap();
    bench.check(&bench.fetch());
    assert!(bench.told.notes().contains("is not what the Hub states"));
    // A part file that is too long cannot be resumed.
    fs::remove_dir_all(bench.folder()).unwrap();
    fs::rename(part.with_extension(""), &part).unwrap();
    let mut long = fs::read(&part).unwrap();
    long.push(0);
    fs::write(&part, long).unwrap();
    bench.server.requests();
    bench.check(&bench.fetch());
    assert_eq!(bench.server.ranges(SHARD_1), [None]);
}

#[test]
fn a_server_without_ranges_sends_all_of_it_again() {
    let bench = Bench::new();
    bench.server.spoil(SHARD_1, 1, Fault::CutAfter(300_000));
    bench.server.spoil(SHARD_1, 1, Fault::NoRanges);
    let fetched = bench.fetch();
    bench.check(&fetched);
}

#[test]
fn a_wrong_length_is_an_error_and_leaves_nothing() {
    for difference in [-5, 7] {
        let bench = Bench::new();
        bench.server.spoil(SHARD_1, 99, Fault::Length(difference));
        let error = bench.fail();
        let got = 1_000_001_u64.saturating_add_signed(difference);
        assert!(
            matches!(&error, Error::WrongLength { file, stated: 1_000_001, got: g } if file == SHARD_1 && *g == got),
            "{error:?}"
        );
        assert!(!bench.folder().join(SHARD_1).exists());
    }
}

#[test]
fn a_flipped_byte_is_an_error_and_leaves_nothing() {
    for (file, at) in [
        (SHARD_1, 999_999),
        ("tokenizer.model", 0),
        ("config.json", 1),
    ] {
        let bench = Bench::new();
        bench.server.fault("GET", file, 99, Fault::Flip(at));
        // The redirect of a large file has a body as well, which is not read.
        let error = bench.fail();
        assert!(
            matches!(&error, Error::WrongHash { file: f, .. } if f == file),
            "{error:?}"
        );
        assert!(!bench.folder().join(file).exists());
        let blobs = names(&bench.dir.path().join("hub/models--org--phi/blobs"));
        let Error::WrongHash { stated, got, .. } = error else {
            unreachable!()
        };
        assert!(
            !blobs
                .iter()
                .any(|b| b.contains(&stated) || b.contains(&got)),
            "{blobs:?}"
        );
    }
}

#[test]
fn a_byte_flipped_once_is_fetched_again() {
    let bench = Bench::new();
    bench.server.spoil(SHARD_1, 1, Fault::Flip(77));
    bench.check(&bench.fetch());
    assert_eq!(bench.server.ranges(SHARD_1), [None, None]);
}
