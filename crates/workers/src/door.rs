//! The worker's end: listens, lets in clients with the key, one at a time, and carries their requests
//! to ggml's server.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use modelve_base::human;

use crate::cache::{Cache, Hash, Recording};
use crate::child::Child;
use crate::error::{Error, Result};
use crate::guests::{Guest, Guests};
use crate::key::Key;
use crate::offer::Offer;
use crate::rpc;
use crate::stream::{self, Failure, Noise, Opener, Sealer, is_timeout, kind};

/// How long a client may take to prove that it has the key.
const PROVING: Duration = Duration::from_secs(5);
/// How long a client with a wrong key waits for the end of the connection.
const WRONG: Duration = Duration::from_secs(1);
/// How long a client waits for the one before it to leave before it is told that the worker is in
/// use. A program that starts right after another one must not meet it.
const LEAVING: Duration = Duration::from_secs(2);
/// How long a client may be silent. It says that it lives every few seconds.
const SILENCE: Duration = Duration::from_secs(30);
/// How often the worker says that it lives, and how long after the client was last heard.
const ALIVE: Duration = Duration::from_secs(1);
const LISTENING: Duration = Duration::from_secs(20);
/// Maximum length of the first frame of a client.
const MOST_HELLO: usize = 4096;

/// What a worker is made of.
pub struct DoorConfig {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The key that clients must have; `None` only for a loopback address.
    pub key: Option<Key>,
    /// Says what the worker offers at this moment.
    pub offer: Box<dyn Fn() -> Offer + Send + Sync>,
    /// Makes the command that runs ggml's server on a loopback port. The process must stop listening
    /// and print the line `shut` when it reads that line, and end when its standard input does.
    pub child: Box<dyn Fn(u16) -> Command + Send + Sync>,
    /// The folder where tensors are kept.
    pub cache: Option<PathBuf>,
    /// Receives a line whenever a client comes or goes.
    pub log: Box<dyn Fn(&str) + Send + Sync>,
}

/// A worker that listens.
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    config: DoorConfig,
    cache: Option<Cache>,
    guests: Guests,
    /// The client that is being served.
    client: Mutex<Option<SocketAddr>>,
    /// The server for the next client.
    ready: Mutex<Option<Child>>,
}

impl Door {
    /// Listens, and starts ggml's server for the first client.
    ///
    /// # Errors
    /// The address cannot be listened on, or needs a key; the folder for tensors cannot be used;
    /// ggml's server does not start.
    pub fn open(config: DoorConfig) -> Result<Door> {
        if config.key.is_none() && !config.listen.ip().is_loopback() {
            return Err(Error::Open {
                address: config.listen.to_string(),
            });
        }
        let listener = TcpListener::bind(config.listen);
        let listening = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = listening.map_err(|source| Error::Listen {
            address: config.listen.to_string(),
            source,
        })?;
        let cache = config.cache.as_deref().map(Cache::open).transpose()?;
        let child = Child::start(&*config.child)?;
        Ok(Door {
            listener,
            address,
            shared: Arc::new(Shared {
                config,
                cache,
                guests: Guests::default(),
                client: Mutex::new(None),
                ready: Mutex::new(Some(child)),
            }),
        })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves clients until the process ends.
    pub fn run(&self) {
        loop {
            let Ok((stream, peer)) = self.listener.accept() else {
                // Too many open files, for example: others must end first.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            // One too many is closed.
            let Some(guest) = self.shared.guests.admit(peer.ip()) else {
                continue;
            };
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name(format!("client {peer}"));
            // If no thread can be started, the connection is closed.
            let _ = thread.spawn(move || shared.receive(stream, peer, guest));
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Shared {
    fn log(&self, line: &str) {
        (self.config.log)(line);
    }

    /// Serves a connection.
    fn receive(&self, mut stream: TcpStream, peer: SocketAddr, guest: Guest) {
        let _ = stream.set_nodelay(true);
        let key = Key::bytes(self.config.key.as_ref());
        let proved = prove(&mut stream, &key);
        let noise = match proved {
            Ok(noise) => noise,
            Err(failure) => {
                match failure {
                    Failure::Key => {
                        self.log(&format!("{peer}: refused: it does not have the key"));
                        thread::sleep(WRONG);
                    }
                    Failure::Io(error) => {
                        tracing::debug!("{peer}: its handshake ended: {error}");
                    }
                }
                return;
            }
        };
        drop(guest);
        let mut writer = Writer {
            stream,
            sealer: noise.sealer,
            wire: Vec::new(),
        };
        match self.enter(peer) {
            Ok(entered) => {
                self.log(&format!("{peer}: connected"));
                let ended = self.serve(writer, noise.opener);
                drop(entered);
                self.log(&format!("{peer}: {ended}"));
                self.prepare();
            }
            Err(other) => {
                self.log(&format!("{peer}: refused: in use by {other}"));
                let _ = writer.send(kind::BUSY, other.to_string().as_bytes());
            }
        }
    }

    /// Takes the place of the only client, or returns the one who has it.
    fn enter(&self, peer: SocketAddr) -> Result<Entered<'_>, SocketAddr> {
        let deadline = Instant::now() + LEAVING;
        loop {
            let mut client = locked(&self.client);
            match *client {
                None => {
                    *client = Some(peer);
                    return Ok(Entered(self));
                }
                Some(other) if Instant::now() > deadline => return Err(other),
                Some(_) => drop(client),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts ggml's server for the next client.
    fn prepare(&self) {
        let mut ready = locked(&self.ready);
        if ready.is_none() {
            match Child::start(&*self.config.child) {
                Ok(child) => *ready = Some(child),
                Err(error) => self.log(&error.to_string()),
            }
        }
    }

    /// Serves a client that has the key. Returns how it ended.
    fn serve(&self, writer: Writer, opener: Opener) -> String {
        let begun = Instant::now();
        let Ok(reader) = writer.stream.try_clone() else {
            return "there are too many open files".to_owned();
        };
        let _ = writer.stream.set_write_timeout(Some(SILENCE));
        let _ = reader.set_read_timeout(Some(SILENCE));
        let Ok(stream) = writer.stream.try_clone() else {
            return "there are too many open files".to_owned();
        };
        let client = Client {
            stream,
            writer: Mutex::new(writer),
            begun,
            heard: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
        };
        let (stop, stopped) = channel();
        let connections = thread::scope(|scope| {
            let client = &client;
            scope.spawn(move || client.say_alive(&stopped));
            let served = self.serve_with_child(client, reader, opener);
            drop(stop);
            client.close();
            served
        });
        let seen = match connections {
            Ok(1) => "ggml's server saw 1 connection".to_owned(),
            Ok(n) => format!("ggml's server saw {n} connections"),
            Err(reason) => reason,
        };
        format!(
            "left after {:.1} s; {} received, {} sent; {seen}",
            begun.elapsed().as_secs_f64(),
            human::bytes(client.received.load(Ordering::Relaxed)),
            human::bytes(client.sent.load(Ordering::Relaxed)),
        )
    }

    /// Gives the client a server of its own. Returns how many connections that server saw.
    fn serve_with_child(
        &self,
        client: &Client,
        reader: TcpStream,
        opener: Opener,
    ) -> Result<usize, String> {
        let ready = locked(&self.ready).take();
        let child = ready.map_or_else(|| Child::start(&*self.config.child), Ok);
        let mut child = child.map_err(|error| {
            let reason = error.to_string();
            let _ = client.send(kind::GONE, reason.as_bytes());
            reason
        })?;
        let mut offer = (self.config.offer)();
        offer.hello.clone_from(&child.hello);
        offer.cache = self.cache.is_some();
        let json = serde_json::to_vec(&offer).map_err(|error| error.to_string())?;
        let streams = child
            .stream
            .try_clone()
            .and_then(|from| Ok((from, child.stream.try_clone()?)));
        let (from_child, to_child) = streams.map_err(|error| error.to_string())?;
        client
            .send(kind::OFFER, &json)
            .map_err(|error| error.to_string())?;
        thread::scope(|scope| {
            let child = &mut child;
            let answers = scope.spawn(move || {
                client.bring_answers(from_child);
                if !client.leaving.load(Ordering::Relaxed) {
                    let words = child.last_words();
                    let _ = client.send(kind::GONE, words.as_bytes());
                    client.close();
                }
                child.connections()
            });
            let mut requests = Requests {
                client,
                cache: self.cache.as_ref(),
                child: to_child,
                child_failed: false,
                arriving: None,
            };
            let ended = requests.carry(reader, opener);
            // If it is the child that failed, the other thread tells the client why.
            let leaving = !requests.child_failed;
            client.leaving.store(leaving, Ordering::Relaxed);
            // The child's end of the connection stays open until the child is killed, so that ggml
            // does not wait for another one.
            let _ = requests.child.shutdown(Shutdown::Read);
            if let Err(reason) = ended {
                tracing::debug!("a client ended: {reason}");
            }
            answers
                .join()
                .map_err(|_| "its answers were lost".to_owned())
        })
    }
}

/// The place of the only client. It is free again when this is dropped.
struct Entered<'a>(&'a Shared);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *locked(&self.0.client) = None;
    }
}

/// Lets a client prove that it has the key. A recorded handshake passes the first step, so the first
/// frame, which only the holder of this handshake's keys can make, is waited for, too.
fn prove(stream: &mut TcpStream, key: &[u8; 32]) -> Result<Noise, Failure> {
    let deadline = Instant::now() + PROVING;
    let mut noise = stream::answer(stream, key, deadline)?;
    let mut length = [0; 2];
    stream::read_by(stream, &mut length, deadline)?;
    let size = usize::from(u16::from_be_bytes(length));
    if size > MOST_HELLO {
        return Err(Failure::Key);
    }
    let mut message = vec![0; size];
    stream::read_by(stream, &mut message, deadline)?;
    noise.opener.push(&length);
    noise.opener.push(&message);
    match noise.opener.next() {
        Ok(Some((kind::HELLO, _))) => {}
        _ => return Err(Failure::Key),
    }
    Ok(noise)
}

/// Sends frames to a client.
struct Writer {
    stream: TcpStream,
    sealer: Sealer,
    wire: Vec<u8>,
}

impl Writer {
    fn send(&mut self, kind: u8, payload: &[u8]) -> io::Result<usize> {
        self.wire.clear();
        self.sealer.seal(kind, payload, &mut self.wire);
        self.stream.write_all(&self.wire)?;
        Ok(self.wire.len())
    }
}

/// A client that is being served.
struct Client {
    /// To end the connection, also while another thread writes.
    stream: TcpStream,
    writer: Mutex<Writer>,
    begun: Instant,
    /// Milliseconds from `begun` to the last frame.
    heard: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    /// Whether it is the client that ends the session.
    leaving: AtomicBool,
}

impl Client {
    fn send(&self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let sent = locked(&self.writer).send(kind, payload)?;
        self.sent.fetch_add(sent as u64, Ordering::Relaxed);
        Ok(())
    }

    fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Says once a second that the worker lives, as long as the client shows that it does.
    fn say_alive(&self, stopped: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(ALIVE) {
            let silent = self
                .now()
                .saturating_sub(self.heard.load(Ordering::Relaxed));
            if silent < LISTENING.as_millis() as u64 && self.send(kind::ALIVE, &[]).is_err() {
                self.close();
                return;
            }
        }
    }

    /// Sends what ggml's server answers, until it ends.
    fn bring_answers(&self, mut child: TcpStream) {
        let mut chunk = vec![0; 1 << 18];
        loop {
            match child.read(&mut chunk) {
                Ok(0) => return,
                Ok(n) => {
                    if self.send(kind::DATA, &chunk[..n]).is_err() {
                        self.close();
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// Carries a client's requests to ggml's server.
struct Requests<'a> {
    client: &'a Client,
    cache: Option<&'a Cache>,
    child: TcpStream,
    /// Whether ggml's server did not take a request.
    child_failed: bool,
    /// The tensor whose values are arriving, and how many bytes of them are still to come.
    arriving: Option<(Option<Recording>, u64)>,
}

impl Requests<'_> {
    /// Carries requests until the client ends. The error says why it was not the client's wish.
    fn carry(&mut self, mut reader: TcpStream, mut opener: Opener) -> Result<(), String> {
        let mut chunk = vec![0; 1 << 18];
        loop {
            while let Some((kind, payload)) = opener.next().map_err(|broken| broken.to_string())? {
                self.client
                    .heard
                    .store(self.client.now(), Ordering::Relaxed);
                self.frame(kind, payload)?;
            }
            match reader.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(n) => {
                    self.client.received.fetch_add(n as u64, Ordering::Relaxed);
                    opener.push(&chunk[..n]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Err("it is silent".to_owned()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> Result<(), String> {
        let outcome = match kind {
            kind::DATA => self.data(payload),
            kind::PING => self.client.send(kind::PONG, payload),
            kind::TENSOR => self.tensor(payload),
            kind::BALLAST => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        };
        outcome.map_err(|error| error.to_string())
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some((mut recording, left)) = self.arriving.take() {
            let Some(left) = left.checked_sub(bytes.len() as u64) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            // The tensor is used even if it cannot be kept.
            let kept = recording.as_mut().map(|recording| recording.write(bytes));
            if let Some(Err(error)) = kept {
                tracing::warn!("cannot keep a tensor: {error}");
                recording = None;
            }
            match (left, recording) {
                (0, Some(recording)) => recording.finish(),
                (0, None) => {}
                (left, recording) => self.arriving = Some((recording, left)),
            }
        }
        self.give(bytes)
    }

    fn give(&mut self, bytes: &[u8]) -> io::Result<()> {
        let given = self.child.write_all(bytes);
        self.child_failed |= given.is_err();
        given
    }

    /// Gives ggml's server a tensor from the disk, or asks the client for it.
    fn tensor(&mut self, announcement: &[u8]) -> io::Result<()> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        let cache = self
            .cache
            .filter(|_| self.arriving.is_none())
            .ok_or_else(wrong)?;
        let (hash, rest) = announcement.split_first_chunk::<32>().ok_or_else(wrong)?;
        let (length, head) = rest.split_first_chunk::<8>().ok_or_else(wrong)?;
        let (hash, length): (&Hash, u64) = (hash, u64::from_le_bytes(*length));
        if head.len() != rpc::HEAD + rpc::SET_TENSOR_HEAD || length == 0 {
            return Err(wrong());
        }
        self.give(head)?;
        match cache.find(hash, length) {
            Some(mut file) => {
                let mut chunk = vec![0; 1 << 20];
                let mut left = length;
                while left > 0 {
                    let part = left.min(chunk.len() as u64) as usize;
                    file.read_exact(&mut chunk[..part])?;
                    self.give(&chunk[..part])?;
                    left -= part as u64;
                }
                self.client.send(kind::HAVE, &[1])
            }
            None => {
                self.arriving = Some((cache.record(hash, length), length));
                self.client.send(kind::HAVE, &[0])
            }
        }
    }
}
