//! `modelve serve` as clients meet it, over loopback, mostly with the built-in model.

mod cache;
mod chat;
mod completions;
#[cfg(unix)]
mod ends;
mod explore;
mod guard;
mod llama;
mod open_webui;
mod probes;
mod steering;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server of its own, ended with the test.
struct Server {
    child: Child,
    address: SocketAddr,
    /// Lines on standard error after the first two.
    notes: Receiver<String>,
    _home: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    /// One that listens; its model may not be loaded yet.
    fn listening(arguments: &[&str]) -> Server {
        let home = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_modelve"))
            .args(["serve", "--port", "0", "--threads", "1"])
            .args(arguments)
            .env("MODELVE_HOME", home.path())
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("MODELVE_API_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.next().expect("it says where it listens").unwrap();
        let address = first.strip_prefix("listening on http://").expect(&first);
        let address = address.parse().unwrap();
        let (send, notes) = channel();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .all(|line| send.send(line).is_ok())
        });
        Server {
            child,
            address,
            notes,
            _home: home,
        }
    }

    /// One that answers.
    fn of(arguments: &[&str]) -> Server {
        let server = Server::listening(arguments);
        let deadline = Instant::now() + PATIENCE;
        while server.get("/health").status != 200 {
            assert!(Instant::now() < deadline, "it does not load");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// One with the model that comes along.
    fn tiny() -> Server {
        Server::of(&["-m", "tiny"])
    }

    /// One with a model's file.
    fn file(path: &Path, arguments: &[&str]) -> Server {
        Server::of(&[&["-m", path.to_str().unwrap()], arguments].concat())
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes as they are and reads all that comes back.
    fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // The server may answer, and close, before it has read all.
        drop(stream.write_all(bytes));
        let mut all = Vec::new();
        drop(stream.read_to_end(&mut all));
        all
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        Answer::read(&self.raw(&[head.as_bytes(), body].concat()))
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[], body.to_string().as_bytes())
    }

    /// The answer to what must be answered.
    fn ok(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
        answer.json()
    }

    /// The field and the words of an answer that what is asked makes no sense.
    fn refused(&self, path: &str, body: &Value) -> (String, String) {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text());
        let error = &answer.json()["error"];
        assert_eq!(error["type"], "invalid_request_error");
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        (text("param"), text("message"))
    }

    /// The parts of a streamed answer, without the word that ends it.
    fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let answer = self.post(path, &body);
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "text/event-stream");
        answer.events()
    }

    /// A number of `/metrics`.
    fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").text();
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("modelve_{name} ")));
        line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    /// Whether nobody has a slot.
    fn is_idle(&self) -> bool {
        let slots = self.get("/slots").json();
        let slots = slots.as_array().unwrap();
        slots.len() == 32 && slots.iter().all(|slot| slot["is_processing"] == false)
    }

    /// Waits until `so` holds.
    fn wait_until(&self, what: &str, so: impl Fn(&Server) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Begins a request and leaves it open.
    fn begin(&self, path: &str, body: &Value) -> TcpStream {
        let body = body.to_string();
        let mut stream = self.connect();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }
}

/// What a server answers.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn read(all: &[u8]) -> Answer {
        let text = String::from_utf8_lossy(all);
        let end = all.windows(4).position(|w| w == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {text:?}"));
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer {
            status,
            body: all[end + 4..].to_vec(),
            head,
        };
        if answer.header("transfer-encoding") == "chunked" {
            answer.body = unchunk(&answer.body);
        }
        answer
    }

    fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map_or("", |(_, value)| value)
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    fn events(&self) -> Vec<Value> {
        let text = self.text();
        let mut data: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .collect();
        if text.contains("[DONE]") {
            assert_eq!(data.pop(), Some("[DONE]"), "nothing follows the end");
        }
        data.iter()
            .map(|part| serde_json::from_str(part).unwrap())
            .collect()
    }
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|w| w == b"\r\n") {
        let size = std::str::from_utf8(&body[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
    }
    panic!("the answer breaks off");
}

/// What a command prints.
fn modelve(arguments: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_modelve"))
        .args(arguments)
        .env("MODELVE_HOME", home.path())
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn tells_what_it_is() {
    let server = Server::tiny();
    assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
    let models = server.get("/v1/models").json();
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["id"], "tiny");
    assert_eq!(models["data"][0]["meta"]["architecture"], "phi3");
    assert_eq!(server.get("/v1/models/some/other").json()["id"], "tiny");
    let props = server.get("/props").json();
    assert!(props["chat_template"].as_str().unwrap().contains("<|"));
    assert!(server.is_idle());
    let document = server.get("/openapi.json").json();
    assert!(document["paths"]["/v1/completions"]["post"].is_object());
    let embeddings = server.post("/v1/embeddings", &json!({"input": "a"}));
    assert_eq!(embeddings.status, 400);
    assert!(embeddings.text().contains("not one for embeddings"));
    let nowhere = server.get("/v1/nothing");
    assert_eq!(
        (nowhere.status, nowhere.json()["error"]["type"].clone()),
        (404, json!("not_found_error"))
    );
    assert_eq!(server.get("/v1/completions").status, 405);
}

#[test]
fn what_is_counted_is_told() {
    let server = Server::tiny();
    server.ok(
        "/v1/completions",
        &json!({"prompt": "Today is", "max_tokens": 3, "ignore_eos": true, "temperature": 0}),
    );
    assert_eq!(server.metric("generated_tokens_total"), 3);
    assert_eq!(server.metric("completions_total"), 1);
    assert_eq!(server.metric("completions_active"), 0);
    let kind = server.get("/metrics").header("content-type").to_owned();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
}

#[test]
fn says_where_it_listens_and_how_to_try_it() {
    let server = Server::listening(&["-m", "tiny"]);
    let line = server.notes.recv_timeout(PATIENCE).unwrap();
    let command = line.strip_prefix("try it: curl ").expect(&line);
    let (url, body) = command.split_once(" -d '").unwrap();
    assert_eq!(url, format!("http://{}/v1/completions", server.address));
    let body: Value = serde_json::from_str(body.strip_suffix('\'').unwrap()).unwrap();
    assert!(
        server
            .notes
            .recv_timeout(PATIENCE)
            .unwrap()
            .starts_with("ready: ")
    );
    server.wait_until("it loads", |server| server.get("/health").status == 200);
    assert!(server.ok("/v1/completions", &body)["choices"][0]["text"].is_string());
}

#[test]
fn other_machines_are_let_in_with_a_key_or_knowingly() {
    let output = Command::new(env!("CARGO_BIN_EXE_modelve"))
        .args(["serve", "-m", "tiny", "--host", "0.0.0.0", "--port", "0"])
        .env_remove("MODELVE_API_KEY")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--api-key KEY -m tiny"), "{said}");
    let taken = Server::listening(&["-m", "tiny"]);
    let port = taken.address.port().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_modelve"))
        .args(["serve", "-m", "tiny", "--port", &port])
        .env_remove("MODELVE_API_KEY")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("cannot listen on 127.0.0.1:") && said.contains("--port 0"),
        "{said}"
    );
}
