//! Serves a checkpoint folder on loopback like the Hub, until it is stopped:
//!
//! ```text
//! cargo run --example hub_stand_in -- FOLDER org/name
//! HF_ENDPOINT=http://127.0.0.1:PORT modelve convert org/name
//! ```
#![allow(clippy::print_stdout)]

#[path = "../tests/support/hub_server.rs"]
#[allow(dead_code)]
mod hub_server;

use std::io::Write;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, repo] = arguments.as_slice() else {
        return Err(std::io::Error::other("usage: hub_stand_in FOLDER org/name"));
    };
    let server = hub_server::HubServer::start();
    server.folder(repo, Path::new(folder))?;
    println!("HF_ENDPOINT={}", server.endpoint());
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}
