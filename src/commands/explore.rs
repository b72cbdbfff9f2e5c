//! `modelve explore`: a page in the browser, and the server behind it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::anyhow;

use super::engine::EngineArgs;
use super::{prompt, serve};
use crate::base::human;
use crate::hint::WithHint;
use crate::output::{self, Output};
use crate::runtime::Cancel;
use crate::server::{Config, Explore, Limits, Loaded, Server, Stop};

/// Flags of `modelve explore`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve explore                       the default model
  modelve explore -m tiny               the built-in small model
  modelve explore --no-open --port 8081 only print the address, for ssh -L 8081:127.0.0.1:8081

The page can only be opened on this machine, with the token in its address; docs/explore.md shows
what it can do. Ctrl-C ends the server.")]
pub struct Args {
    /// A .gguf file, a Hub id such as org/name:Q4_K_M, or `tiny`; the same as -m
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,

    /// Print the address and open no browser
    #[arg(long)]
    no_open: bool,

    /// The port to listen on [default: any free one]
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 0,
        hide_default_value = true
    )]
    port: u16,

    /// A chat template (Jinja) instead of the model's own
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    chat_template: Option<PathBuf>,

    #[command(flatten)]
    engine: EngineArgs,
}

/// Number of texts computed in one batch: a person chats in one or two windows.
const PARALLEL: u32 = 2;
/// Maximum number of completions that are computed or waiting.
const QUEUE: usize = 16;
/// Maximum number of tokens in an answer.
const MAX_TOKENS: usize = 512;
/// Context size in tokens, unless `--ctx-size` gives another.
const LONGEST: u32 = 4096;

/// Runs the command: opens the page and serves it until it is stopped.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut engine = args.engine.clone();
    if args.positional.is_some() {
        engine.model.model = args.positional.clone();
    }
    let given = engine.model.model.clone();
    // A missing model is reported before a browser opens.
    let path = engine.locate("")?;
    engine.inspect(&path)?;
    let token = token()?;
    let template = args.chat_template.as_ref();
    let server = Server::bind(Config {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, args.port)),
        model: serve::name(given.as_deref(), &path),
        template: template
            .map(|path| prompt::input::read_text(path))
            .transpose()?,
        vectors: Vec::new(),
        keys: vec![token.clone()],
        origins: Vec::new(),
        hosts: Vec::new(),
        queue: QUEUE,
        max_tokens: MAX_TOKENS,
        limits: Limits::default(),
        explore: Some(Explore {
            token: token.clone(),
            model: given,
        }),
    })
    .with_hint(|| "without --port, a free port is chosen: modelve explore".to_owned())?;
    let (stop, cancel, loading) = (Stop::new(), Cancel::new(), Cancel::new());
    serve::on_signals(&stop, &loading)?;
    let url = format!("http://{}/?token={token}", server.address());
    let mut out = Output::stdout();
    writeln!(out, "{url}")?;
    out.flush()?;
    if !args.no_open {
        open(&url, server.address().port());
    }
    server.run(&stop, || {
        let model = engine.load_file(&path, serve::work(PARALLEL), &loading)?;
        let longest = engine.ctx_size.unwrap_or(LONGEST);
        engine.ctx_size = Some(longest.min(model.facts().n_ctx_train.max(1)));
        let setup = serve::setup(&engine, &model, &cancel, PARALLEL, None)?;
        output::note(&format!(
            "ready: {} in {:.1} s; Ctrl-C ends it",
            human::escape(path.display().to_string().as_bytes()),
            model.load_time().as_secs_f64()
        ));
        Ok::<_, anyhow::Error>(Loaded { model, setup })
    })
}

/// Returns the secret in the page's address: 128 random bits.
fn token() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("the system gives no random numbers for a token: {error}"))?;
    let mut token = String::with_capacity(32);
    for byte in bytes {
        write!(token, "{byte:02x}")?;
    }
    Ok(token)
}

/// Opens a browser, or prints how to open the page without one.
fn open(url: &str, port: u16) {
    let screen = ["DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME", "BROWSER"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    // On other systems a session without a screen is rare, and opening a browser fails by itself.
    let reason = match cfg!(target_os = "linux") && !screen {
        true => "this session has no screen".to_owned(),
        false => match open::that_detached(url) {
            Ok(()) => return,
            Err(error) => error.to_string(),
        },
    };
    output::note(&format!(
        "no browser was opened ({reason}): open the address yourself; from another machine, first\n  \
         ssh -L {port}:127.0.0.1:{port} THIS-MACHINE"
    ));
}
