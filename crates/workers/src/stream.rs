//! The encrypted stream between a client and a worker: Noise with a pre-shared key.
//!
//! The pattern is `NNpsk0`: fresh Diffie-Hellman keys on both sides, so that recorded traffic stays
//! secret when the key is lost, mixed with the shared key from the first message on, so that the
//! worker refuses a client without the key at its first 48 bytes, before it computes or sends
//! anything. `KKpsk0` would tell clients apart, but each pair of machines would have to exchange
//! public keys; one file copied to all of them is what people do with one key.
//!
//! A frame on the wire is its length in 2 bytes (big-endian) and a Noise message: a byte for the
//! frame's [`kind`] and a payload. Frames are numbered on both sides, so a frame that is missing,
//! repeated or moved does not decrypt.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snow::{Builder, HandshakeState, StatelessTransportState};

/// The handshake, ciphers and hash. `ring` computes the ciphers.
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
/// What both sides must agree on; changes with the frames.
const PROLOGUE: &[u8] = b"modelve worker 1";
/// Bytes of either message of the handshake: a key and a tag.
const GREETING: usize = 48;
/// Maximum number of bytes of a Noise message.
const MOST: usize = 65_535;
const TAG: usize = 16;
/// Maximum number of bytes of a frame's payload.
pub(crate) const PAYLOAD: usize = MOST - TAG - 1;

/// The kinds of frames.
pub(crate) mod kind {
    /// Bytes of ggml's protocol.
    pub const DATA: u8 = 0;
    /// Asks for a [`PONG`] with the same payload.
    pub const PING: u8 = 1;
    /// The answer to a [`PING`].
    pub const PONG: u8 = 2;
    /// The sender lives; sent by the worker while its client waits.
    pub const ALIVE: u8 = 3;
    /// The first frame of a client.
    pub const HELLO: u8 = 4;
    /// The worker's answer to it, [`crate::Offer`] in JSON.
    pub const OFFER: u8 = 5;
    /// The worker serves the client that the payload names.
    pub const BUSY: u8 = 6;
    /// The worker cannot go on, for the reason in the payload.
    pub const GONE: u8 = 7;
    /// Announces the values of a tensor: SHA-256, length, and the head of the request.
    pub const TENSOR: u8 = 8;
    /// The answer to [`TENSOR`]: 1 if the worker has the values, 0 if they must be sent.
    pub const HAVE: u8 = 9;
    /// Is ignored; for measuring the network.
    pub const BALLAST: u8 = 10;
}

/// The two directions of an authenticated stream.
pub(crate) struct Noise {
    pub sealer: Sealer,
    pub opener: Opener,
}

/// Encrypts frames.
pub(crate) struct Sealer {
    state: Arc<StatelessTransportState>,
    number: u64,
    plain: Vec<u8>,
}

/// Decrypts frames from the bytes that arrive.
pub(crate) struct Opener {
    state: Arc<StatelessTransportState>,
    number: u64,
    arrived: Vec<u8>,
    /// The bytes of `arrived` that were decrypted.
    done: usize,
    plain: Vec<u8>,
}

/// A frame that does not decrypt.
#[derive(Debug, thiserror::Error)]
#[error("its stream is damaged or forged")]
pub(crate) struct Broken;

impl Noise {
    fn of(handshake: HandshakeState) -> Option<Noise> {
        let state = Arc::new(handshake.into_stateless_transport_mode().ok()?);
        Some(Noise {
            sealer: Sealer {
                state: Arc::clone(&state),
                number: 0,
                plain: Vec::new(),
            },
            opener: Opener {
                state,
                number: 0,
                arrived: Vec::new(),
                done: 0,
                plain: vec![0; MOST],
            },
        })
    }
}

impl Sealer {
    /// Appends to `wire` the frames for a payload; one that is longer than a frame becomes several of
    /// the same kind.
    pub fn seal(&mut self, kind: u8, payload: &[u8], wire: &mut Vec<u8>) {
        let mut rest = payload;
        loop {
            let (part, more) = rest.split_at(rest.len().min(PAYLOAD));
            self.plain.clear();
            self.plain.push(kind);
            self.plain.extend_from_slice(part);
            let length = self.plain.len() + TAG;
            let start = wire.len();
            wire.extend_from_slice(&(length as u16).to_be_bytes());
            wire.resize(start + 2 + length, 0);
            let written =
                self.state
                    .write_message(self.number, &self.plain, &mut wire[start + 2..]);
            debug_assert_eq!(written.ok(), Some(length), "the sizes are those of a frame");
            self.number += 1;
            rest = more;
            if rest.is_empty() {
                return;
            }
        }
    }
}

impl Opener {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.done == self.arrived.len() {
            self.arrived.clear();
            self.done = 0;
        } else if self.done > 1 << 20 {
            self.arrived.drain(..self.done);
            self.done = 0;
        }
        self.arrived.extend_from_slice(bytes);
    }

    /// The next frame that has arrived in whole: its kind and payload.
    pub fn next(&mut self) -> Result<Option<(u8, &[u8])>, Broken> {
        let waiting = &self.arrived[self.done..];
        let Some(length) = waiting.first_chunk::<2>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some(message) = waiting.get(2..2 + length) else {
            return Ok(None);
        };
        let read = self
            .state
            .read_message(self.number, message, &mut self.plain)
            .map_err(|_| Broken)?;
        self.number += 1;
        self.done += 2 + length;
        match self.plain.get(..read) {
            Some([kind, payload @ ..]) => Ok(Some((*kind, payload))),
            _ => Err(Broken),
        }
    }
}

/// Why a handshake failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The stream failed, ended, or took too long.
    Io(io::Error),
    /// The other side has another key, or none, or speaks something else.
    Key,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

/// Greets a worker. `time` is for the whole handshake.
pub(crate) fn greet(
    stream: &mut TcpStream,
    key: &[u8; 32],
    time: Duration,
) -> Result<Noise, Failure> {
    let deadline = Instant::now() + time;
    let builder = builder(key).ok_or(Failure::Key)?;
    let mut handshake = builder.build_initiator().map_err(|_| Failure::Key)?;
    send(stream, &mut handshake)?;
    receive(stream, &mut handshake, deadline)?;
    Noise::of(handshake).ok_or(Failure::Key)
}

/// Answers a client that greets. Nothing is sent to one without the key.
pub(crate) fn answer(
    stream: &mut TcpStream,
    key: &[u8; 32],
    deadline: Instant,
) -> Result<Noise, Failure> {
    let builder = builder(key).ok_or(Failure::Key)?;
    let mut handshake = builder.build_responder().map_err(|_| Failure::Key)?;
    receive(stream, &mut handshake, deadline)?;
    send(stream, &mut handshake)?;
    Noise::of(handshake).ok_or(Failure::Key)
}

fn builder(key: &[u8; 32]) -> Option<Builder<'_>> {
    let builder = Builder::new(PATTERN.parse().ok()?);
    builder.psk(0, key).ok()?.prologue(PROLOGUE).ok()
}

fn send(stream: &mut TcpStream, handshake: &mut HandshakeState) -> Result<(), Failure> {
    let mut message = [0; 2 + GREETING];
    message[..2].copy_from_slice(&(GREETING as u16).to_be_bytes());
    match handshake.write_message(&[], &mut message[2..]) {
        Ok(GREETING) => Ok(stream.write_all(&message)?),
        _ => Err(Failure::Key),
    }
}

fn receive(
    stream: &mut TcpStream,
    handshake: &mut HandshakeState,
    deadline: Instant,
) -> Result<(), Failure> {
    let mut message = [0; 2 + GREETING];
    let (length, rest) = message.split_at_mut(2);
    read_by(stream, length, deadline)?;
    // Garbage is mostly of another length, and not waited for.
    if length != (GREETING as u16).to_be_bytes() {
        return Err(Failure::Key);
    }
    read_by(stream, rest, deadline)?;
    let mut nothing = [0; GREETING];
    match handshake.read_message(rest, &mut nothing) {
        Ok(0) => Ok(()),
        _ => Err(Failure::Key),
    }
}

/// Fills `buffer` before the deadline.
pub(crate) fn read_by(
    stream: &mut TcpStream,
    mut buffer: &mut [u8],
    deadline: Instant,
) -> io::Result<()> {
    while !buffer.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => buffer = &mut buffer[n..],
            Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns whether a read or write ended because its time was up. Systems differ in the kind.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const TIME: Duration = Duration::from_secs(10);

    fn both(
        client: [u8; 32],
        worker: [u8; 32],
    ) -> (Result<Noise, Failure>, Result<Noise, Failure>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let other = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            answer(&mut stream, &worker, Instant::now() + TIME)
        });
        let mut stream = TcpStream::connect(address).unwrap();
        let noise = greet(&mut stream, &client, TIME);
        (noise, other.join().unwrap())
    }

    #[test]
    fn frames_of_any_length_arrive_in_order() {
        let (client, worker) = both([7; 32], [7; 32]);
        let (mut client, mut worker) = (client.unwrap(), worker.unwrap());
        for length in [0, 1, PAYLOAD - 1, PAYLOAD, PAYLOAD + 1, 3 * PAYLOAD + 5] {
            let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut wire = Vec::new();
            client.sealer.seal(kind::TENSOR, &payload, &mut wire);
            let mut whole = Vec::new();
            for piece in wire.chunks(1000) {
                worker.opener.push(piece);
                while let Some((kind, part)) = worker.opener.next().unwrap() {
                    assert_eq!(kind, kind::TENSOR);
                    whole.extend_from_slice(part);
                }
            }
            assert_eq!(whole, payload);
        }
    }

    #[test]
    fn another_key_ends_the_handshake_on_both_sides() {
        let (client, worker) = both([7; 32], [8; 32]);
        assert!(matches!(worker, Err(Failure::Key)));
        assert!(matches!(client, Err(Failure::Io(_))));
    }

    #[test]
    fn a_frame_that_was_changed_or_repeated_does_not_open() {
        let (client, worker) = both([7; 32], [7; 32]);
        let (mut client, mut worker) = (client.unwrap(), worker.unwrap());
        let mut wire = Vec::new();
        client.sealer.seal(kind::DATA, b"bat", &mut wire);
        worker.opener.push(&wire);
        assert_eq!(
            worker.opener.next().unwrap(),
            Some((kind::DATA, &b"bat"[..]))
        );
        worker.opener.push(&wire);
        assert!(worker.opener.next().is_err(), "the same frame again");

        let (client, worker) = both([7; 32], [7; 32]);
        let (mut client, mut worker) = (client.unwrap(), worker.unwrap());
        let mut wire = Vec::new();
        client.sealer.seal(kind::DATA, b"ball", &mut wire);
        wire[4] ^= 1;
        worker.opener.push(&wire);
        assert!(worker.opener.next().is_err(), "one bit changed");
    }
}
