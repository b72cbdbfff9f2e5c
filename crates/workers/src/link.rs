//! The program's end of the way to a worker.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::key::Key;
use crate::offer::Offer;
use crate::owner;
use crate::relay;
use crate::rpc;
use crate::session::{Counters, Loss, Session};
use crate::stream::{self, Failure, kind};

/// How long it may take until a worker's machine answers.
const CONNECTING: Duration = Duration::from_secs(5);
/// How long the handshake may take.
const GREETING: Duration = Duration::from_secs(10);
/// How often a worker is asked whether it lives while nothing is computed.
const KEEPING_ALIVE: Duration = Duration::from_secs(5);
/// How long a worker may be silent while nothing is computed.
const IDLE_SILENCE: Duration = Duration::from_secs(20);
/// Bytes that are sent to measure the network.
const BALLAST: usize = 1 << 20;

/// A worker, and the loopback address where ggml's client finds it.
///
/// When the worker is lost, ggml's client is answered with zeros from then on, and [`Link::fault`]
/// says why. The way to the worker is closed when the link is dropped and ggml has disconnected.
pub struct Link {
    shared: Arc<Shared>,
    endpoint: SocketAddr,
}

/// Bytes that were sent to a worker and received from it, as they went over the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

pub(crate) struct Shared {
    pub name: String,
    pub offer: Offer,
    session: Mutex<Session>,
    counters: Arc<Counters>,
    fault: OnceLock<Loss>,
    loading: AtomicBool,
    closing: AtomicBool,
    round_trip: Duration,
    bytes_per_second: f64,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Connects to the worker at `name`, a host and a port. `engine` is this program's version of
    /// llama.cpp and ggml, which must be the worker's, too.
    ///
    /// # Errors
    /// Nobody is there, or it has another key or version, or is in use.
    pub fn connect(name: &str, key: Option<&Key>, engine: &str) -> Result<Link> {
        let worker = || name.to_owned();
        let mut stream = reach(name).map_err(|source| Error::Unreachable {
            worker: worker(),
            source,
        })?;
        let noise = stream::greet(&mut stream, &Key::bytes(key), GREETING);
        let noise = noise.map_err(|failure| match failure {
            Failure::Key => Error::Impostor { worker: worker() },
            Failure::Io(source) if stream::is_timeout(&source) => Error::Unreachable {
                worker: worker(),
                source,
            },
            // A worker that refuses a key sends nothing.
            Failure::Io(_) => Error::Refused { worker: worker() },
        })?;
        let lost = |reason: Loss| Error::Lost {
            worker: worker(),
            reason,
        };
        let counters = Arc::<Counters>::default();
        let session = Session::new(stream, noise, Arc::clone(&counters));
        let mut session = session.map_err(|error| lost(error.to_string()))?;
        session.send(kind::HELLO, engine.as_bytes()).map_err(lost)?;
        let offer = match session.receive().map_err(lost)? {
            (kind::OFFER, json) => serde_json::from_slice::<Offer>(&json)
                .map_err(|_| lost("its offer cannot be read".to_owned()))?,
            (kind::BUSY, by) => {
                return Err(Error::Busy {
                    worker: worker(),
                    by: String::from_utf8_lossy(&by).into_owned(),
                });
            }
            _ => return Err(lost("it does not say what it offers".to_owned())),
        };
        if offer.engine != engine {
            return Err(Error::Version {
                worker: worker(),
                theirs: offer.engine,
                ours: engine.to_owned(),
            });
        }
        if offer.hello.len() != rpc::GREETING || offer.devices.is_empty() {
            return Err(lost("it offers nothing".to_owned()));
        }
        let (round_trip, bytes_per_second) = measure(&mut session).map_err(lost)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listening = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (endpoint, listener) = listening.map_err(|source| Error::Listen {
            address: "127.0.0.1:0".to_owned(),
            source,
        })?;
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            offer,
            session: Mutex::new(session),
            counters,
            fault: OnceLock::new(),
            loading: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            round_trip,
            bytes_per_second,
        });
        let accepting = Arc::clone(&shared);
        let keeping = Arc::downgrade(&shared);
        let started = thread::Builder::new()
            .name(format!("worker {name}"))
            .spawn(move || accept(&accepting, &listener))
            .and_then(|_| {
                let thread = thread::Builder::new().name(format!("alive {name}"));
                thread.spawn(move || keep_alive(&keeping))
            });
        started.map_err(|error| lost(error.to_string()))?;
        Ok(Link { shared, endpoint })
    }

    /// The worker, as the user named it.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What the worker offers.
    pub fn offer(&self) -> &Offer {
        &self.shared.offer
    }

    /// The loopback address for ggml's client.
    pub fn endpoint(&self) -> SocketAddr {
        self.endpoint
    }

    /// The time from a question to its answer.
    pub fn round_trip(&self) -> Duration {
        self.shared.round_trip
    }

    /// The number of bytes that were sent in a second when it was measured, at the start.
    pub fn bytes_per_second(&self) -> f64 {
        self.shared.bytes_per_second
    }

    /// The bytes that have gone over the network.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            sent: self.shared.counters.sent.load(Ordering::Relaxed),
            received: self.shared.counters.received.load(Ordering::Relaxed),
        }
    }

    /// Why the worker is lost; `None` while it is there. Whatever ggml computed since is worthless.
    pub fn fault(&self) -> Option<&str> {
        self.shared.fault()
    }

    /// Says whether weights are being loaded. Tensors that are written meanwhile are kept on the
    /// worker's disk, if it has a cache, and are not sent if they are there.
    pub fn set_loading(&self, loading: bool) {
        self.shared.loading.store(loading, Ordering::Relaxed);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        // The thread that accepts connections looks at the flag when it has one.
        let _ = TcpStream::connect(self.endpoint);
    }
}

impl Shared {
    /// The stream to the worker, for one request at a time.
    pub fn session(&self) -> MutexGuard<'_, Session> {
        self.session
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// Records that the worker is lost. The first reason counts.
    pub fn lose(&self, reason: Loss) {
        tracing::debug!("the worker {} is lost: {reason}", self.name);
        let _ = self.fault.set(reason);
    }

    pub fn is_loading(&self) -> bool {
        self.loading.load(Ordering::Relaxed)
    }
}

fn reach(name: &str) -> std::io::Result<TcpStream> {
    let mut failed = None;
    for address in name.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECTING) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| std::io::ErrorKind::NotFound.into()))
}

/// Measures the network: the time of the fastest of several questions, and the rate at which a larger
/// message is sent.
fn measure(session: &mut Session) -> Result<(Duration, f64), Loss> {
    let ask = |session: &mut Session, number: u8| {
        let begun = Instant::now();
        session.send(kind::PING, &[number])?;
        loop {
            match session.receive()? {
                (kind::PONG, payload) if payload == [number] => return Ok(begun.elapsed()),
                (kind::PONG, _) => {}
                _ => return Err("it answers something else than it was asked".to_owned()),
            }
        }
    };
    let mut best = Duration::MAX;
    for number in 0..5 {
        best = best.min(ask(session, number)?);
    }
    let begun = Instant::now();
    session.send(kind::BALLAST, &vec![0; BALLAST])?;
    ask(session, 5)?;
    let sending = begun.elapsed().saturating_sub(best);
    Ok((best, BALLAST as f64 / sending.as_secs_f64().max(1e-6)))
}

/// Serves ggml's client, which connects anew whenever it has given up its last buffer.
fn accept(shared: &Shared, listener: &TcpListener) {
    let own = listener.local_addr();
    loop {
        let Ok((stream, peer)) = listener.accept() else {
            break;
        };
        if shared.closing.load(Ordering::Relaxed) {
            break;
        }
        if own
            .as_ref()
            .is_ok_and(|own| owner::is_ours(peer, Some(*own)))
        {
            relay::serve(shared, &stream);
        }
        if shared.closing.load(Ordering::Relaxed) {
            break;
        }
    }
    shared.session().close();
}

/// Keeps the stream alive while nothing is computed, and notices when the worker goes away.
fn keep_alive(shared: &Weak<Shared>) {
    loop {
        thread::sleep(KEEPING_ALIVE);
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if shared.fault().is_some() || shared.closing.load(Ordering::Relaxed) {
            return;
        }
        // Whoever has the session notices it, too.
        let Ok(mut session) = shared.session.try_lock() else {
            continue;
        };
        let kept = session.send(kind::PING, &[]).and_then(|()| session.drain());
        match kept {
            Err(reason) => shared.lose(reason),
            Ok(()) if session.is_silent_for(IDLE_SILENCE) => shared.lose(format!(
                "nothing was heard of it for {} seconds",
                IDLE_SILENCE.as_secs()
            )),
            Ok(()) => {}
        }
    }
}
