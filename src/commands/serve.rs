//! `modelve serve`: keeps the model loaded and answers over HTTP.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use anyhow::anyhow;

use super::cache::CacheArgs;
use super::engine::{EngineArgs, explain};
use super::prompt;
use super::vectors::{self, Share};
use crate::base::human;
use crate::hint::{UsageError, WithHint, hinted};
use crate::hub::locate::ModelRef;
use crate::output;
use crate::runtime::engine::Capacity;
use crate::runtime::weights::Work;
use crate::runtime::{Cancel, ControlVector, Model, Setup, context, host};
use crate::server::{Config, Limits, Loaded, Server, Stop};

/// Flags of `modelve serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve serve                                 for this machine only, on port 8080
  modelve serve -m tiny --port 0                on a free port
  MODELVE_API_KEY=secret modelve serve --host 0.0.0.0

Clients of OpenAI's API use http://127.0.0.1:8080/v1; docs/clients.md shows some of them.
Ctrl-C or SIGTERM finishes running requests; a second one ends at once.")]
pub struct Args {
    /// A .gguf file, a Hub id such as org/name:Q4_K_M, or `tiny`; the same as -m
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,

    /// The address to listen on; 0.0.0.0 is reachable from other machines and needs a key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,

    /// The port to listen on; 0 chooses a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,

    /// A key that requests must send (repeatable)
    #[arg(
        long,
        value_name = "KEY",
        env = "MODELVE_API_KEY",
        hide_env_values = true
    )]
    api_key: Vec<String>,

    /// Let everybody who reaches the address use the model without a key
    #[arg(long, conflicts_with = "api_key")]
    no_auth: bool,

    /// Let web pages of this origin use the server, such as http://localhost:3000; `*` allows all
    /// (repeatable)
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,

    /// Also answer under this host name where no key is needed (repeatable)
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    allow_host: Vec<String>,

    /// A chat template (Jinja) instead of the model's own
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    chat_template: Option<PathBuf>,

    /// A control vector that requests may use by its name, NAME=FILE or NAME=FILE:SCALE
    /// (repeatable)
    #[arg(long, value_name = "NAME=FILE", hide_short_help = true, value_parser = named)]
    control_vector: Vec<(String, Share)>,

    /// Name of the model in answers [default: its file's name]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    alias: Option<String>,

    /// Number of texts computed in one batch
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=240))]
    parallel: u32,

    /// Maximum number of completions that are computed or waiting; further ones get error 503
    #[arg(long, value_name = "N", default_value_t = 256, hide_short_help = true, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    queue: u32,

    /// Total number of tokens of all texts in the KV cache [default: what fits into a quarter of
    /// the free memory, up to 32,768]
    #[arg(long, value_name = "TOKENS", hide_short_help = true, value_parser = clap::value_parser!(u32).range(1..))]
    cells: Option<u32>,

    /// Maximum number of tokens in an answer whose request does not say
    #[arg(long, value_name = "N", default_value_t = 2048, hide_short_help = true)]
    max_tokens: u32,

    #[command(flatten)]
    cache: CacheArgs,

    #[command(flatten)]
    engine: EngineArgs,
}

/// Number of cells where memory does not set the limit.
const CELLS: u64 = 32_768;

/// Runs the command: serves until it is stopped.
pub fn run(args: Args) -> anyhow::Result<()> {
    let mut engine = args.engine.clone();
    if args.positional.is_some() {
        engine.model.model = args.positional.clone();
    }
    let config = args.config(engine.model.model.as_deref())?;
    // A missing model is reported before anything listens.
    let path = engine.locate("")?;
    engine.inspect(&path)?;
    let config = Config {
        model: (args.alias.clone()).unwrap_or_else(|| name(engine.model.model.as_deref(), &path)),
        ..config
    };
    let (address, keys) = (config.address, config.keys.len());
    let server = Server::bind(config)
        .with_hint(|| "choose a free port: modelve serve --port 0".to_owned())?;
    let store = args.cache.open()?;
    let (stop, cancel) = (Stop::new(), Cancel::new());
    let loading = Cancel::new();
    on_signals(&stop, &loading)?;
    announce(&args, server.address(), address.ip(), keys);
    server.run(&stop, || {
        let model = engine.load_file(&path, work(args.parallel), &loading)?;
        let setup = setup(&engine, &model, &cancel, args.parallel, args.cells)?;
        let setup = Setup { store, ..setup };
        output::note(&format!(
            "ready: {} in {:.1} s",
            human::escape(path.display().to_string().as_bytes()),
            model.load_time().as_secs_f64()
        ));
        Ok::<_, anyhow::Error>(Loaded { model, setup })
    })
}

/// Estimates a server's work: many answers at once, for a long time.
pub(super) fn work(parallel: u32) -> Work {
    let parallel = parallel as usize;
    Work {
        prompt_tokens: 64 * 512,
        max_tokens: 128,
        prompts: 64,
        parallel,
    }
}

/// Parses `NAME=FILE`.
fn named(text: &str) -> Result<(String, Share), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() => Ok((name.to_owned(), file.parse()?)),
        _ => Err("a name, `=` and a file: calm=calm.gguf".to_owned()),
    }
}

impl Args {
    /// Reads the control vectors.
    fn vectors(&self) -> anyhow::Result<Vec<(String, ControlVector)>> {
        let mut read: Vec<(String, ControlVector)> = Vec::new();
        for (name, share) in &self.control_vector {
            if read.iter().any(|(other, _)| other == name) {
                return Err(UsageError(format!("two control vectors are called {name:?}")).into());
            }
            let vector = vectors::sum(std::slice::from_ref(share))?;
            read.extend(vector.map(|vector| (name.clone(), vector)));
        }
        Ok(read)
    }

    fn config(&self, model: Option<&str>) -> anyhow::Result<Config> {
        let address = resolve(&self.host, self.port)?;
        if let Some(empty) = self.api_key.iter().position(|key| key.trim().is_empty()) {
            return Err(UsageError(format!("key {} is empty", empty + 1)).into());
        }
        if !address.ip().is_loopback() && self.api_key.is_empty() && !self.no_auth {
            let usage = UsageError(format!("{} can be reached by other machines", self.host));
            return Err(hinted(
                usage,
                format!(
                    "with a key: modelve serve --host {0} --api-key KEY{1}\n\
                     or for everybody: modelve serve --host {0} --no-auth{1}",
                    super::command_line::quote(&self.host),
                    model.map_or(String::new(), |m| format!(
                        " -m {}",
                        super::command_line::quote(m)
                    )),
                ),
            ));
        }
        Ok(Config {
            address,
            model: String::new(),
            template: self
                .chat_template
                .as_ref()
                .map(|path| prompt::input::read_text(path))
                .transpose()?,
            vectors: self.vectors()?,
            keys: self.api_key.clone(),
            origins: self.allow_origin.clone(),
            hosts: self.allow_host.clone(),
            queue: self.queue as usize,
            max_tokens: self.max_tokens as usize,
            limits: Limits::default(),
            explore: None,
        })
    }
}

/// Returns the model's name in answers: never a path, which clients must not learn.
pub(super) fn name(model: Option<&str>, path: &Path) -> String {
    match model.map(ModelRef::parse) {
        Some(ModelRef::Tiny | ModelRef::Hub(_)) => model.unwrap_or_default().to_owned(),
        _ => path
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()),
    }
}

/// Returns the engine's setup for `parallel` texts in one batch, with `cells` cells of the KV cache
/// or as many as fit into a quarter of the free memory.
pub(super) fn setup(
    engine: &EngineArgs,
    model: &Model,
    cancel: &Cancel,
    parallel: u32,
    cells: Option<u32>,
) -> anyhow::Result<Setup> {
    let settings = engine.settings(cancel);
    let longest = u64::from(engine.ctx_size.unwrap_or(model.facts().n_ctx_train));
    let cells = match cells {
        Some(cells) => u64::from(cells),
        None => {
            let token = context::kv_bytes(model.facts(), settings.kv_type, 1).max(1);
            let affordable = host::free_memory().map_or(CELLS, |free| free / 4 / token);
            // If a short context was asked for, there is room for several texts of that length.
            let wanted = match engine.ctx_size {
                Some(size) => u64::from(size).max(CELLS.min(4 * u64::from(size))),
                None => CELLS.min(longest.saturating_mul(u64::from(parallel))),
            };
            match engine.ctx_size {
                // A context that was asked for is provided or refused, never shortened.
                Some(size) => wanted.min(affordable.max(u64::from(size))),
                None => wanted.min(affordable.max(256)),
            }
        }
    };
    let cells = u32::try_from(cells).map_err(|_| anyhow!("{cells} cells are too many"))?;
    context::check_fit(
        model.facts(),
        settings.kv_type,
        u64::from(cells),
        host::free_memory(),
        0,
    )
    .map_err(explain)?;
    Ok(Setup {
        settings,
        ctx_size: Some(u32::try_from(longest).unwrap_or(u32::MAX).min(cells)),
        capacity: Some(Capacity {
            cells,
            sequences: parallel + KEPT,
        }),
        parallel: Some(parallel),
        ..Setup::default()
    })
}

/// Number of ended texts whose cache is kept for prompts with the same beginning, in addition to
/// `parallel`.
const KEPT: u32 = 8;

/// Resolves the address.
fn resolve(host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok((ip, port).into());
    }
    let found = (host, port)
        .to_socket_addrs()
        .ok()
        .and_then(|mut all| all.next());
    found.ok_or_else(|| {
        UsageError(format!(
            "{host:?} is not an address of this machine, such as 127.0.0.1"
        ))
        .into()
    })
}

/// Prints where the server listens, and how to try it.
fn announce(args: &Args, address: SocketAddr, ip: IpAddr, keys: usize) {
    let own = match ip.is_unspecified() {
        true => SocketAddr::from(([127, 0, 0, 1], address.port())),
        false => address,
    };
    let key = match keys {
        0 => "",
        // A key from the environment is not printed.
        _ => " -H \"Authorization: Bearer $MODELVE_API_KEY\"",
    };
    output::note(&format!("listening on http://{address}"));
    output::note(&format!(
        "try it: curl http://{own}/v1/completions{key} -d '{{\"prompt\": \"Today is\", \"max_tokens\": 16}}'"
    ));
    if args.no_auth && !ip.is_loopback() {
        output::note("no key is needed: everybody who reaches this address can use the model");
    }
}

/// The first signal finishes running requests, the second ends the program at once.
pub(super) fn on_signals(stop: &Stop, loading: &Cancel) -> anyhow::Result<()> {
    #[cfg(unix)]
    {
        use signal_hook::consts::{SIGINT, SIGTERM};
        use signal_hook::iterator::Signals;

        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let (stop, loading) = (stop.clone(), loading.clone());
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let mut told = false;
                for signal in signals.forever() {
                    if told {
                        signal_hook::low_level::exit(128 + signal);
                    }
                    told = true;
                    output::note("finishing running requests; a second signal ends at once");
                    loading.set();
                    stop.begin();
                }
            })?;
    }
    #[cfg(not(unix))]
    {
        use signal_hook::{consts::SIGINT, flag};
        let cancel = loading.clone();
        flag::register_conditional_shutdown(SIGINT, 130, cancel.flag())?;
        flag::register(SIGINT, cancel.flag())?;
        let stop = stop.clone();
        std::thread::spawn(move || {
            while !cancel.is_set() {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            stop.begin();
        });
    }
    Ok(())
}
