//! The transfer of one file from the Hub, through a part file, into a blob of the cache.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_RANGE, HeaderMap};
use reqwest::{Response, StatusCode};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::api::{Digest, Stated};
use super::failure::Failure;
use super::remote::{Remote, Span, host_of, words};
use super::{Error, own};

/// Bytes that are read at a time when a file on the disk is hashed.
const READ: usize = 1 << 20;
/// Interval at which a lock that another process holds is tried again.
const LOCK_TICK: Duration = Duration::from_millis(200);

/// State that the transfers of all files of a fetch share.
pub(super) struct Transfer<'a> {
    pub remote: &'a Remote<'a>,
    pub commit: &'a str,
    /// Bytes received over the network.
    pub received: AtomicU64,
    /// Bytes that need not be fetched (again): those of verified files and of part files.
    pub here: AtomicU64,
    /// Whether the note that another process is waited for was shown.
    pub told: AtomicBool,
}

/// A hasher for either of the two hashes by which the Hub names files.
enum Hasher {
    Sha256(Sha256),
    GitSha1(Sha1),
}

impl Hasher {
    fn new(file: &Stated) -> Hasher {
        match file.digest {
            Digest::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Digest::GitSha1(_) => {
                let mut sha = Sha1::new();
                sha.update(format!("blob {}\0", file.size));
                Hasher::GitSha1(sha)
            }
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(sha) => sha.update(bytes),
            Hasher::GitSha1(sha) => sha.update(bytes),
        }
    }

    fn hex(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
        match self {
            Hasher::Sha256(sha) => hex(&sha.finalize()),
            Hasher::GitSha1(sha) => hex(&sha.finalize()),
        }
    }
}

/// The part file of a blob, its length, and the hash of its content so far.
struct Part<'a> {
    file: File,
    path: &'a Path,
    stated: &'a Stated,
    hasher: Hasher,
    len: u64,
}

impl Transfer<'_> {
    /// Fetches a file into the cache and links it in the snapshot. `counted` is the number of its
    /// bytes that the progress began with.
    pub async fn fetch(&self, file: &Stated, counted: u64) -> Result<(), Error> {
        let cache = &self.remote.options.cache;
        let (repo, hash) = (self.remote.repo, file.digest.hex());
        // Another process may have fetched the file meanwhile, so the cache is looked at again, and
        // once more when the lock is held.
        if self.is_there(file).await? {
            self.count_from(counted, file.size);
        } else {
            let (blob, path) = (cache.blob(repo, hash), cache.incomplete(repo, hash));
            let parent = blob.parent().unwrap_or(cache.root());
            fs::create_dir_all(parent).map_err(|e| write_error(parent, e))?;
            let lock = self.lock(hash).await?;
            if self.is_there(file).await? {
                self.count_from(counted, file.size);
            } else {
                self.count_from(counted, self.remote.part_len(file));
                self.fill(&path, file).await?;
                fs::rename(&path, &blob).map_err(|e| write_error(&blob, e))?;
            }
            drop(lock);
        }
        cache
            .link(repo, self.commit, &file.name, hash)
            .map_err(|e| write_error(&cache.snapshot_folder(repo, self.commit), e))
    }

    /// Returns whether the cache has the blob, by its length, or by its content where hashing it is
    /// cheap or was asked for. A wrong blob is replaced once the right one is complete.
    pub async fn is_there(&self, file: &Stated) -> Result<bool, Error> {
        let options = self.remote.options;
        let path = options.cache.blob(self.remote.repo, file.digest.hex());
        let Ok(meta) = fs::metadata(&path) else {
            return Ok(false);
        };
        let mut good = meta.is_file() && meta.len() == file.size;
        if good && (options.verify || matches!(file.digest, Digest::GitSha1(_))) {
            let mut hasher = Hasher::new(file);
            let mut reader = File::open(&path).map_err(|e| read_error(&path, e))?;
            self.hash(&mut reader, &path, &mut hasher).await?;
            good = hasher.hex() == file.digest.hex();
        }
        Ok(good)
    }

    async fn lock(&self, hash: &str) -> Result<Option<File>, Error> {
        let cache = &self.remote.options.cache;
        loop {
            match cache.try_lock(self.remote.repo, hash) {
                Ok(Some(lock)) => return Ok(Some(lock)),
                Ok(None) => {
                    if !self.told.swap(true, Ordering::Relaxed) {
                        self.remote.progress.note(&format!(
                            "waiting for another process that fetches {}",
                            self.remote.repo
                        ));
                    }
                    self.remote.guarded(tokio::time::sleep(LOCK_TICK)).await?;
                }
                Err(e) => return Err(write_error(&cache.root().join(".locks"), e)),
            }
        }
    }

    /// Receives the rest of the part file and verifies it.
    async fn fill(&self, path: &Path, file: &Stated) -> Result<(), Error> {
        let mut part = self.open_part(path, file).await?;
        let mut second_time = false;
        loop {
            self.receive_all(&mut part).await?;
            let got = std::mem::replace(&mut part.hasher, Hasher::new(file)).hex();
            if got == file.digest.hex() {
                break;
            }
            // Bytes may have been damaged on the disk or on their way, so the file is fetched from
            // the beginning once more before this is an error.
            self.restart(&mut part)?;
            if second_time {
                fs::remove_file(path).map_err(|e| write_error(path, e))?;
                return Err(Error::WrongHash {
                    file: file.name.clone(),
                    stated: file.digest.hex().to_owned(),
                    got,
                });
            }
            second_time = true;
            self.remote.progress.note(&format!(
                "{} is not what the Hub states: fetching it again",
                file.name
            ));
        }
        part.file.sync_all().map_err(|e| write_error(path, e))
    }

    /// Opens the part file for appending and hashes what is in it.
    async fn open_part<'p>(&self, path: &'p Path, file: &'p Stated) -> Result<Part<'p>, Error> {
        let handle = own::open_to_append(path).map_err(|e| write_error(path, e))?;
        let mut part = Part {
            len: handle.metadata().map_err(|e| read_error(path, e))?.len(),
            file: handle,
            path,
            stated: file,
            hasher: Hasher::new(file),
        };
        if part.len > file.size {
            part.file.set_len(0).map_err(|e| write_error(path, e))?;
            part.len = 0;
        } else if part.len > 0 {
            // The position for reading is at the beginning; writing appends.
            self.hash(&mut part.file, path, &mut part.hasher).await?;
        }
        Ok(part)
    }

    /// Receives until the part file is complete, over as many connections as that takes.
    async fn receive_all(&self, part: &mut Part<'_>) -> Result<(), Error> {
        let mut tries = 0;
        while part.len < part.stated.size {
            let before = part.len;
            let failure = match self.receive(part).await {
                Ok(()) => continue,
                Err(failure) => failure,
            };
            let (error, wait) = match failure {
                Failure::Lasting(error) => return Err(error),
                Failure::Passing(error, wait) => (error, wait),
            };
            // Only attempts that received nothing, or next to nothing, count.
            let crawled = matches!(error, Error::TooSlow { .. });
            let fruitless = crawled || part.len == before;
            tries = if fruitless { tries + 1 } else { 1 };
            if tries >= self.remote.options.attempts {
                return Err(match error {
                    Error::Cut { file, at, why, .. } => Error::Cut {
                        file,
                        at,
                        why,
                        attempts: tries,
                    },
                    error => error,
                });
            }
            self.remote.pause(&error, tries, wait).await?;
        }
        Ok(())
    }

    /// Receives from one connection until it ends.
    async fn receive(&self, part: &mut Part<'_>) -> Result<(), Failure> {
        let name = &part.stated.name;
        let request = self.remote.get(self.commit, name, Span::from(part.len));
        let mut answer = self.remote.guarded(request).await??;
        self.position(part, &answer)?;
        let mut pace = Pace::new(part.len, self.remote.options.answer_time);
        loop {
            if !pace.keeps_up(part.len) {
                let (host, limit) = (host_of(answer.url()), pace.window);
                return Err(Failure::Passing(Error::TooSlow { host, limit }, None));
            }
            let chunk = match self.remote.guarded(answer.chunk()).await? {
                Ok(Some(chunk)) => chunk,
                Ok(None) if part.len == part.stated.size => return Ok(()),
                Ok(None) => return Err(cut(part, "it ends too early".to_owned())),
                Err(e) => return Err(cut(part, words(&e))),
            };
            let n = chunk.len() as u64;
            if n > part.stated.size - part.len {
                let got = part.len + n;
                self.restart(part)?;
                return Err(Failure::Lasting(Error::WrongLength {
                    file: name.clone(),
                    stated: part.stated.size,
                    got,
                }));
            }
            part.file
                .write_all(&chunk)
                .map_err(|e| write_error(part.path, e))?;
            part.hasher.update(&chunk);
            part.len += n;
            self.received.fetch_add(n, Ordering::Relaxed);
            self.here.fetch_add(n, Ordering::Relaxed);
            self.remote.progress.advance(n);
        }
    }

    /// Checks that an answer continues where the part file ends, and empties the part file where
    /// the answer starts at the beginning.
    fn position(&self, part: &mut Part<'_>, answer: &Response) -> Result<(), Failure> {
        let size = part.stated.size;
        let wrong_length = |got| {
            Failure::Lasting(Error::WrongLength {
                file: part.stated.name.clone(),
                stated: size,
                got,
            })
        };
        match answer.status() {
            StatusCode::OK => {
                if let Some(got) = answer.content_length()
                    && got != size
                {
                    return Err(wrong_length(got));
                }
                if part.len > 0 {
                    // This server does not support ranges.
                    self.restart(part)?;
                }
                Ok(())
            }
            StatusCode::PARTIAL_CONTENT => match content_range(answer.headers()) {
                Some((start, Some(total))) if start == part.len && total != size => {
                    Err(wrong_length(total))
                }
                Some((start, _)) if start == part.len => Ok(()),
                _ => Err(self.remote.malformed("another range than asked for").into()),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let got = part.len;
                self.restart(part)?;
                Err(cut(part, format!("no range from {got} on")))
            }
            status => Err(self
                .remote
                .malformed(&format!("{status} where a file was expected"))
                .into()),
        }
    }

    /// Empties the part file.
    fn restart(&self, part: &mut Part<'_>) -> Result<(), Error> {
        part.file
            .set_len(0)
            .map_err(|e| write_error(part.path, e))?;
        self.count_from(part.len, 0);
        part.hasher = Hasher::new(part.stated);
        part.len = 0;
        Ok(())
    }

    /// Corrects the count of bytes that need not be fetched from `before` to `now`.
    fn count_from(&self, before: u64, now: u64) {
        if now >= before {
            self.here.fetch_add(now - before, Ordering::Relaxed);
            self.remote.progress.advance(now - before);
        } else {
            self.here.fetch_sub(before - now, Ordering::Relaxed);
            self.remote.progress.rewind(before - now);
        }
    }

    /// Hashes a file to its end. Other transfers run in between.
    async fn hash(&self, reader: &mut File, path: &Path, hasher: &mut Hasher) -> Result<(), Error> {
        let mut buffer = vec![0; READ];
        loop {
            let n = reader.read(&mut buffer).map_err(|e| read_error(path, e))?;
            if n == 0 {
                return Ok(());
            }
            hasher.update(&buffer[..n]);
            self.remote.guarded(tokio::task::yield_now()).await?;
        }
    }
}

/// The rate at which a body is received. A connection that sends a byte now and then is never
/// silent, so silence alone would not end it.
struct Pace {
    window: Duration,
    since: Instant,
    from: u64,
}

impl Pace {
    /// Bytes per second below which a connection counts as too slow.
    const LEAST: f64 = 1024.0;

    fn new(from: u64, window: Duration) -> Self {
        Pace {
            window,
            since: Instant::now(),
            from,
        }
    }

    /// Returns whether enough was received in the window that ends now; `at` is the number of bytes
    /// of the body so far. Always true before the window is over.
    fn keeps_up(&mut self, at: u64) -> bool {
        let time = self.since.elapsed();
        if time < self.window {
            return true;
        }
        let enough = (at - self.from) as f64 >= Self::LEAST * time.as_secs_f64();
        (self.since, self.from) = (Instant::now(), at);
        enough
    }
}

impl Remote<'_> {
    /// The length of a file's part file; 0 where it is too long to be a part of the file.
    pub fn part_len(&self, file: &Stated) -> u64 {
        let path = self.options.cache.incomplete(self.repo, file.digest.hex());
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_file() && meta.len() <= file.size => meta.len(),
            _ => 0,
        }
    }
}

fn cut(part: &Part<'_>, why: String) -> Failure {
    let error = Error::Cut {
        file: part.stated.name.clone(),
        attempts: 1,
        at: part.len,
        why,
    };
    Failure::Passing(error, None)
}

/// Parses a Content-Range header, `bytes START-END/TOTAL`, to its start and total; the total is
/// `None` where it is `*`.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

pub(super) fn write_error(path: &Path, source: io::Error) -> Error {
    Error::Write {
        path: path.to_owned(),
        source,
    }
}

fn read_error(path: &Path, source: io::Error) -> Error {
    Error::Read {
        path: path.to_owned(),
        source,
    }
}
