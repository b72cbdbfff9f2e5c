//! Writes a Phi-3 checkpoint with random weights in the Hub's layout, for converters and benchmarks
//! when the real weights are not available.
//!
//! ```text
//! cargo run --example make_checkpoint -- --config ../phi3 --out /tmp/phi3-random
//! cargo run --example make_checkpoint -- --config ../phi3 --out /tmp/small --layers 4 --hidden 512 --heads 8
//! ```
//!
//! `--config` is a `config.json` or the folder that holds it; the tokenizer files beside it (or
//! in `--tokenizer`) are copied. It needs a few megabytes of memory for any size.
#![allow(clippy::print_stdout)]

#[path = "../tests/support/synthetic.rs"]
#[allow(dead_code)]
mod synthetic;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

/// Write a checkpoint with random weights
#[derive(Parser)]
struct Args {
    /// A config.json, or the folder that holds it
    #[arg(long)]
    config: PathBuf,
    /// Folder to write (made if absent)
    #[arg(long)]
    out: PathBuf,
    /// Folder of the tokenizer files [default: beside the config]
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Element type: bf16, f16 or f32
    #[arg(long, default_value = "bf16")]
    dtype: String,
    /// Most bytes of weights in one shard, with a suffix M or G
    #[arg(long, default_value = "5G")]
    shard_size: String,
    /// Seed of the weights
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Override num_hidden_layers
    #[arg(long)]
    layers: Option<u64>,
    /// Override hidden_size
    #[arg(long)]
    hidden: Option<u64>,
    /// Override intermediate_size
    #[arg(long)]
    intermediate: Option<u64>,
    /// Override num_attention_heads (and num_key_value_heads, unless that is given)
    #[arg(long)]
    heads: Option<u64>,
    /// Override num_key_value_heads
    #[arg(long)]
    kv_heads: Option<u64>,
    /// Override vocab_size
    #[arg(long)]
    vocab: Option<u64>,
    /// One matrix for the token embedding and the output
    #[arg(long)]
    tied: bool,
    /// Override any other key of config.json: KEY=JSON
    #[arg(long, value_name = "KEY=JSON")]
    set: Vec<String>,
}

/// Files of a checkpoint that are neither weights nor `config.json`.
const TOKENIZER_FILES: &[&str] = &[
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

fn main() -> Result<()> {
    let args = Args::parse();
    let started = Instant::now();
    let config_file = match args.config.is_dir() {
        true => args.config.join("config.json"),
        false => args.config.clone(),
    };
    let text = fs::read(&config_file).with_context(|| config_file.display().to_string())?;
    let mut config: Value = serde_json::from_slice(&text)?;
    let overrides = [
        ("num_hidden_layers", args.layers),
        ("hidden_size", args.hidden),
        ("intermediate_size", args.intermediate),
        ("num_attention_heads", args.heads),
        ("num_key_value_heads", args.kv_heads.or(args.heads)),
        ("vocab_size", args.vocab),
    ];
    for (key, value) in overrides {
        if let Some(value) = value {
            config[key] = json!(value);
        }
    }
    if args.tied {
        config["tie_word_embeddings"] = json!(true);
    }
    for pair in &args.set {
        let (key, value) = pair.split_once('=').context("--set wants KEY=JSON")?;
        config[key] = serde_json::from_str(value).with_context(|| format!("--set {pair}"))?;
    }
    synthetic::fit_rope_factors(&mut config);

    let Some(dtype) = synthetic::Dtype::parse(&args.dtype) else {
        bail!("--dtype {}: bf16, f16 or f32", args.dtype);
    };
    let summary = synthetic::write(
        &config,
        &synthetic::phi3_tensors(&config)?,
        dtype,
        args.seed,
        parse_size(&args.shard_size)?,
        &args.out,
    )?;
    let beside = config_file.parent().unwrap_or(&config_file).to_path_buf();
    let tokenizer = args.tokenizer.unwrap_or(beside);
    for name in TOKENIZER_FILES {
        let from = tokenizer.join(name);
        if from.is_file() {
            // Copies the contents but not the permissions, which may be read-only.
            fs::write(args.out.join(name), fs::read(from)?)?;
        }
    }
    println!(
        "{}: {} parameters, {:.2} GB, {} shard(s), {:.1} s",
        args.out.display(),
        summary.parameters,
        summary.bytes as f64 / 1e9,
        summary.shards,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

fn parse_size(text: &str) -> Result<u64> {
    let (digits, unit) = match text.to_ascii_uppercase() {
        t if t.ends_with('G') => (text[..text.len() - 1].to_owned(), 1_000_000_000),
        t if t.ends_with('M') => (text[..text.len() - 1].to_owned(), 1_000_000),
        _ => (text.to_owned(), 1),
    };
    let size: u64 = digits.parse().with_context(|| format!("size {text}"))?;
    Ok(size * unit)
}
