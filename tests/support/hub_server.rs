//! A stand-in for the Hugging Face Hub on the loopback interface, with a second server behind
//! it that large files are redirected to, and faults to order.
//!
//! It speaks what the client asks for: repository information, file trees, search, and
//! `resolve` with the headers by which the real Hub states lengths and hashes. Every request is
//! recorded. One thread per connection, one request per connection.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
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
                    thread::spawn(move || drop(answer(stream, is_cdn, cdn_address, &state)));
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

/// What goes back.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

enum Body {
    Text(String),
    File(Arc<Stored>),
}

fn text(status: u16, text: impl Into<String>) -> Answer {
    Answer {
        status,
        headers: vec![("Content-Type", "application/json".into())],
        body: Body::Text(text.into()),
    }
}

fn refusal(status: u16, code: &str, message: &str) -> Answer {
    let mut answer = text(status, format!(r#"{{"error":"{message}"}}"#));
    answer.headers.push(("X-Error-Code", code.into()));
    answer.headers.push(("X-Error-Message", message.into()));
    answer
}

fn answer(stream: TcpStream, is_cdn: bool, cdn: SocketAddr, state: &State) -> io::Result<()> {
    let Some(request) = read_request(&stream, is_cdn)? else {
        return Ok(());
    };
    state.log.lock().unwrap().push(request.clone());
    let fault = {
        let mut orders = state.orders.lock().unwrap();
        let fits = |o: &&mut Order| {
            o.times > 0 && o.method == request.method && request.path.contains(&o.path)
        };
        orders.iter_mut().find(fits).map(|order| {
            order.times -= 1;
            order.fault.clone()
        })
    };
    let answer = match &fault {
        Some(Fault::Status(status, headers)) => {
            let mut answer = text(*status, r#"{"error":"ordered"}"#);
            answer.headers.extend(headers.clone());
            answer
        }
        _ => route(&request, cdn, state),
    };
    send(stream, &request, answer, fault)
}

fn read_request(stream: &TcpStream, cdn: bool) -> io::Result<Option<Request>> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned())
            }
            None => break,
        };
    }
    Ok(Some(Request {
        cdn,
        method: method.to_owned(),
        path: path.to_owned(),
        headers,
    }))
}

fn route(request: &Request, cdn: SocketAddr, state: &State) -> Answer {
    let repos = state.repos.lock().unwrap();
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let parts: Vec<String> = path.split('/').skip(1).map(unquote).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    if request.cdn {
        // /cdn/FILE/SHA256
        let sha = parts.last().copied().unwrap_or_default();
        let file = repos
            .values()
            .flat_map(|repo| repo.files.values())
            .find(|file| file.sha256 == sha);
        return match file {
            Some(file) => Answer {
                status: 200,
                headers: vec![("ETag", format!("\"cdn-{sha}\""))],
                body: Body::File(file.clone()),
            },
            None => text(403, "expired"),
        };
    }
    if parts == ["api", "models"] {
        let value = |key: &str| {
            let found = query.split('&').find_map(|pair| pair.strip_prefix(key))?;
            Some(unquote(&found.replace('+', " ")))
        };
        let (search, author) = (value("search="), value("author="));
        let found: Vec<String> = repos
            .keys()
            .filter(|id| search.as_ref().is_none_or(|text| id.contains(text)))
            .filter(|id| {
                author
                    .as_ref()
                    .is_none_or(|a| id.starts_with(&format!("{a}/")))
            })
            .map(|id| format!(r#"{{"_id":"1","id":"{id}"}}"#))
            .collect();
        return text(200, format!("[{}]", found.join(",")));
    }
    let (id, rest) = match parts.as_slice() {
        ["api", "models", org, name, rest @ ..] | [org, name, rest @ ..] => {
            (format!("{org}/{name}"), rest)
        }
        _ => return refusal(404, "", "no such page"),
    };
    let token = request
        .header("authorization")
        .and_then(|value| value.strip_prefix("Bearer "));
    let Some(repo) = repos
        .get(&id)
        .filter(|repo| repo.private.is_none() || repo.private.as_deref() == token)
    else {
        // The Hub tells strangers nothing about what is private.
        let status = if token.is_some() { 404 } else { 401 };
        return refusal(status, "RepoNotFound", "Repository not found");
    };
    let known = |revision: &str| revision == "main" || revision == repo.commit;
    let no_revision = || refusal(404, "RevisionNotFound", "Invalid rev id");
    match rest {
        [] => text(200, info(&id, repo)),
        ["revision", revision] if known(revision) => text(200, info(&id, repo)),
        ["tree", revision] if known(revision) => text(200, tree(repo)),
        ["resolve", revision, file @ ..] if known(revision) => {
            if repo.gated {
                return refusal(403, "GatedRepo", "Access to this model is restricted");
            }
            resolve(repo, &file.join("/"), cdn)
        }
        ["revision" | "tree" | "resolve", ..] => no_revision(),
        _ => refusal(404, "", "no such page"),
    }
}

fn info(id: &str, repo: &Repo) -> String {
    format!(r#"{{"_id":"1","id":"{id}","sha":"{}"}}"#, repo.commit)
}

fn tree(repo: &Repo) -> String {
    let mut entries = vec![format!(
        r#"{{"type":"directory","oid":"{}","size":0,"path":"sub"}}"#,
        "0".repeat(40)
    )];
    for (name, file) in &repo.files {
        let lfs = match file.large {
            true => format!(
                r#","lfs":{{"oid":"{}","size":{},"pointerSize":135}}"#,
                file.sha256, file.size
            ),
            false => String::new(),
        };
        // Of a large file git has only the pointer, and so another hash.
        let oid = match file.large {
            true => "f".repeat(40),
            false => file.sha1.clone(),
        };
        let name = name.replace('\\', "\\\\");
        entries.push(format!(
            r#"{{"type":"file","oid":"{oid}","size":{},"path":"{name}"{lfs}}}"#,
            file.size
        ));
    }
    format!("[{}]", entries.join(","))
}

fn resolve(repo: &Repo, name: &str, cdn: SocketAddr) -> Answer {
    let Some(file) = repo.files.get(name) else {
        return refusal(404, "EntryNotFound", "Entry not found");
    };
    let mut headers = vec![("X-Repo-Commit", repo.commit.clone())];
    if !file.large {
        headers.push(("ETag", format!("\"{}\"", file.sha1)));
        return Answer {
            status: 200,
            headers,
            body: Body::File(file.clone()),
        };
    }
    let location = format!("http://{cdn}/cdn/{name}/{}", file.sha256);
    headers.push(("X-Linked-Size", file.size.to_string()));
    headers.push(("X-Linked-ETag", format!("\"{}\"", file.sha256)));
    headers.push(("X-Xet-Hash", "ab".repeat(32)));
    headers.push(("Location", location));
    Answer {
        status: 302,
        headers,
        body: Body::Text("moved".into()),
    }
}

fn send(
    mut stream: TcpStream,
    request: &Request,
    answer: Answer,
    fault: Option<Fault>,
) -> io::Result<()> {
    let mut status = answer.status;
    let mut headers = answer.headers;
    let (mut from, end) = match &answer.body {
        Body::Text(text) => (0, text.len() as u64),
        Body::File(file) => (0, file.size),
    };
    let ranges = !matches!(fault, Some(Fault::NoRanges)) && matches!(answer.body, Body::File(_));
    let asked = request.header("range").and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    });
    if let (Some(start), true) = (asked, ranges) {
        from = start;
        if from >= end {
            status = 416;
            headers.push(("Content-Range", format!("bytes */{end}")));
            from = end;
        } else {
            status = 206;
            headers.push(("Content-Range", format!("bytes {from}-{}/{end}", end - 1)));
        }
    }
    let (mut length, mut stop) = (end - from, u64::MAX);
    match fault {
        Some(Fault::Length(difference)) => length = length.saturating_add_signed(difference),
        Some(Fault::CutAfter(n) | Fault::StallAfter(n, _)) => stop = n,
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = write!(head, "Content-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let mut reader: Box<dyn Read> = match answer.body {
        Body::Text(text) => Box::new(io::Cursor::new(text.into_bytes())),
        Body::File(file) => match &file.content {
            Content::Memory(bytes) => Box::new(io::Cursor::new(bytes[from as usize..].to_vec())),
            Content::Disk(path) => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(from))?;
                Box::new(file)
            }
        },
    };
    let piece = match fault {
        Some(Fault::Slow(piece, _)) => piece,
        _ => 1 << 16,
    };
    let (mut sent, mut buffer) = (0, vec![0; piece]);
    while sent < length.min(stop) {
        let room = (length.min(stop) - sent).min(piece as u64) as usize;
        let n = match reader.read(&mut buffer[..room])? {
            0 => room, // More than there is: whatever the buffer holds.
            n => n,
        };
        if let Some(Fault::Flip(at)) = fault
            && (sent..sent + n as u64).contains(&at)
        {
            buffer[(at - sent) as usize] ^= 1;
        }
        stream.write_all(&buffer[..n])?;
        sent += n as u64;
        if let Some(Fault::Slow(_, pause)) = fault {
            thread::sleep(pause);
        }
    }
    if let Some(Fault::StallAfter(_, time)) = fault {
        stream.flush()?;
        thread::sleep(time);
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Undoes %XX.
fn unquote(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail
            .get(..2)
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
