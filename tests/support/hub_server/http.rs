//! Requests in, answers out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{Content, Fault, Order, Repo, Request, State, Stored};

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

pub(super) fn answer(
    stream: TcpStream,
    is_cdn: bool,
    cdn: SocketAddr,
    state: &State,
) -> io::Result<()> {
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
        Some(Fault::Body(body, headers)) => {
            let mut answer = text(200, body);
            answer.headers.extend(headers.clone());
            answer
        }
        Some(Fault::Endless) => return endless(stream),
        _ => route(&request, cdn, state),
    };
    send(stream, &request, answer, fault)
}

fn endless(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 Status\r\nConnection: close\r\n\r\n")?;
    loop {
        stream.write_all(&[b' '; 1 << 16])?;
    }
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
        ["tree", revision] if known(revision) => {
            let cursor = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("cursor="));
            let start = cursor.map_or(0, |at| at.parse().unwrap());
            let mut answer = text(200, tree(repo, start));
            let next = start.saturating_add(repo.page);
            if next < repo.files.len() {
                let at = repo.pages_at.as_deref().unwrap_or_default();
                let link = format!("<{at}{path}?recursive=true&cursor={next}>; rel=\"next\"");
                answer.headers.push(("Link", link));
            }
            answer
        }
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

fn tree(repo: &Repo, start: usize) -> String {
    let mut entries = vec![format!(
        r#"{{"type":"directory","oid":"{}","size":0,"path":"sub"}}"#,
        "0".repeat(40)
    )];
    for (name, file) in repo.files.iter().skip(start).take(repo.page) {
        let lfs = match file.large {
            true if !repo.hashes_listed => format!(r#","lfs":{{"size":{}}}"#, file.size),
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
        let oid = match repo.hashes_listed {
            true => format!(r#""oid":"{oid}","#),
            false => String::new(),
        };
        entries.push(format!(
            r#"{{"type":"file",{oid}"size":{},"path":"{name}"{lfs}}}"#,
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
    let size = match &answer.body {
        Body::Text(text) => text.len() as u64,
        Body::File(file) => file.size,
    };
    let (mut from, mut end) = (0, size);
    let ranges = !matches!(fault, Some(Fault::NoRanges)) && matches!(answer.body, Body::File(_));
    // `bytes=FROM-` or `bytes=FROM-LAST`.
    let asked = request.header("range").and_then(|range| {
        let (from, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let last: Option<u64> = match last {
            "" => None,
            last => Some(last.parse().ok()?),
        };
        Some((from.parse::<u64>().ok()?, last))
    });
    if let (Some((start, last)), true) = (asked, ranges) {
        from = start;
        if from >= size {
            status = 416;
            headers.push(("Content-Range", format!("bytes */{size}")));
            from = size;
        } else {
            status = 206;
            end = last.map_or(size, |last| size.min(last + 1));
            headers.push(("Content-Range", format!("bytes {from}-{}/{size}", end - 1)));
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
