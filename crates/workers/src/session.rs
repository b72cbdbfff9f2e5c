//! The client's end of the stream to a worker: sends and receives frames, and notices when the
//! worker is gone.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::stream::{Noise, is_timeout, kind};

/// How long a worker may be silent while something is expected of it. It says that it lives once a
/// second, also while it computes.
const SILENCE: Duration = Duration::from_secs(6);
/// How long a read or a write waits before it looks at the clock.
const PATIENCE: Duration = Duration::from_secs(1);

/// Maximum number of frames that are kept while something is sent. A worker answers only what was
/// asked, so more than a few are an attack.
const MOST_EARLY: usize = 64;

/// Bytes sent and received.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub sent: AtomicU64,
    pub received: AtomicU64,
}

/// The stream, used by one thread at a time.
pub(crate) struct Session {
    stream: TcpStream,
    noise: Noise,
    counters: Arc<Counters>,
    wire: Vec<u8>,
    chunk: Vec<u8>,
    heard: Instant,
    /// Frames that arrived while something was sent.
    early: VecDeque<(u8, Vec<u8>)>,
}

/// Why a worker is lost.
pub(crate) type Loss = String;

impl Session {
    pub fn new(stream: TcpStream, noise: Noise, counters: Arc<Counters>) -> io::Result<Session> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Session {
            stream,
            noise,
            counters,
            wire: Vec::new(),
            chunk: vec![0; 1 << 18],
            heard: Instant::now(),
            early: VecDeque::new(),
        })
    }

    /// Sends a frame, or several if the payload is longer than one.
    pub fn send(&mut self, kind: u8, payload: &[u8]) -> Result<(), Loss> {
        let mut wire = std::mem::take(&mut self.wire);
        wire.clear();
        self.noise.sealer.seal(kind, payload, &mut wire);
        let sent = self.write(&wire);
        self.wire = wire;
        sent
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Loss> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err("it closed the connection".to_owned()),
                Ok(n) => {
                    self.counters.sent.fetch_add(n as u64, Ordering::Relaxed);
                    bytes = &bytes[n..];
                }
                Err(error) if is_timeout(&error) => {
                    // It does not read: it may be computing, and then says that it lives.
                    self.drain()?;
                    self.check_silence()?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.ended(&error)),
            }
        }
        Ok(())
    }

    /// The next frame with something in it. Waits as long as the worker lives.
    pub fn receive(&mut self) -> Result<(u8, Vec<u8>), Loss> {
        loop {
            if let Some(frame) = self.early.pop_front() {
                return Ok(frame);
            }
            if self.open()? {
                continue;
            }
            match self.read() {
                Ok(()) => {}
                Err(error) if is_timeout(&error) => {
                    self.check_silence()?;
                    // Without this the worker would not know that somebody waits.
                    self.send(kind::PING, &[])?;
                }
                Err(error) => return Err(self.ended(&error)),
            }
        }
    }

    /// Takes what has arrived, without waiting.
    pub fn drain(&mut self) -> Result<(), Loss> {
        let failed = |error: io::Error| error.to_string();
        self.stream.set_nonblocking(true).map_err(failed)?;
        let outcome = loop {
            match self.read() {
                Ok(()) => {}
                Err(error) if is_timeout(&error) => break Ok(()),
                Err(error) => break Err(self.ended(&error)),
            }
            match self.open_all() {
                Ok(()) => {}
                Err(reason) => break Err(reason),
            }
        };
        self.stream.set_nonblocking(false).map_err(failed)?;
        outcome
    }

    /// Returns whether nothing was heard of the worker for this long.
    pub fn is_silent_for(&self, time: Duration) -> bool {
        self.heard.elapsed() > time
    }

    /// Ends the stream, for both sides.
    pub fn close(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    fn check_silence(&self) -> Result<(), Loss> {
        match self.is_silent_for(SILENCE) {
            true => Err(format!(
                "nothing was heard of it for {} seconds",
                SILENCE.as_secs()
            )),
            false => Ok(()),
        }
    }

    /// Reads what arrives next.
    fn read(&mut self) -> io::Result<()> {
        loop {
            match self.stream.read(&mut self.chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.heard = Instant::now();
                    self.counters
                        .received
                        .fetch_add(n as u64, Ordering::Relaxed);
                    self.noise.opener.push(&self.chunk[..n]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn open_all(&mut self) -> Result<(), Loss> {
        while self.open()? {
            if self.early.len() > MOST_EARLY {
                return Err("it sends what nobody asked for".to_owned());
            }
        }
        Ok(())
    }

    /// Opens the next frame that has arrived in whole and keeps it if it has something in it.
    /// Returns whether there was one.
    fn open(&mut self) -> Result<bool, Loss> {
        match self.noise.opener.next() {
            Ok(None) => Ok(false),
            Ok(Some((kind::ALIVE, _))) => Ok(true),
            // The answer to a ping of `receive`.
            Ok(Some((kind::PONG, []))) => Ok(true),
            Ok(Some((kind::GONE, reason))) => Err(String::from_utf8_lossy(reason).into_owned()),
            Ok(Some((kind, payload))) => {
                self.early.push_back((kind, payload.to_vec()));
                Ok(true)
            }
            Err(broken) => Err(broken.to_string()),
        }
    }

    /// The reason of a failed read or write: the worker's own, if it gave one before.
    fn ended(&mut self, error: &io::Error) -> Loss {
        loop {
            match self.open() {
                Ok(true) => {}
                Ok(false) => break,
                Err(reason) => return reason,
            }
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => "it closed the connection".to_owned(),
            _ => error.to_string(),
        }
    }
}
