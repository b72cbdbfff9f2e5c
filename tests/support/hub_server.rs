//! A stand-in for the Hugging Face Hub on the loopback interface, with a second server behind
//! it that large files are redirected to, and faults to order.
//!
//! It speaks what the client asks for: repository information, file trees, search, and
//! `resolve` with the headers by which the real Hub states lengths and hashes. Every request is
//! recorded. One thread per connection, one request per connection.

#[path = "hub_server/http.rs"]
mod http;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit of every repository that is not told another.
pub const COMMIT: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whether the second server got it.
    pub cdn: bool,
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What to do wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answer with this status and these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// Send so many bytes of the body, then close.
    CutAfter(u64),
    /// Send so many bytes of the body, then nothing for this time.
    StallAfter(u64, Duration),
    /// Change the byte at this position of the body.
    Flip(u64),
    /// Say and send so many bytes less (negative) or more than there are.
    Length(i64),
    /// Pretend that ranges do not exist.
    NoRanges,
    /// Send in pieces of this size with this pause between them.
    Slow(usize, Duration),
    /// Answer with this body and these headers.
    Body(String, Vec<(&'static str, String)>),
    /// Send blanks, without a length, for as long as somebody reads.
    Endless,
}

/// A fault, for which requests, and how many of them.
struct Order {
    method: &'static str,
    path: String,
    times: u32,
    fault: Fault,
}

enum Content {
    Memory(Vec<u8>),
    Disk(PathBuf),
}

struct Stored {
    content: Content,
    size: u64,
    /// git's hash.
    sha1: String,
    sha256: String,
    large: bool,
}

struct Repo {
    commit: String,
    gated: bool,
    /// Shown only to those who send this token.
    private: Option<String>,
    /// Whether the listing has the hashes of files; else only `resolve` has.
    hashes_listed: bool,
    /// How many files a page of the listing has.
    page: usize,
    /// The server that the listing's links to further pages name, if not this one.
    pages_at: Option<String>,
    files: BTreeMap<String, Arc<Stored>>,
}

#[derive(Default)]
struct State {
    repos: Mutex<BTreeMap<String, Repo>>,
    orders: Mutex<Vec<Order>>,
    log: Mutex<Vec<Request>>,
    stop: AtomicBool,
}

/// The two servers; they end when this is dropped.
pub struct HubServer {
    hub: SocketAddr,
    cdn: SocketAddr,
    state: Arc<State>,
}

impl HubServer {
    /// Starts both on free ports.
    pub fn start() -> HubServer {
        let state = Arc::new(State::default());
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let (hub, cdn) = (listen(), listen());
        let (hub_address, cdn_address) = (hub.local_addr().unwrap(), cdn.local_addr().unwrap());
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let state = state.clone();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if state.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (Ok(stream), state) = (stream, state.clone()) else {
                        continue;
                    };
                    thread::spawn(move || drop(http::answer(stream, is_cdn, cdn_address, &state)));
                }
            });
        }
        HubServer {
            hub: hub_address,
            cdn: cdn_address,
            state,
        }
    }

    /// The value for HF_ENDPOINT.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.hub)
    }

    /// Adds an empty repository, `org/name`.
    pub fn repo(&self, name: &str) -> &Self {
        let repo = Repo {
            commit: COMMIT.to_owned(),
            gated: false,
            private: None,
            hashes_listed: true,
            page: usize::MAX,
            pages_at: None,
            files: BTreeMap::new(),
        };
        self.state
            .repos
            .lock()
            .unwrap()
            .insert(name.to_owned(), repo);
        self
    }

    fn change(&self, repo: &str, f: impl FnOnce(&mut Repo)) -> &Self {
        f(self.state.repos.lock().unwrap().get_mut(repo).unwrap());
        self
    }

    /// A small file, which the Hub serves itself.
    pub fn small(&self, repo: &str, name: &str, bytes: &[u8]) -> &Self {
        self.add(repo, name, bytes, false)
    }

    /// A large file, which the Hub redirects to the second server.
    pub fn large(&self, repo: &str, name: &str, bytes: &[u8]) -> &Self {
        self.add(repo, name, bytes, true)
    }

    fn add(&self, repo: &str, name: &str, bytes: &[u8], large: bool) -> &Self {
        let mut git = Sha1::new();
        git.update(format!("blob {}\0", bytes.len()));
        git.update(bytes);
        let stored = Stored {
            size: bytes.len() as u64,
            sha1: hex(&git.finalize()),
            sha256: hex(&Sha256::digest(bytes)),
            content: Content::Memory(bytes.to_vec()),
            large,
        };
        self.change(repo, |repo| {
            repo.files.insert(name.to_owned(), Arc::new(stored));
        })
    }

    /// Every file of a folder; those above 1 MiB as large ones, read from the disk when asked
    /// for.
    pub fn folder(&self, repo: &str, folder: &Path) -> io::Result<&Self> {
        self.repo(repo);
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let (true, Some(name)) = (path.is_file(), path.file_name()) else {
                continue;
            };
            let name = name.to_string_lossy().into_owned();
            let size = path.metadata()?.len();
            if size <= 1 << 20 {
                self.small(repo, &name, &std::fs::read(&path)?);
                continue;
            }
            let mut sha256 = Sha256::new();
            io::copy(&mut File::open(&path)?, &mut sha256)?;
            let stored = Stored {
                content: Content::Disk(path),
                size,
                sha1: "0".repeat(40),
                sha256: hex(&sha256.finalize()),
                large: true,
            };
            self.change(repo, |repo| {
                repo.files.insert(name, Arc::new(stored));
            });
        }
        Ok(self)
    }

    /// Hides a file from `resolve` and keeps it in the listing, or the other way round.
    pub fn remove(&self, repo: &str, name: &str) -> &Self {
        self.change(repo, |repo| drop(repo.files.remove(name)))
    }

    /// Lets the repository's files only be had by those who accepted its licence: nobody.
    pub fn gate(&self, repo: &str) -> &Self {
        self.change(repo, |repo| repo.gated = true)
    }

    /// Shows the repository only to those who send this token.
    pub fn private(&self, repo: &str, token: &str) -> &Self {
        self.change(repo, |repo| repo.private = Some(token.to_owned()))
    }

    /// Leaves the hashes of files out of the listing.
    pub fn hide_hashes(&self, repo: &str) -> &Self {
        self.change(repo, |repo| repo.hashes_listed = false)
    }

    /// Lists so many files per page. The links to further pages name the server `at`, as those
    /// of a mirror do that hands on the Hub's own; without it they name this one.
    pub fn pages(&self, repo: &str, of: usize, at: Option<&str>) -> &Self {
        self.change(repo, |repo| {
            repo.page = of;
            repo.pages_at = at.map(str::to_owned);
        })
    }

    /// The address of the server that large files are redirected to.
    pub fn other(&self) -> String {
        format!("http://{}", self.cdn)
    }

    /// Moves the repository's main branch to another commit.
    pub fn commit(&self, repo: &str, commit: &str) -> &Self {
        self.change(repo, |repo| repo.commit = commit.to_owned())
    }

    /// Orders a fault for the next `times` requests of this method whose path contains `path`.
    /// Large files have their file name in the path on both servers.
    pub fn fault(&self, method: &'static str, path: &str, times: u32, fault: Fault) -> &Self {
        self.state.orders.lock().unwrap().push(Order {
            method,
            path: path.to_owned(),
            times,
            fault,
        });
        self
    }

    /// The same for the bytes of a large file.
    pub fn spoil(&self, file: &str, times: u32, fault: Fault) -> &Self {
        self.fault("GET", &format!("/cdn/{file}"), times, fault)
    }

    /// Takes all requests so far.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.log.lock().unwrap())
    }

    /// The ranges with which the bytes of a large file were asked for so far.
    pub fn ranges(&self, file: &str) -> Vec<Option<String>> {
        let log = self.state.log.lock().unwrap();
        log.iter()
            .filter(|r| r.cdn && r.method == "GET" && r.path.contains(file))
            .map(|r| r.header("range").map(str::to_owned))
            .collect()
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        for address in [self.hub, self.cdn] {
            drop(TcpStream::connect(address));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
