//! A model that stays loaded, for clients that speak OpenAI's API over HTTP.
//!
//! [`Server::bind`] listens at once. [`Server::run`] loads the model on the calling thread, which
//! then owns the [`Engine`] and computes all requests together, one decode at a time. Another
//! thread serves the connections, so `/health` is answered whatever the engine does. Probes have a
//! thread and a context of their own.
//!
//! | module | what it knows |
//! |---|---|
//! | `listen`, `guard`, `body` | connections; access control; bodies within limits |
//! | `app` | the state that all requests share, and the routes |
//! | `engine_thread`, `probe_thread` | the threads that compute, and the channels to them |
//! | `openai` | completions, chat and responses of OpenAI's API |
//! | `llama` | paths of llama.cpp's server |
//! | `probes` | the JSON of the commands `next`, `score`, `lens` and `attention` |
//! | `experiments` | the JSON of the commands `why`, `patch`, `ablate`, `heads` and `steer run` |
//! | `explore` | the page for a person with a browser |
//! | `tools`, `reasoning` | tool calls and reasoning in generated text |
//!
//! Nothing here prints, parses arguments or ends the program.

mod app;
mod body;
mod config;
mod engine_thread;
mod error;
mod experiments;
mod explore;
mod guard;
mod knobs;
mod listen;
mod llama;
mod logprobs;
mod metrics;
mod openai;
mod openapi;
mod probe_thread;
mod probes;
mod reasoning;
mod sse;
mod status;
mod stop;
mod tools;

use std::net::SocketAddr;
use std::sync::Arc;

use modelve_gguf::vocab::{Kind, Vocabulary};
use modelve_runtime::{Engine, Model, Setup, engine};
use tokio::net::TcpListener;

pub use config::{Config, Explore, Limits};
pub use stop::Stop;

/// The reason why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: std::io::Error,
    },
    /// The system cannot start a thread.
    #[error("no thread to serve connections on")]
    Thread(#[source] std::io::Error),
    /// A control vector whose width does not fit the model.
    #[error(
        "the control vector {name:?} has {width} values a layer, and the model's states have {needed}"
    )]
    Vector {
        /// Name of the vector.
        name: String,
        /// Number of values per layer.
        width: usize,
        /// Number of values in the model's states.
        needed: usize,
    },
    /// An error of the runtime.
    #[error(transparent)]
    Runtime(#[from] modelve_runtime::Error),
}

/// A server that listens on its address.
#[derive(Debug)]
pub struct Server {
    listener: std::net::TcpListener,
    address: SocketAddr,
    config: Config,
}

/// A model and the settings to compute with it.
#[derive(Debug)]
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// The engine's settings. Its capacity must be given, because contexts are made once.
    pub setup: Setup,
}

impl Server {
    /// Listens on the address. Connections are answered once the server [runs](Server::run).
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub fn bind(config: Config) -> Result<Server, Error> {
        let address = config.address;
        let listen = |source| Error::Listen { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Server {
            listener,
            address,
            config,
        })
    }

    /// Returns its address, with the port that the system chose if the configured one was 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Loads the model with `load`, answering 503 meanwhile, and serves until `stop`.
    ///
    /// # Errors
    /// The errors of `load` and of the engine's setup, or no threads.
    pub fn run<E: From<Error>>(
        self,
        stop: &Stop,
        load: impl FnOnce() -> Result<Loaded, E>,
    ) -> Result<(), E> {
        let (handle, inbox) = engine_thread::channel(self.config.queue);
        let shared = Arc::clone(handle.shared());
        let app = Arc::new(app::App::new(self.config, Arc::clone(&shared)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(16)
            .build()
            .map_err(Error::Thread)?;
        let serving = {
            let (app, stopped) = (Arc::clone(&app), stop.receiver());
            let router = app::router(Arc::clone(&app));
            let listener = self.listener;
            std::thread::Builder::new()
                .name("http".to_owned())
                .spawn(move || {
                    runtime.block_on(async move {
                        match TcpListener::from_std(listener) {
                            Ok(listener) => listen::serve(listener, app, router, stopped).await,
                            Err(error) => tracing::error!("cannot serve: {error}"),
                        }
                    });
                    // Computations for disconnected clients are not waited for.
                    runtime.shutdown_background();
                })
                .map_err(Error::Thread)?
        };
        let prepared = load().and_then(|loaded| Ok(prepare(loaded, &app.config, handle)?));
        let (engine, steered, probes) = match prepared {
            Ok((engine, steered, probe_thread, ready)) => {
                app.set_ready(ready);
                (engine, steered, probe_thread)
            }
            Err(error) => {
                stop.begin();
                drop(app);
                drop(serving.join());
                return Err(error);
            }
        };
        // From now on only connections hold the channel, so the engine's thread ends when they have
        // ended.
        drop(app);
        let probing = std::thread::Builder::new()
            .name("probes".to_owned())
            .spawn(move || probes.run())
            .map_err(Error::Thread)?;
        engine_thread::run(engine, steered, inbox, &shared);
        drop(serving.join());
        drop(probing.join());
        Ok(())
    }
}

type Prepared = (Engine, Setup, probe_thread::ProbeThread, app::Ready);

/// Makes the engine, the setup for texts with a control vector, and the state that requests need
/// for both.
fn prepare(
    loaded: Loaded,
    config: &Config,
    handle: engine_thread::Handle,
) -> Result<Prepared, Error> {
    let Loaded { model, setup } = loaded;
    let capacity = setup.capacity;
    let trained = model.facts().n_ctx_train as usize;
    let limit = setup.ctx_size.map_or(trained, |size| size as usize);
    let limit = capacity.map_or(limit, |capacity| limit.min(capacity.cells as usize));
    let parallel = setup.parallel.unwrap_or(engine::PARALLEL) as usize;
    let (probes, probe_thread) = probe_thread::pair(&model, &setup.settings, limit);
    let width = model.facts().n_embd as usize;
    for (name, vector) in &config.vectors {
        if vector.width() != width {
            return Err(Error::Vector {
                name: name.clone(),
                width: vector.width(),
                needed: width,
            });
        }
    }
    // The context of requests with a control vector is made when it is needed, as large as it must
    // be.
    let steered = Setup {
        ctx_size: u32::try_from(limit).ok(),
        capacity: None,
        ..setup.clone()
    };
    let engine = Engine::new(&model, setup)?;
    let own = model.facts().chat_template.as_deref();
    let ready = app::Ready {
        control_tokens: control_tokens(&model),
        parallel,
        engine: handle,
        probes,
        means: app::Means {
            template: config.template.as_deref().or(own).map(Arc::from),
            limit,
            max_tokens: config.max_tokens,
            vectors: Arc::new(config.vectors.iter().cloned().collect()),
            model,
        },
    };
    Ok((engine, steered, probe_thread, ready))
}

/// Returns the tokens that stand for no text.
fn control_tokens(model: &Model) -> Vec<u32> {
    // The vocabulary was read when the model was loaded.
    let Ok(vocab) = Vocabulary::new(model.gguf()) else {
        return Vec::new();
    };
    let ids = 0..u32::try_from(vocab.len()).unwrap_or(u32::MAX);
    ids.filter(|&id| vocab.kind(id) == Kind::Control).collect()
}

/// Returns the time in seconds since 1970.
fn unix_time() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |time| time.as_secs())
}

/// Returns a random number for ids and seeds.
fn random() -> u64 {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        // Without random numbers from the system, ids are still unique.
        Err(_) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |time| time.as_nanos() as u64)
        }
    }
}

/// Returns the id of an answer: `prefix` and 32 hexadecimal digits.
fn name(prefix: &str) -> String {
    format!("{prefix}{:016x}{:016x}", random(), random())
}
