//! Fetching against a Hub stand-in on loopback: what goes right, and everything that goes wrong.

#[path = "support/hub_server.rs"]
#[allow(dead_code)]
mod hub_server;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hub_server::{COMMIT, Fault, HubServer};
use modelve::hub::{Cache, Error, FetchOptions, Fetched, HubId, Wanted, fetch};
use modelve::progress::{Progress, Unit};

/// Keeps what it is told.
#[derive(Default)]
struct Told {
    notes: Mutex<Vec<String>>,
    done: AtomicU64,
    total: AtomicU64,
    /// Presses Ctrl-C when so many bytes are done.
    cancel_at: Option<u64>,
    cancel: AtomicBool,
}

impl Progress for Told {
    fn start(&self, _: &str, _: Unit, total: u64, done: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
    }
    fn advance(&self, n: u64) {
        let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
        if self.cancel_at.is_some_and(|at| done >= at) {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
    fn rewind(&self, n: u64) {
        self.done.fetch_sub(n, Ordering::Relaxed);
    }
    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_owned());
    }
    fn finish(&self) {}
}

impl Told {
    fn notes(&self) -> String {
        self.notes.lock().unwrap().join("\n")
    }
    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

/// A Hub with one checkpoint of two shards, and a cache of our own.
struct Bench {
    server: HubServer,
    dir: tempfile::TempDir,
    options: FetchOptions,
    told: Told,
}

const REPO: &str = "org/phi";
const SHARD_1: &str = "model-00001-of-00002.safetensors";
const SHARD_2: &str = "model-00002-of-00002.safetensors";

/// Bytes that look like none of their neighbours.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len / 8 + 1).flat_map(|_| next()).collect();
    bytes.truncate(len);
    bytes
}

fn shard(n: u64) -> Vec<u8> {
    bytes(1_000_000 + n as usize, n)
}

impl Bench {
    fn new() -> Bench {
        let server = HubServer::start();
        let index =
            format!(r#"{{"weight_map":{{"a":"{SHARD_1}","b":"{SHARD_2}","c":"{SHARD_1}"}}}}"#);
        server
            .repo(REPO)
            .small(REPO, "config.json", b"{}")
            .small(REPO, "README.md", b"# phi")
            .small(REPO, "modeling_phi3.py", b"import torch")
            .small(REPO, "model.safetensors.index.json", index.as_bytes())
            .large(REPO, "tokenizer.model", &bytes(5000, 9))
            .large(REPO, SHARD_1, &shard(1))
            .large(REPO, SHARD_2, &shard(2))
            .large(REPO, "pytorch_model.bin", &bytes(100, 3));
        let dir = tempfile::tempdir().unwrap();
        let options = FetchOptions {
            endpoint: server.endpoint(),
            cache: Cache::at(dir.path().join("hub")),
            token: None,
            offline: false,
            verify: false,
            parallel: 4,
            attempts: 4,
            backoff: Duration::from_millis(10),
            silence: Duration::from_secs(2),
            free_space: |_| None,
        };
        Bench {
            server,
            dir,
            options,
            told: Told::default(),
        }
    }

    fn try_fetch(&self, id: &str, wanted: Wanted) -> Result<Fetched, Error> {
        let id: HubId = id.parse().unwrap();
        fetch(&id, wanted, &self.options, &self.told, &self.told.cancel)
    }

    fn fetch(&self) -> Fetched {
        self.try_fetch(REPO, Wanted::Checkpoint).unwrap()
    }

    fn fail(&self) -> Error {
        self.try_fetch(REPO, Wanted::Checkpoint).unwrap_err()
    }

    fn folder(&self) -> PathBuf {
        let snapshots = self.dir.path().join("hub/models--org--phi/snapshots");
        snapshots.join(COMMIT)
    }

    /// The part files in the cache, with their lengths.
    fn parts(&self) -> Vec<(PathBuf, u64)> {
        let blobs = self.dir.path().join("hub/models--org--phi/blobs");
        let mut parts: Vec<_> = fs::read_dir(blobs)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "incomplete"))
            .filter_map(|path| Some((path.clone(), path.metadata().ok()?.len())))
            .collect();
        parts.sort();
        parts
    }

    fn check(&self, fetched: &Fetched) {
        for (name, bytes) in [(SHARD_1, shard(1)), (SHARD_2, shard(2))] {
            assert!(
                fs::read(fetched.folder.join(name)).unwrap() == bytes,
                "{name}"
            );
        }
        assert_eq!(self.parts(), [], "no part is left");
        assert_eq!(self.told.done(), self.told.total.load(Ordering::Relaxed));
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

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
    // The layout that Python reads.
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
    // A new commit with one changed shard: only that one comes.
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
    assert!(error.hint().unwrap().contains("goes on where it stopped"));
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
    // One that is too long is no start of anything.
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
        // The redirect of a large file has a body, too; it is not looked at.
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

#[test]
fn errors_that_pass_are_tried_again() {
    for (method, path) in [
        ("GET", "/api/models/org/phi?"),
        ("GET", "/tree/"),
        ("HEAD", SHARD_1),
        ("GET", "/resolve/"),
        ("GET", "/cdn/"),
    ] {
        for status in [500, 503, 429] {
            let bench = Bench::new();
            bench
                .server
                .fault(method, path, 2, Fault::Status(status, vec![]));
            bench.check(&bench.fetch());
            let notes = bench.told.notes();
            assert!(
                notes.contains(&format!("answers {status}")),
                "{method} {path}: {notes}"
            );
        }
    }
    // A signature that is too old is refused behind the Hub; the next redirect has a new one.
    let bench = Bench::new();
    bench.server.spoil(SHARD_1, 1, Fault::Status(403, vec![]));
    bench.check(&bench.fetch());
}

#[test]
fn errors_that_do_not_pass_end_the_fetch() {
    let bench = Bench::new();
    bench.server.spoil(SHARD_1, 99, Fault::Status(502, vec![]));
    let error = bench.fail();
    assert!(
        matches!(error, Error::Server { status: 502, .. }),
        "{error:?}"
    );
    assert_eq!(bench.server.ranges(SHARD_1).len(), 4);
}

#[test]
fn a_server_that_says_when_is_asked_then() {
    let bench = Bench::new();
    let wait = || Fault::Status(429, vec![("Retry-After", "1".into())]);
    bench.server.fault("GET", "/api/models/org/phi?", 1, wait());
    bench.server.spoil(SHARD_2, 1, wait());
    let start = Instant::now();
    bench.check(&bench.fetch());
    assert!(
        start.elapsed() >= Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    assert!(bench.told.notes().contains("trying again in 1.0 s"));
}

#[test]
fn a_repository_that_is_not_there_comes_with_suggestions() {
    let bench = Bench::new();
    bench
        .server
        .repo("microsoft/Phi-3-mini-128k-instruct")
        .repo("microsoft/phi-1");
    for token in [None, Some("hf_x".to_owned())] {
        let mut options = bench.options.clone();
        options.token = token;
        let id: HubId = "microsoft/Phi-3-mini-128k-instrct@v1".parse().unwrap();
        let error = fetch(&id, Wanted::Any, &options, &bench.told, &bench.told.cancel).unwrap_err();
        assert!(
            error.to_string().starts_with("no such model on 127.0.0.1:"),
            "{error}"
        );
        assert_eq!(
            error.hint().unwrap(),
            "did you mean microsoft/Phi-3-mini-128k-instruct?",
        );
    }
}

#[test]
fn a_revision_or_file_that_is_not_there_is_named() {
    let bench = Bench::new();
    let error = bench
        .try_fetch("org/phi@v9", Wanted::Checkpoint)
        .unwrap_err();
    assert_eq!(error.to_string(), "org/phi has no revision `v9`");

    bench.server.fault(
        "HEAD",
        SHARD_1,
        9,
        Fault::Status(404, vec![("X-Error-Code", "EntryNotFound".into())]),
    );
    let error = bench.fail();
    assert!(
        matches!(&error, Error::NoSuchFile { file, .. } if file == SHARD_1),
        "{error:?}"
    );
}

#[test]
fn what_may_not_be_had_says_why_and_what_to_do() {
    let bench = Bench::new();
    bench.server.gate(REPO);
    let hint = bench.fail().hint().unwrap();
    let page = format!("{}/org/phi", bench.server.endpoint());
    assert_eq!(
        hint,
        format!("accept the licence at {page} and set HF_TOKEN")
    );

    let mut bench = Bench::new();
    bench.options.token = Some("hf_old".into());
    let refuse = Fault::Status(401, vec![]);
    bench
        .server
        .fault("GET", "/api/models/org/phi", 9, refuse.clone());
    assert_eq!(
        bench.fail().to_string(),
        "the Hub refuses org/phi: the token is not valid"
    );

    // Without a token 401 is what the Hub answers for what is private or not there.
    let bench = Bench::new();
    if bench.options.token.is_none() && std::env::var_os("HF_TOKEN").is_none() {
        bench
            .server
            .fault("GET", "/api/models/org/phi", 9, refuse.clone());
        let error = bench.fail();
        assert!(matches!(error, Error::NoSuchRepo { .. }), "{error:?}");
    }
    let bench = Bench::new();
    bench.server.fault("HEAD", SHARD_1, 9, refuse);
    let error = bench.fail();
    assert_eq!(
        error.to_string(),
        "the Hub refuses org/phi: it needs a token"
    );
    assert!(error.hint().unwrap().contains("HF_TOKEN"));

    let bench = Bench::new();
    bench
        .server
        .fault("GET", "/tree/", 9, Fault::Status(403, vec![]));
    let error = bench.fail();
    assert!(matches!(error, Error::Forbidden { .. }), "{error:?}");
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let mut bench = Bench::new();
    bench.server.private(REPO, "hf_secret");
    assert!(matches!(bench.fail(), Error::NoSuchRepo { .. }));
    bench.options.token = Some("hf_secret".into());
    bench.server.requests();
    bench.check(&bench.fetch());
    let requests = bench.server.requests();
    assert!(requests.iter().any(|r| r.cdn));
    for request in requests {
        let sent = request.header("authorization");
        let expected = if request.cdn {
            None
        } else {
            Some("Bearer hf_secret")
        };
        assert_eq!(sent, expected, "{} {}", request.method, request.path);
    }
}

#[test]
fn redirects_on_the_hub_itself_are_followed_with_the_token() {
    let mut bench = Bench::new();
    bench.options.token = Some("hf_secret".into());
    let to = |file: &str| {
        let location = format!("/org/phi/resolve/main/{file}");
        Fault::Status(307, vec![("Location", location)])
    };
    bench.server.fault(
        "GET",
        &format!("{COMMIT}/config.json"),
        1,
        to("config.json"),
    );
    bench
        .server
        .fault("HEAD", &format!("{COMMIT}/{SHARD_1}"), 1, to(SHARD_1));
    bench.check(&bench.fetch());
    let requests = bench.server.requests();
    let followed: Vec<_> = requests
        .iter()
        .filter(|r| r.path.contains("/main/"))
        .collect();
    assert_eq!(followed.len(), 2);
    assert!(
        followed
            .iter()
            .all(|r| r.header("authorization") == Some("Bearer hf_secret"))
    );
}

#[test]
fn a_redirect_that_never_ends_does() {
    let bench = Bench::new();
    let around = Fault::Status(
        302,
        vec![("Location", "/org/phi/resolve/main/config.json".into())],
    );
    bench.server.fault("GET", "config.json", 999, around);
    let error = bench.fail();
    assert!(error.to_string().contains("too many redirects"), "{error}");
}

#[test]
fn answers_that_make_no_sense_are_refused() {
    let bench = Bench::new();
    bench.server.commit(REPO, "../../etc");
    let error = bench.fail();
    assert!(matches!(error, Error::Malformed { .. }), "{error:?}");

    let bench = Bench::new();
    bench.server.fault(
        "HEAD",
        SHARD_1,
        9,
        Fault::Status(200, vec![("ETag", "\"../x\"".into())]),
    );
    let error = bench.fail();
    assert!(matches!(error, Error::NoChecksum { .. }), "{error:?}");

    let bench = Bench::new();
    let size = Fault::Status(
        302,
        vec![
            ("X-Linked-ETag", "ab".repeat(32)),
            ("X-Linked-Size", "12".into()),
        ],
    );
    bench.server.fault("HEAD", SHARD_1, 9, size);
    let error = bench.fail();
    assert!(
        matches!(error, Error::WrongLength { got: 12, .. }),
        "{error:?}"
    );
}

#[test]
fn rejects_a_weight_map_that_leaves_the_folder() {
    for name in [
        "../evil",
        "/etc/evil",
        "a/../../evil",
        "..\\\\evil",
        "C:evil",
    ] {
        let bench = Bench::new();
        let index = format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#);
        bench
            .server
            .small(REPO, "model.safetensors.index.json", index.as_bytes());
        bench
            .server
            .large(REPO, &name.replace("\\\\", "\\"), b"evil");
        let error = bench.fail();
        assert!(matches!(error, Error::Select { .. }), "{name}: {error:?}");
        assert!(bench.server.ranges("evil").is_empty());
    }
}

#[test]
fn an_index_must_fit_the_repository() {
    let bench = Bench::new();
    bench.server.remove(REPO, SHARD_2);
    let error = bench.fail();
    assert!(
        matches!(&error, Error::NoShard { shard, .. } if shard == SHARD_2),
        "{error:?}"
    );

    let bench = Bench::new();
    bench.server.remove(REPO, "model.safetensors.index.json");
    let error = bench.fail();
    assert!(
        error
            .to_string()
            .starts_with("org/phi has no safetensors, only README.md"),
        "{error}"
    );
}

#[test]
fn an_unsharded_checkpoint_needs_no_index() {
    let bench = Bench::new();
    bench
        .server
        .repo("o/one")
        .small("o/one", "config.json", b"{}");
    bench.server.large("o/one", "model.safetensors", &shard(5));
    let fetched = bench.try_fetch("o/one", Wanted::Any).unwrap();
    assert_eq!(
        fs::read(fetched.folder.join("model.safetensors")).unwrap(),
        shard(5)
    );
    assert_eq!(fetched.gguf, None);
}

#[test]
fn a_gguf_is_fetched_by_its_quantization() {
    let bench = Bench::new();
    let repo = "o/phi-GGUF";
    bench.server.repo(repo);
    for name in [
        "phi-Q4_K_M.gguf",
        "phi-Q8_0.gguf",
        "big/phi-BF16-00001-of-00002.gguf",
        "big/phi-BF16-00002-of-00002.gguf",
    ] {
        bench.server.large(repo, name, name.as_bytes());
    }
    let fetched = bench.try_fetch("o/phi-GGUF:q8_0", Wanted::Any).unwrap();
    assert_eq!(fetched.gguf, Some(fetched.folder.join("phi-Q8_0.gguf")));
    assert_eq!(names(&fetched.folder), ["phi-Q8_0.gguf"]);

    let fetched = bench.try_fetch("o/phi-GGUF:BF16", Wanted::Gguf).unwrap();
    let first = fetched.gguf.unwrap();
    assert!(first.ends_with("big/phi-BF16-00001-of-00002.gguf"));
    assert_eq!(names(first.parent().unwrap()).len(), 2);

    let fetched = bench.try_fetch("o/phi-GGUF", Wanted::Any).unwrap();
    assert!(
        fetched.gguf.unwrap().ends_with("phi-Q4_K_M.gguf"),
        "the default"
    );

    let error = bench.try_fetch("o/phi-GGUF:Q5_0", Wanted::Any).unwrap_err();
    assert_eq!(
        error.to_string(),
        "o/phi-GGUF has no GGUF file in Q5_0, only BF16, Q4_K_M, Q8_0"
    );
    bench.server.remove(repo, "phi-Q4_K_M.gguf");
    let error = bench.try_fetch("o/phi-GGUF", Wanted::Any).unwrap_err();
    assert!(
        matches!(&error, Error::WhichGguf { names, .. } if names.len() == 2),
        "{error:?}"
    );
    bench
        .server
        .remove(repo, "big/phi-BF16-00002-of-00002.gguf");
    let error = bench.try_fetch("o/phi-GGUF:BF16", Wanted::Any).unwrap_err();
    assert!(
        error.to_string().contains("complete set of the parts"),
        "{error}"
    );
}

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
    assert!(error.contains("65.43 MiB free"), "{error}");
    assert!(bench.server.ranges("").is_empty());
    bench.options.free_space = |_| Some((64 << 20) + 2_100_000);
    bench.check(&bench.fetch());
    // What is here needs no space.
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

/// What a process of its own does when the environment says so; otherwise nothing.
#[test]
fn child() {
    let Ok(cache) = std::env::var("HUB_TEST_CACHE") else {
        return;
    };
    let mut options = FetchOptions::from_env();
    options.cache = Cache::at(cache);
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
    command
        .args(["--exact", "child", "--nocapture"])
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
