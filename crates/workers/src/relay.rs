//! Carries the requests of ggml's client to a worker and brings back the answers. When the worker is
//! lost, answers are made up, because ggml's client would abort the program without them.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;

use sha2::{Digest, Sha256};

use crate::link::Shared;
use crate::rpc;
use crate::session::{Loss, Session};
use crate::stream::kind;

/// Bytes that are read from ggml and sent at a time.
const CHUNK: usize = 1 << 20;
/// Tensors from this size on are looked for on the worker's disk before they are sent.
const KEPT_FROM: u64 = 64 << 10;
/// Tensors up to this size are held in memory to be hashed before they are sent. Larger ones are
/// sent without asking.
const KEPT_TO: u64 = 2 << 30;

const OTHER_LENGTH: &str = "its answer has another length than it must";

/// Serves a connection of ggml's client until it ends it.
pub(crate) fn serve(shared: &Shared, ggml: &TcpStream) {
    let _ = ggml.set_nodelay(true);
    let mut relay = Relay {
        shared,
        ggml: BufReader::with_capacity(CHUNK / 4, ggml),
        chunk: Vec::new(),
    };
    while let Ok(true) = relay.request() {}
}

struct Relay<'a> {
    shared: &'a Shared,
    ggml: BufReader<&'a TcpStream>,
    chunk: Vec<u8>,
}

/// A request whose body has been read in part.
struct Request {
    command: u8,
    head: [u8; rpc::HEAD],
    /// The beginning of the body.
    body: Vec<u8>,
    /// The number of bytes of the body that are still to be read.
    rest: u64,
}

impl Relay<'_> {
    /// Serves the next request. Returns false if ggml's client ended the connection.
    fn request(&mut self) -> io::Result<bool> {
        let mut head = [0; rpc::HEAD];
        if self.ggml.read(&mut head[..1])? == 0 {
            return Ok(false);
        }
        self.ggml.read_exact(&mut head[1..])?;
        let command = head[0];
        let size = head[1..].try_into().map_or(0, u64::from_le_bytes);
        let mut body = vec![0; size.min(rpc::DECISIVE as u64) as usize];
        self.ggml.read_exact(&mut body)?;
        let request = Request {
            command,
            head,
            rest: size - body.len() as u64,
            body,
        };
        match command {
            rpc::HELLO => {
                let greeting = &self.shared.offer.hello;
                self.answer(&[&(greeting.len() as u64).to_le_bytes()[..], greeting].concat())?;
            }
            // What a server has under such a hash is not checked, so it is never asked.
            rpc::SET_TENSOR_HASH => self.answer(&[1, 0, 0, 0, 0, 0, 0, 0, 0])?,
            _ => self.carry(request)?,
        }
        Ok(true)
    }

    fn answer(&self, bytes: &[u8]) -> io::Result<()> {
        let mut ggml: &TcpStream = self.ggml.get_ref();
        ggml.write_all(bytes)
    }

    /// Carries a request to the worker, and the answer back.
    fn carry(&mut self, mut request: Request) -> io::Result<()> {
        let shared = self.shared;
        let answer = rpc::answer(request.command, &request.body);
        let mut brought = 0;
        if shared.fault().is_none() {
            let mut session = shared.session();
            let carried = match self.send(&mut session, &mut request)? {
                Ok(()) => match answer {
                    Some(length) => self.bring(&mut session, length, &mut brought)?,
                    None => Ok(()),
                },
                Err(loss) => Err(loss),
            };
            if let Err(reason) = carried {
                session.close();
                drop(session);
                shared.lose(reason);
            }
        }
        // Of a request that was not sent in whole, ggml still writes the rest.
        io::copy(&mut self.ggml.by_ref().take(request.rest), &mut io::sink())?;
        match answer {
            Some(length) if brought < 8 + length => self.pretend(&request, length, brought),
            _ => Ok(()),
        }
    }

    /// Sends a request to the worker. `request.rest` is what ggml has still to be asked for.
    fn send(
        &mut self,
        session: &mut Session,
        request: &mut Request,
    ) -> io::Result<Result<(), Loss>> {
        let values =
            (request.body.len() as u64 + request.rest).saturating_sub(rpc::SET_TENSOR_HEAD as u64);
        let is_kept = request.command == rpc::SET_TENSOR
            && self.shared.offer.cache
            && self.shared.is_loading()
            && (KEPT_FROM..=KEPT_TO).contains(&values);
        if is_kept {
            return self.send_kept(session, request, values);
        }
        self.chunk.clear();
        self.chunk.extend_from_slice(&request.head);
        self.chunk.extend_from_slice(&request.body);
        loop {
            let room = CHUNK.saturating_sub(self.chunk.len()) as u64;
            self.read(request, room)?;
            if let Err(loss) = session.send(kind::DATA, &self.chunk) {
                return Ok(Err(loss));
            }
            self.chunk.clear();
            if request.rest == 0 {
                return Ok(Ok(()));
            }
        }
    }

    /// Appends up to `most` bytes of the request's body to the chunk.
    fn read(&mut self, request: &mut Request, most: u64) -> io::Result<()> {
        let part = request.rest.min(most);
        let start = self.chunk.len();
        self.chunk.resize(start + part as usize, 0);
        self.ggml.read_exact(&mut self.chunk[start..])?;
        request.rest -= part;
        Ok(())
    }

    /// Sends the values of a tensor unless the worker has them on its disk.
    fn send_kept(
        &mut self,
        session: &mut Session,
        request: &mut Request,
        values: u64,
    ) -> io::Result<Result<(), Loss>> {
        let (head, first) = request.body.split_at(rpc::SET_TENSOR_HEAD);
        let announced = [&request.head, head].concat();
        self.chunk.clear();
        self.chunk.extend_from_slice(first);
        while request.rest > 0 {
            self.read(request, CHUNK as u64)?;
        }
        let hash = Sha256::digest(&self.chunk);
        let announcement = [&hash[..], &values.to_le_bytes(), &announced].concat();
        let sent =
            session
                .send(kind::TENSOR, &announcement)
                .and_then(|()| match session.receive()? {
                    (kind::HAVE, has) if has == [1] => Ok(()),
                    (kind::HAVE, _) => session.send(kind::DATA, &self.chunk),
                    _ => Err("it answers something else than it was asked".to_owned()),
                });
        // A large tensor's memory is given back.
        if self.chunk.capacity() > 64 * CHUNK {
            self.chunk = Vec::new();
        }
        Ok(sent)
    }

    /// Brings an answer of `length` bytes back to ggml. `brought` counts the bytes that ggml got.
    fn bring(
        &mut self,
        session: &mut Session,
        length: u64,
        brought: &mut u64,
    ) -> io::Result<Result<(), Loss>> {
        let mut size = Vec::new();
        while *brought < 8 + length {
            let bytes = match session.receive() {
                Ok((kind::DATA, bytes)) => bytes,
                Ok((kind::PONG, _)) => continue,
                Ok(_) => return Ok(Err("it sends something else than an answer".to_owned())),
                Err(loss) => return Ok(Err(loss)),
            };
            // Lengths are checked before ggml sees any of it.
            let rest = match size.len() < 8 {
                true => {
                    let (more, rest) = bytes.split_at(bytes.len().min(8 - size.len()));
                    size.extend_from_slice(more);
                    if size.len() < 8 {
                        continue;
                    }
                    if size != length.to_le_bytes() {
                        return Ok(Err(OTHER_LENGTH.to_owned()));
                    }
                    rest
                }
                false => &bytes,
            };
            let start = (*brought).max(8);
            if rest.len() as u64 > 8 + length - start {
                return Ok(Err(OTHER_LENGTH.to_owned()));
            }
            if *brought == 0 {
                self.answer(&[&size[..], rest].concat())?;
            } else {
                self.answer(rest)?;
            }
            *brought = start + rest.len() as u64;
        }
        Ok(Ok(()))
    }

    /// Completes an answer of which ggml got `brought` bytes.
    fn pretend(&mut self, request: &Request, length: u64, brought: u64) -> io::Result<()> {
        let mut made = length.to_le_bytes().to_vec();
        made.extend(rpc::pretend(request.command, &request.body));
        let start = (brought as usize).min(made.len());
        self.answer(&made[start..])?;
        let zeros = 8 + length - brought.max(made.len() as u64);
        let mut ggml: &TcpStream = self.ggml.get_ref();
        io::copy(&mut io::repeat(0).take(zeros), &mut ggml)?;
        Ok(())
    }
}
