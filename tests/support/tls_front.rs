//! A server with a certificate in front of a plain one on loopback: takes a connection, ends its TLS,
//! and hands one request and its answer through.
//!
//! The certificate is for `localhost` and signed by its own key, so nobody trusts it who is not told to.
//! It was made by `openssl`, is valid until 2120, and guards nothing.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Ends when it is dropped.
pub struct TlsFront {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl TlsFront {
    /// Starts one in front of the server at `http://HOST:PORT`.
    pub fn of(endpoint: &str) -> TlsFront {
        let behind: SocketAddr = endpoint.trim_start_matches("http://").parse().unwrap();
        let certificate = CertificateDer::from_pem_slice(include_bytes!("tls/cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let front = TlsFront {
            address: listener.local_addr().unwrap(),
            stop: Arc::default(),
        };
        let stop = Arc::clone(&front.stop);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), config) = (stream, Arc::clone(&config)) else {
                    continue;
                };
                thread::spawn(move || drop(hand_through(stream, config, behind)));
            }
        });
        front
    }

    /// The value for HF_ENDPOINT.
    pub fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// The value for SSL_CERT_FILE of who is to trust it.
    pub fn certificate() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls/cert.pem")
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

fn hand_through(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    behind: SocketAddr,
) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut secure = StreamOwned::new(connection, stream);
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.ends_with(b"\r\n\r\n") {
        match secure.read(&mut buffer)? {
            0 => return Ok(()),
            n => request.extend_from_slice(&buffer[..n]),
        }
    }
    let mut plain = TcpStream::connect(behind)?;
    plain.write_all(&request)?;
    plain.shutdown(Shutdown::Write)?;
    io::copy(&mut plain, &mut secure)?;
    secure.conn.send_close_notify();
    secure.flush()
}
