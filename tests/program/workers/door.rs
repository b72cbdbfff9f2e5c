//! Who gets in, and who does not. ggml's server counts its connections: there is one, the door's own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use super::*;

/// A worker with a key, and a model for a client that has it.
struct House {
    bench: Bench,
    worker: Worker,
    key: String,
}

impl House {
    fn new() -> House {
        let bench = Bench::new();
        let key = bench.path("workers.key");
        new_key(&key);
        let key = key.to_str().unwrap().to_owned();
        let worker = Worker::start(&["--key-file", &key]);
        House { bench, worker, key }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.worker.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn ask(&self, worker: &str, more: &[&str]) -> Output {
        let complete = [
            "complete",
            "the ball",
            "-n",
            "3",
            "--split",
            "3,3",
            "--workers",
            worker,
        ];
        self.bench.run(&[&complete[..], more].concat())
    }

    /// A client with the key gets in, and ggml's server has seen nobody else.
    fn is_sound(&self) {
        printed(&self.ask(&self.worker.address, &["--key-file", &self.key]));
        let note = self.worker.note("left after");
        assert!(note.contains("ggml's server saw 1 connection"), "{note}");
        let seen = self
            .worker
            .notes()
            .iter()
            .filter(|note| note.contains("ggml's server saw"))
            .count();
        assert_eq!(seen, 1, "{:?}", self.worker.notes());
    }
}

/// What comes back until the end of the connection.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A connection that is reset has ended, too.
    drop(stream.read_to_end(&mut all));
    all
}

#[test]
fn no_key_and_a_wrong_key_are_refused_slowly_and_noted() {
    let house = House::new();
    let other = house.bench.path("other.key");
    new_key(&other);
    for more in [&[][..], &["--key-file", other.to_str().unwrap()]] {
        let begun = Instant::now();
        let (said, code) = refused(&house.ask(&house.worker.address, more));
        assert_eq!(code, 1);
        assert!(said.contains("did not accept the key"), "{said}");
        assert!(
            said.contains("hint: the same key file must be named on both sides"),
            "{said}"
        );
        assert!(begun.elapsed() >= Duration::from_secs(1), "it is slow");
    }
    let notes = house.worker.notes();
    let noted = notes
        .iter()
        .filter(|note| note.contains("does not have the key"));
    assert_eq!(noted.count(), 2, "{notes:?}");
    house.is_sound();
}

#[test]
fn a_key_on_one_side_only_is_refused() {
    let house = House::new();
    let open = Worker::start(&[]);
    let (said, _) = refused(&house.ask(&open.address, &["--key-file", &house.key]));
    assert!(said.contains("did not accept the key"), "{said}");
}

#[test]
fn garbage_is_refused_and_gets_nothing_back() {
    let house = House::new();
    let mut frame = vec![0, 48];
    frame.extend([7; 48]);
    // What ggml's own client would send to ggml's server.
    let mut hello = vec![14, 24, 0, 0, 0, 0, 0, 0, 0];
    hello.extend([0; 24]);
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 100],
        &[255; 100_000],
        &frame,
        &hello,
    ] {
        let mut stream = house.connect();
        drop(stream.write_all(garbage));
        drop(stream.shutdown(Shutdown::Write));
        assert!(rest(stream).is_empty(), "{} bytes", garbage.len());
    }
    house.is_sound();
}

#[test]
fn a_recorded_client_does_not_get_in_again() {
    let house = House::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let between = listener.local_addr().unwrap();
    let worker: SocketAddr = house.worker.address.parse().unwrap();
    // Carries a session and keeps what the client said.
    let recorder = std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let server = TcpStream::connect(worker).unwrap();
        let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || {
            drop(std::io::copy(&mut from, &mut to));
            drop(to.shutdown(Shutdown::Both));
        });
        let (mut client, mut server, mut kept) = (client, server, Vec::new());
        let mut chunk = [0; 65536];
        while let Ok(n @ 1..) = client.read(&mut chunk) {
            kept.extend_from_slice(&chunk[..n]);
            if server.write_all(&chunk[..n]).is_err() {
                break;
            }
        }
        drop(server.shutdown(Shutdown::Both));
        kept
    });
    printed(&house.ask(&between.to_string(), &["--key-file", &house.key]));
    let recorded = recorder.join().unwrap();
    house.worker.note("left after");
    let mut stream = house.connect();
    drop(stream.write_all(&recorded));
    // The answer to the handshake, which tells the one who replays it nothing.
    let answer = rest(stream);
    assert!(answer.len() <= 50, "{} bytes", answer.len());
    house.worker.note("does not have the key");
    let connected = house
        .worker
        .notes()
        .iter()
        .filter(|note| note.contains(": connected"))
        .count();
    assert_eq!(connected, 1, "{:?}", house.worker.notes());
}

#[test]
fn half_open_connections_and_floods_do_not_keep_others_out() {
    let house = House::new();
    // Some say nothing, some a part of a handshake.
    let half_open: Vec<TcpStream> = (0..200)
        .filter_map(|i| {
            let mut stream = TcpStream::connect(&house.worker.address).ok()?;
            if i % 2 == 0 {
                drop(stream.write_all(&[0, 48, 1, 2, 3]));
            }
            Some(stream)
        })
        .collect();
    // They are given up after five seconds.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = house.ask(&house.worker.address, &["--key-file", &house.key]);
        if asked.status.success() {
            break;
        }
        let (said, _) = refused(&asked);
        assert!(said.contains("did not accept the key"), "{said}");
        assert!(Instant::now() < deadline, "nobody gets in");
    }
    drop(half_open);
    let note = house.worker.note("left after");
    assert!(note.contains("ggml's server saw 1 connection"), "{note}");
}

#[test]
fn one_client_at_a_time() {
    let house = House::new();
    // It waits for a prompt on standard input, with the model loaded: a server of its own.
    let mut first = house
        .bench
        .command(&[
            "serve",
            "--port",
            "0",
            "--workers",
            &house.worker.address,
            "--split",
            "3,3",
        ])
        .args(["--key-file", &house.key])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    house.worker.note(": connected");
    let (said, code) = refused(&house.ask(&house.worker.address, &["--key-file", &house.key]));
    drop(first.kill());
    drop(first.wait());
    assert_eq!(code, 1);
    assert!(said.contains("is in use by 127.0.0.1:"), "{said}");
    // The next one gets in at once.
    printed(&house.ask(&house.worker.address, &["--key-file", &house.key]));
}
