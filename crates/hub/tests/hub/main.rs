//! Tests of fetching against a Hub stand-in on loopback, with and without failures.

#![allow(missing_docs)]

#[path = "../../../../tests/support/hub_server.rs"]
#[allow(dead_code)]
mod hub_server;

mod answers;
mod choice;
mod place;
mod preview;
mod refusal;
mod transfer;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hub_server::{COMMIT, Fault, HubServer};
use modelve_base::progress::{Progress, Unit};
use modelve_hub::{Cache, Error, FetchOptions, Fetched, HubId, Wanted, fetch};

/// Records what the progress is told.
#[derive(Default)]
struct Told {
    notes: Mutex<Vec<String>>,
    done: AtomicU64,
    total: AtomicU64,
    /// Cancels the fetch when this number of bytes is done.
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

/// A Hub with one checkpoint of two shards, and a cache for the test.
struct Bench {
    server: HubServer,
    dir: tempfile::TempDir,
    options: FetchOptions,
    told: Told,
}

const REPO: &str = "org/phi";
const SHARD_1: &str = "model-00001-of-00002.safetensors";
const SHARD_2: &str = "model-00002-of-00002.safetensors";

/// Returns bytes without repetition.
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
            cache: Cache::in_folder(dir.path().join("hub")),
            token: None,
            offline: false,
            verify: false,
            parallel: 4,
            attempts: 4,
            backoff: Duration::from_millis(10),
            silence: Duration::from_secs(2),
            answer_time: Duration::from_secs(60),
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
