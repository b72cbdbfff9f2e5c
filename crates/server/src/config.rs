//! What whoever starts a server decides.

use std::net::SocketAddr;
use std::time::Duration;

use modelve_runtime::ControlVector;

/// How a server behaves towards those who ask.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens.
    pub address: SocketAddr,
    /// What the model is called.
    pub model: String,
    /// The chat template; none: the model's own.
    pub template: Option<String>,
    /// Control vectors that requests may ask for, by name.
    pub vectors: Vec<(String, ControlVector)>,
    /// Keys of which a request must show one; none: nobody is asked.
    pub keys: Vec<String>,
    /// Origins whose pages may use the server, such as `https://example.org`; `*` is all.
    pub origins: Vec<String>,
    /// Names besides addresses and `localhost` under which the server may be asked.
    pub hosts: Vec<String>,
    /// Completions that are computed or wait, at most.
    pub queue: usize,
    /// Tokens of an answer whose request does not say how many.
    pub max_tokens: usize,
    /// What is read and waited for, at most.
    pub limits: Limits,
    /// The page for a person with a browser, if there is to be one.
    pub explore: Option<Explore>,
}

/// The page for a person with a browser.
#[derive(Debug, Clone)]
pub struct Explore {
    /// What its address ends with, `?token=`; the page shows it as one of the keys.
    pub token: String,
    /// What names the model on a command line, for commands that the page proposes.
    pub model: Option<String>,
}

/// What is read and waited for, at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a body.
    pub body: usize,
    /// Bytes of the lines before a body.
    pub head: usize,
    /// Connections at once.
    pub connections: usize,
    /// From the first byte of a request to the last of its head; also how long a connection is
    /// kept open for the next request.
    pub head_time: Duration,
    /// From one part of a body to the next, and until a client takes what it is sent.
    pub pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body: 32 << 20,
            head: 64 << 10,
            connections: 1024,
            head_time: Duration::from_secs(30),
            pause: Duration::from_secs(30),
        }
    }
}
