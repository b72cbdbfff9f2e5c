//! Headers read by ranges from servers that are slow, silent or break off.

use modelve_hub::preview::{MOST_READ, Preview, Seen, preview};

use super::*;

impl Bench {
    fn preview(&self, id: &str) -> Result<Preview, Error> {
        let id: HubId = id.parse().unwrap();
        preview(&id, &self.options, &self.told, &self.told.cancel)
    }
}

/// A safetensors file of one tensor with `data` bytes, whose header is `header` bytes long.
fn safetensors(data: usize, header: usize) -> Vec<u8> {
    let mut text =
        format!(r#"{{"a":{{"dtype":"U8","shape":[{data}],"data_offsets":[0,{data}]}}}}"#);
    text.extend(std::iter::repeat_n(' ', header - text.len()));
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text.as_bytes());
    file.resize(file.len() + data, 1);
    file
}

#[test]
fn shards_become_files_of_their_length_with_the_header_alone() {
    let bench = Bench::new();
    let (short, long) = (safetensors(3 << 20, 200), safetensors(1 << 20, 400_000));
    bench.server.large(REPO, SHARD_1, &short);
    bench.server.large(REPO, SHARD_2, &long);
    let seen = bench.preview(REPO).unwrap();
    let Seen::Checkpoint { folder, bytes } = &seen.seen else {
        panic!("{seen:?}");
    };
    assert_eq!(*bytes, (short.len() + long.len()) as u64);
    let there = fs::read(folder.join(SHARD_1)).unwrap();
    assert_eq!(there.len(), short.len());
    assert_eq!(there[..208], short[..208]);
    let there = fs::read(folder.join(SHARD_2)).unwrap();
    assert_eq!(there[..400_008], long[..400_008]);
    assert_eq!(
        bench.server.ranges(SHARD_2),
        [
            Some("bytes=0-131071".to_owned()),
            Some("bytes=131072-400007".to_owned())
        ]
    );
    assert!(seen.read < 600_000, "{}", seen.read);
    assert!(!folder.join("tokenizer.model").exists());
    let folder = folder.clone();
    drop(seen);
    assert!(!folder.exists());
    assert!(
        !bench.dir.path().join("hub").exists(),
        "the cache is not touched"
    );
}

#[test]
fn a_header_longer_than_the_limit_is_not_asked_for() {
    let bench = Bench::new();
    let mut lie = safetensors(200 << 20, 100);
    lie[..8].copy_from_slice(&(150u64 << 20).to_le_bytes());
    bench.server.large(REPO, SHARD_1, &lie);
    let error = bench.preview(REPO).unwrap_err();
    assert!(
        matches!(
            error,
            Error::HeaderTooLong {
                limit: MOST_READ,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(bench.server.ranges(SHARD_1).len(), 1);
    // A header longer than the file is reported by the code that opens it.
    lie[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    bench.server.large(REPO, SHARD_1, &lie);
    assert!(bench.preview(REPO).is_ok());
}

#[test]
fn slow_and_silent_servers_are_given_up() {
    let mut bench = Bench::new();
    bench.options.answer_time = Duration::from_millis(500);
    bench.options.silence = Duration::from_millis(200);
    let started = Instant::now();
    let slow = Fault::Slow(10, Duration::from_millis(50));
    bench.server.spoil(SHARD_1, 99, slow);
    let error = bench.preview(REPO).unwrap_err();
    assert!(matches!(error, Error::TooSlow { .. }), "{error}");

    let mut bench = Bench::new();
    bench.options.silence = Duration::from_millis(200);
    let stall = Fault::StallAfter(100, Duration::from_secs(3));
    bench.server.spoil(SHARD_1, 99, stall);
    let error = bench.preview(REPO).unwrap_err();
    assert!(matches!(error, Error::Cut { attempts: 4, .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_wrong_range_is_an_error_and_a_wrong_length_another() {
    let range = |range: &str| Fault::Status(206, vec![("Content-Range", range.to_owned())]);
    for (answer, said) in [
        (range("bytes 7-9/1000001"), "another range than asked for"),
        (range("bytes 0-9/10"), "10 bytes were received"),
    ] {
        let bench = Bench::new();
        bench.server.spoil(SHARD_1, 99, answer);
        let error = bench.preview(REPO).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn ctrl_c_ends_it_and_the_token_stays_with_the_hub() {
    let mut bench = Bench::new();
    bench.options.token = Some("hf_secret".into());
    bench.preview(REPO).unwrap();
    for request in bench.server.requests() {
        assert_eq!(request.header("authorization").is_some(), !request.cdn);
    }
    bench.told.cancel.store(true, Ordering::Relaxed);
    let error = bench.preview(REPO).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    bench.options.offline = true;
    let error = bench.preview(REPO).unwrap_err();
    assert!(matches!(error, Error::Offline { .. }), "{error}");
}
