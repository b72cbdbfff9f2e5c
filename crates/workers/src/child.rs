//! ggml's server in a process of its own.
//!
//! The server serves one connection after another, to whoever comes first. Here it serves a single
//! one: the door connects, sees that it is served, and has the child stop listening, all before a
//! client is let in. The process ends with that connection.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::owner;
use crate::rpc;

/// How long the server may take until it answers. Starting a GPU can take seconds.
const STARTING: Duration = Duration::from_secs(60);
/// How long the child may take to say or do anything else.
const PATIENCE: Duration = Duration::from_secs(5);
/// The line that asks the child to stop listening, and the one that says that it has.
pub(crate) const SHUT: &str = "shut";
/// What ggml prints for each connection.
const ACCEPTED: &str = "Accepted client connection";
/// Number of lines of the child's standard error that are kept.
const LINES: usize = 5;

/// A server that serves the door, and can serve nobody else.
pub(crate) struct Child {
    process: std::process::Child,
    /// The only connection.
    pub stream: TcpStream,
    /// How the server greeted.
    pub hello: Vec<u8>,
    said: Arc<Said>,
}

/// What the child has printed.
#[derive(Default)]
struct Said {
    connections: AtomicUsize,
    shut: AtomicUsize,
    /// The last lines of standard error.
    errors: Mutex<VecDeque<String>>,
}

impl Child {
    /// Starts a server. `command` makes the command for a port.
    pub fn start(command: &dyn Fn(u16) -> Command) -> Result<Child> {
        // Another process may take the port in the moment before the child does.
        let mut attempts = 0;
        loop {
            attempts += 1;
            match Self::try_start(command) {
                Err(_) if attempts < 3 => {}
                outcome => return outcome,
            }
        }
    }

    fn try_start(command: &dyn Fn(u16) -> Command) -> Result<Child> {
        let failed = |error: std::io::Error| Error::Child(error.to_string());
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let address = free.local_addr().map_err(failed)?;
        drop(free);
        let mut process = command(address.port())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let said = Arc::<Said>::default();
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        let (lines, errors) = (Arc::clone(&said), Arc::clone(&said));
        thread::spawn(move || lines.hear(stdout));
        thread::spawn(move || errors.hear_errors(stderr));
        let mut guard = Killed(Some(process));
        let (stream, hello) = guard.meet(address, &said)?;
        match guard.0.take() {
            Some(process) => Ok(Child {
                process,
                stream,
                hello,
                said,
            }),
            None => Err(Error::Child("it has ended".to_owned())),
        }
    }

    /// The number of connections that the server has accepted.
    pub fn connections(&self) -> usize {
        self.said.connections.load(Ordering::Relaxed)
    }

    /// Waits until the process has ended, and says how and why.
    pub fn last_words(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return self.said.about(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                _ => return "ggml's server closed its connection".to_owned(),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process that is killed if it is not taken.
struct Killed(Option<std::process::Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Killed {
    /// Makes the only connection to the child.
    fn meet(&mut self, address: SocketAddr, said: &Said) -> Result<(TcpStream, Vec<u8>)> {
        let Some(process) = &mut self.0 else {
            return Err(Error::Child("it has ended".to_owned()));
        };
        let failed = |error: std::io::Error| Error::Child(error.to_string());
        let deadline = Instant::now() + STARTING;
        let mut stream = loop {
            if let Ok(stream) = TcpStream::connect(address) {
                break stream;
            }
            if let Ok(Some(status)) = process.try_wait() {
                // Its last words may still be on their way.
                thread::sleep(Duration::from_millis(50));
                return Err(Error::Child(said.about(status)));
            }
            if Instant::now() > deadline {
                let seconds = STARTING.as_secs();
                return Err(Error::Child(format!("nothing within {seconds} seconds")));
            }
            thread::sleep(Duration::from_millis(5));
        };
        if !owner::is_ours(address, None) {
            let port = address.port();
            return Err(Error::Child(format!("port {port} is another user's")));
        }
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(STARTING)).map_err(failed)?;
        stream.write_all(&rpc::hello()).map_err(failed)?;
        let mut answer = [0; 8 + rpc::GREETING];
        stream.read_exact(&mut answer).map_err(failed)?;
        if answer[..8] != (rpc::GREETING as u64).to_le_bytes() {
            return Err(Error::Child("it does not speak ggml's protocol".to_owned()));
        }
        stream.set_read_timeout(None).map_err(failed)?;
        // It serves this connection. Nobody else may have been served before, or be after.
        let asked = process
            .stdin
            .as_mut()
            .map(|stdin| writeln!(stdin, "{SHUT}"));
        if !matches!(asked, Some(Ok(()))) || !said.wait_until_shut() {
            return Err(Error::Child("it does not stop listening".to_owned()));
        }
        match said.connections.load(Ordering::Relaxed) {
            1 => Ok((stream, answer[8..].to_vec())),
            n => Err(Error::Child(format!("it has served {n} connections"))),
        }
    }
}

impl Said {
    fn hear(&self, stdout: Option<impl Read>) {
        let lines = stdout.map(|stdout| BufReader::new(stdout).lines());
        for line in lines.into_iter().flatten().map_while(|line| line.ok()) {
            match line.trim() {
                ACCEPTED => self.connections.fetch_add(1, Ordering::Relaxed),
                SHUT => self.shut.fetch_add(1, Ordering::Release),
                _ => 0,
            };
        }
    }

    fn hear_errors(&self, stderr: Option<impl Read>) {
        let lines = stderr.map(|stderr| BufReader::new(stderr).lines());
        for line in lines.into_iter().flatten().map_while(|line| line.ok()) {
            tracing::debug!("ggml's server: {line}");
            let mut errors = self.errors();
            if errors.len() == LINES {
                errors.pop_front();
            }
            errors.push_back(line);
        }
    }

    fn errors(&self) -> std::sync::MutexGuard<'_, VecDeque<String>> {
        self.errors
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait_until_shut(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while self.shut.load(Ordering::Acquire) == 0 {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// How the process ended, and what it said last.
    fn about(&self, status: ExitStatus) -> String {
        let errors: Vec<String> = self.errors().iter().cloned().collect();
        match errors.is_empty() {
            true => format!("ggml's server ended by {status}"),
            false => format!("ggml's server ended by {status}: {}", errors.join("; ")),
        }
    }
}
