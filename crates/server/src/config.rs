//! The configuration of a server.

use std::net::SocketAddr;
use std::time::Duration;

use modelve_runtime::ControlVector;

/// The configuration of a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address to listen on.
    pub address: SocketAddr,
    /// Name of the model in answers.
    pub model: String,
    /// The chat template; `None` means the model's own.
    pub template: Option<String>,
    /// Control vectors that requests may use, by name.
    pub vectors: Vec<(String, ControlVector)>,
    /// API keys, of which a request must send one; if empty, no key is needed.
    pub keys: Vec<String>,
    /// Origins whose web pages may use the server, such as `https://example.org`; `*` allows all.
    pub origins: Vec<String>,
    /// Host names by which the server may be addressed, in addition to IP addresses and
    /// `localhost`.
    pub hosts: Vec<String>,
    /// Maximum number of completions that are computed or waiting.
    pub queue: usize,
    /// Number of tokens to generate where the request does not say.
    pub max_tokens: usize,
    /// Limits on sizes and waiting times.
    pub limits: Limits,
    /// The page of `modelve explore`; `None` if it is not served.
    pub explore: Option<Explore>,
}

/// Configuration of the page of `modelve explore`.
#[derive(Debug, Clone)]
pub struct Explore {
    /// The token at the end of the page's address, `?token=`. The page sends it as an API key.
    pub token: String,
    /// The MODEL argument for command lines that the page shows.
    pub model: Option<String>,
}

/// Limits on sizes and waiting times.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Maximum size of a body in bytes.
    pub body: usize,
    /// Maximum size of a request's head in bytes.
    pub head: usize,
    /// Maximum number of simultaneous connections.
    pub connections: usize,
    /// Maximum time from the first byte of a request to the end of its head; also how long an idle
    /// connection is kept open.
    pub head_time: Duration,
    /// Maximum time between two parts of a body, and until a client accepts what it is sent.
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
