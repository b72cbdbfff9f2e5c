//! `modelve convert`: converts a checkpoint, local or on the Hub, to a quantized GGUF.

mod chosen;
mod curve;
mod measure;
pub(in crate::commands) mod plain;
mod proof;
mod report;
mod sized;
mod source;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, anyhow};
use regex::Regex;

use crate::base::{human, outfile};
use crate::commands::command_line::quote;
use crate::commands::fetching::{cancel_on_signals, or_like};
use crate::commands::flags;
use crate::commands::results::Form;
use crate::convert::arch;
use crate::convert::checkpoint::{self, Checkpoint};
use crate::convert::sized::Limit;
use crate::convert::{self, Imatrix, Options, Plan, Request};
use crate::gguf::{GgmlType, Gguf};
use crate::hint::{Interrupted, UsageError, hinted};
use crate::hub::Wanted;
use crate::output::Output;
use crate::progress;
use crate::quant::mix::{Overrides, RECIPES, Recipe};
use crate::runtime::Model;

use proof::Quality;
use report::{Done, Loaded, Planned};
use sized::{Job, SizeArgs, Wish};
use source::Place;

/// Convert a checkpoint to a quantized GGUF
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  modelve convert                                    Phi-3-mini-128k from the Hub, into the store
  modelve convert -q Q4_0 ./my-checkpoint            a folder, to NAME-Q4_0.gguf in this folder
  modelve convert org/name@v2 -q q6_k -o out.gguf    a revision on the Hub, to a file of your choice
  modelve convert org/name-GGUF:UD-Q4_K_XL           a GGUF file of the Hub, unchanged
  modelve convert org/name --adapter ./my-lora       merges a LoRA, to a file in this folder
  modelve convert ./my-checkpoint --size 2.0GiB      the best types for that size, measured and proven
  modelve convert ./my-checkpoint --dry-run          what would be written, and why")]
pub struct Args {
    /// A checkpoint folder, or a Hub id: `org/name[@revision][:TYPE]`
    /// [default: microsoft/Phi-3-mini-128k-instruct]
    #[arg(value_name = "MODEL")]
    positional: Option<String>,

    /// The same MODEL as a flag, like in the commands whose arguments are texts
    #[arg(
        short,
        long,
        value_name = "MODEL",
        conflicts_with = "positional",
        hide_short_help = true
    )]
    model: Option<String>,

    /// The quantization; --list-quants explains each [default: Q4_K_M]
    #[arg(short, long, value_name = "TYPE")]
    pub quant: Option<String>,

    /// The file to write, or the folder to write it into
    /// [default: the store for a Hub id, else NAME-TYPE.gguf in this folder]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// A folder with a LoRA (PEFT) to merge into the weights
    #[arg(long, value_name = "FOLDER")]
    pub adapter: Option<PathBuf>,

    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,

    /// Print the plan, a row per tensor, and write nothing
    #[arg(long)]
    pub dry_run: bool,

    /// List the types with bits per weight and size for this model
    #[arg(long)]
    pub list_quants: bool,

    /// Afterwards compare every tensor with its source, and load the rest with llama.cpp
    #[arg(long, conflicts_with = "dry_run")]
    pub verify: bool,

    /// Print the plan or the result as JSON
    #[arg(long)]
    pub json: bool,

    /// Number of threads that encode [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = flags::threads)]
    pub threads: Option<u32>,

    /// Importance matrix (of `modelve imatrix` or llama-imatrix): how much each column matters
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,

    /// Another type for the tensors whose GGUF name matches; repeatable, the first match counts
    #[arg(long, visible_alias = "keep", value_name = "REGEX=TYPE")]
    pub tensor_type: Vec<String>,

    /// Another type for the output matrix
    #[arg(long, value_name = "TYPE")]
    pub output_tensor_type: Option<String>,

    /// Another type for the token embedding
    #[arg(long, value_name = "TYPE")]
    pub token_embedding_type: Option<String>,

    /// The flags that choose a mix of types.
    #[command(flatten)]
    pub mix: SizeArgs,
}

/// Runs the command; `offline` keeps it off the network.
pub fn run(args: &Args, offline: bool) -> anyhow::Result<()> {
    let model = args.model.as_deref().or(args.positional.as_deref());
    let place = Place::parse(model, args.quant.as_deref())?;
    let adapter = args.adapter.as_deref();
    if args.list_quants {
        return list_quants(args, &place, offline);
    }
    let is_written = |recipe: &Recipe| args.imatrix.is_some() || !recipe.needs_imatrix();
    if let Some(label) = place
        .quant()
        .filter(|label| !Recipe::find(label).is_some_and(is_written))
    {
        return fetch_gguf(args, &place, label, offline);
    }
    let mut wish = args.mix.wish();
    if let (Some(wish), Some(quant)) = (wish, place.quant()) {
        return Err(wish.contradicts(quant));
    }
    let recipe = recipe(args.quant.as_deref().or(place.quant()))?;
    let label = wish.map_or_else(|| recipe.name.to_owned(), sized::Wish::label);
    if !is_written(recipe) {
        return Err(no_imatrix(recipe.name));
    }
    let form = Form {
        json: args.json,
        html: args.mix.html.clone(),
        force: args.force,
    };
    let curve_to = form.judge(args.imatrix.clone())?;
    let overrides = overrides(args)?;
    let imatrix = args.imatrix.as_deref().map(open_imatrix).transpose()?;
    let progress = progress::stderr(false);
    let threads = match args.threads {
        Some(threads) => threads as usize,
        None => std::thread::available_parallelism().map_or(1, |n| n.get()),
    };

    // Errors that would stop the conversion are reported before gigabytes are fetched for it. A model
    // with an adapter is another one: it has a name of its own, and no place in the store.
    if let Some(folder) = adapter {
        expect_adapter(folder)?;
    }
    let own_name = adapter.is_some() || wish.is_some();
    let asked = match (&args.output, own_name) {
        (None, true) => Some(Path::new("")),
        (asked, _) => asked.as_deref(),
    };
    let known_output = place.output(asked, &label, own_name, None)?;
    let writes = !args.dry_run && !args.mix.curve;
    if let Some(output) = known_output.as_deref().filter(|_| writes) {
        if args.output.is_some() {
            expect_folder(output)?;
        }
        let checked = convert::check_name(output, args.force).map_err(Into::into);
        output_hint(checked, output)?;
    }
    let cancel = cancel_on_signals()?;
    // What types do to tensors is found out on their weights.
    let wanted = match args.dry_run && wish.is_none() && !args.mix.curve {
        true => Wanted::Description,
        false => Wanted::Any,
    };
    let found = place.find(offline, wanted, progress.as_ref(), &cancel)?;
    if let Some(gguf) = &found.gguf {
        return fetched(args, gguf);
    }
    let checkpoint = open(&found, adapter)?;
    let unproven = Quality {
        text: proof::text_name(args.mix.held_out.as_deref()),
        ..Quality::default()
    };
    let extra = match wish {
        Some(_) if !args.mix.quick => unproven.metadata(),
        _ => Vec::new(),
    };
    let request = Request {
        recipe,
        overrides: &overrides,
        types: None,
        imatrix: imatrix.as_ref(),
        provenance: &found.provenance,
        extra: &extra,
    };
    let what = || format!("cannot convert {}", found.folder.display());
    let mut plan = Plan::new(&checkpoint, &request).with_context(what)?;
    if args.mix.curve {
        // Single tensors are measured in the types of a mix of the size of the default recipe.
        wish = Some(Wish::Limit(Limit::Bytes(plan.file_size())));
    }
    let output = match known_output {
        Some(output) => output,
        None => {
            let name = convert::file_name(&plan, &label, &found.folder);
            place
                .output(asked, &label, own_name, Some(&name))?
                .unwrap_or_else(|| PathBuf::from(name))
        }
    };
    let started = Instant::now();
    let folder = outfile::folder_of(&output);
    let temporary = std::env::temp_dir();
    let job = wish.map(|wish| Job {
        args: &args.mix,
        wish,
        checkpoint: &checkpoint,
        beside: match args.dry_run || args.mix.curve {
            true => &temporary,
            false => folder,
        },
        threads,
        cancel: &cancel,
        progress: progress.as_ref(),
    });
    if let Some(job) = job.as_ref().filter(|_| args.mix.curve) {
        let curve = curve::measure(job, &request).with_context(what)?;
        return curve_to.show_one(curve::PAGE, &curve, |out| curve::print(out, &curve));
    }
    let chosen = match &job {
        Some(job) => {
            if !args.dry_run {
                let checked = convert::check_name(&output, args.force).map_err(Into::into);
                output_hint(checked, &output)?;
            }
            Some(sized::choose(job, &request).with_context(what)?)
        }
        None => None,
    };
    if args.dry_run {
        if let Some(chosen) = &chosen {
            plan = Plan::new(&checkpoint, &chosen.request(&request)).with_context(what)?;
        }
        let planned = Planned {
            plan: &plan,
            quant: &label,
            output: &output,
            memory: convert::memory(&plan, threads),
            complete: found.complete,
            outlook: chosen.as_ref().map(|chosen| &chosen.outlook),
        };
        return report::plan(&mut Output::stdout(), &planned, args.json);
    }

    place.make_folder(&output)?;
    let options = Options {
        threads,
        force: args.force,
        cancel: &cancel,
    };
    let mut outlook = None;
    let mut quality = None;
    let written = match (&job, chosen) {
        (Some(job), Some(chosen)) => {
            let made = chosen::write(job, chosen, &request, &output, &options)?;
            plan = made.plan;
            (outlook, quality) = (Some(made.outlook), made.quality);
            made.written
        }
        _ => {
            let progress = progress.as_ref();
            let written =
                convert::write_aside(&plan, &checkpoint, &request, &output, &options, progress);
            output_hint(interrupted(written), &output)?
        }
    };
    output_hint(written.commit().map_err(Into::into), &output)?;
    convert::check(&plan, &output)?;
    let seconds = started.elapsed().as_secs_f64();

    let verified = match args.verify {
        true => {
            let progress = progress.as_ref();
            let compared =
                convert::measure(&plan, &checkpoint, &output, threads, &cancel, progress);
            Some((interrupted(compared)?, load(&output)?))
        }
        false => None,
    };
    let done = Done {
        plan: &plan,
        quant: &label,
        output: &output,
        reference: place.reference(&output, &label, asked.is_some()),
        seconds,
        threads,
        verified,
        outlook: outlook.as_ref(),
        quality,
    };
    report::done(&mut Output::stdout(), &done, args.json)
}

/// Fetches the GGUF file of a repository, for a label that is not a type that `convert` can write, or none
/// that it can write without an importance matrix.
fn fetch_gguf(args: &Args, place: &Place, label: &str, offline: bool) -> anyhow::Result<()> {
    let none = || match Recipe::find(label) {
        Some(recipe) => no_imatrix(recipe.name),
        None => no_type(label),
    };
    if args.dry_run && Recipe::find(label).is_some() {
        return Err(none());
    }
    if args.dry_run {
        let why = "is not a type that modelve converts to, so there is nothing to plan";
        return Err(UsageError(format!("--dry-run: `{label}` {why}")).into());
    }
    let progress = progress::stderr(false);
    let cancel = cancel_on_signals()?;
    let found = place.find(offline, Wanted::Gguf, progress.as_ref(), &cancel)?;
    match &found.gguf {
        Some(gguf) => fetched(args, gguf),
        None => Err(none()),
    }
}

/// Reports the path of a GGUF file that was fetched unchanged.
fn fetched(args: &Args, gguf: &Path) -> anyhow::Result<()> {
    if args.adapter.is_some() {
        let error = anyhow!("a GGUF file is fetched as it is, and takes no --adapter");
        return Err(hinted(error, "name the checkpoint that the adapter is for"));
    }
    if args.mix.wish().is_some() {
        let error = anyhow!("a GGUF file is fetched as it is, and no types are chosen for it");
        return Err(hinted(error, "name the checkpoint that it was made of"));
    }
    if let Some(output) = &args.output {
        let error = anyhow!(
            "a GGUF file is fetched unchanged into the Hub's cache; -o is for conversions only"
        );
        let paths = [gguf, output.as_path()].map(|path| quote(&path.to_string_lossy()));
        let hint = format!("copy it: cp {}", paths.join(" "));
        return Err(hinted(error, hint));
    }
    report::gguf(&mut Output::stdout(), gguf, args.json)
}

/// Opens the checkpoint and merges the adapter into it.
fn open(found: &source::Found, adapter: Option<&Path>) -> anyhow::Result<Checkpoint> {
    let checkpoint = open_base(found)?;
    let Some(adapter) = adapter else {
        return Ok(checkpoint);
    };
    let description = arch::describe(checkpoint.config())?;
    checkpoint
        .merge(adapter, |tensor| description.is_turned(tensor))
        .with_context(|| format!("cannot merge {}", adapter.display()))
}

/// Opens the checkpoint. If only its description was fetched, its tensors are derived from that.
fn open_base(found: &source::Found) -> anyhow::Result<Checkpoint> {
    if found.complete {
        return Checkpoint::open(&found.folder).map_err(adapter_hint);
    }
    let described = Checkpoint::open_description(&found.folder).map_err(adapter_hint)?;
    let description = arch::describe(described.config())?;
    let weights = description.weights.iter().filter(|weight| !weight.optional);
    let tensors: Vec<(&str, Vec<u64>)> = weights
        .flat_map(|weight| {
            let shape = weight.source_shape();
            let sources = weight.sources.iter();
            sources.map(move |source| (source.as_str(), shape.clone()))
        })
        .collect();
    let tensors = tensors
        .iter()
        .map(|(name, shape)| (*name, shape.as_slice()));
    Ok(Checkpoint::without_weights(&found.folder, tensors)?)
}

/// Adds the hint for a folder that holds only an adapter, which is converted together with its
/// model.
fn adapter_hint(error: checkpoint::Error) -> anyhow::Error {
    let checkpoint::Problem::Adapter { kind, base } = &error.problem else {
        return error.into();
    };
    let folder = quote(&error.path.to_string_lossy());
    let hint = match (kind.as_str(), base) {
        ("LORA", Some(base)) => {
            format!(
                "merge it: modelve convert {} --adapter {folder}",
                quote(base)
            )
        }
        ("LORA", None) => {
            format!("name the model that it is for: modelve convert MODEL --adapter {folder}")
        }
        _ => {
            "merge it with `merge_and_unload` of PEFT, and convert what `save_pretrained` makes of \
              that"
                .to_owned()
        }
    };
    hinted(error, hint)
}

/// Lets llama.cpp load everything of the file but the weights. The weights were compared one by
/// one, so that verifying takes no more memory than converting.
fn load(path: &Path) -> anyhow::Result<Loaded> {
    let started = Instant::now();
    Model::inspect(path)
        .and_then(|checked| checked.try_header())
        .with_context(|| format!("llama.cpp cannot load {}", path.display()))?;
    Ok(Loaded {
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn recipe(name: Option<&str>) -> anyhow::Result<&'static Recipe> {
    let name = name.unwrap_or(crate::hub::locate::DEFAULT_QUANT);
    Recipe::find(name).ok_or_else(|| no_type(name))
}

fn no_type(name: &str) -> anyhow::Error {
    let names: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
    let error = UsageError(format!("no type `{name}`; there are {}", names.join(", ")));
    hinted(error, "what each is for: modelve convert --list-quants")
}

fn no_imatrix(recipe: &str) -> anyhow::Error {
    let error = anyhow!("{recipe} cannot be written without an importance matrix");
    hinted(
        error,
        "`modelve imatrix` measures one, and --imatrix FILE names it; IQ3_S, IQ3_M and Q2_K do without",
    )
}

fn tensor_type(name: &str) -> anyhow::Result<GgmlType> {
    let found = GgmlType::from_name(name).filter(|ty| crate::quant::Encoder::new(*ty).is_ok());
    Ok(found.ok_or_else(|| {
        let example = match Recipe::find(name) {
            Some(recipe) => format!("; {name} is a recipe, its tensors are {}", recipe.base),
            None => "; for example Q4_K, Q6_K, Q8_0, F16".to_owned(),
        };
        UsageError(format!("no tensor type `{name}`{example}"))
    })?)
}

fn overrides(args: &Args) -> anyhow::Result<Overrides> {
    let mut tensors = Vec::new();
    for text in &args.tensor_type {
        let (pattern, ty) = text.rsplit_once('=').ok_or_else(|| {
            UsageError(format!(
                "--tensor-type or --keep {text}: REGEX=TYPE is needed"
            ))
        })?;
        let pattern = Regex::new(pattern)
            .map_err(|error| UsageError(format!("--tensor-type or --keep {text}: {error}")))?;
        tensors.push((pattern, tensor_type(ty)?));
    }
    let named = |name: &Option<String>| name.as_deref().map(tensor_type).transpose();
    Ok(Overrides {
        tensors,
        output: named(&args.output_tensor_type)?,
        token_embedding: named(&args.token_embedding_type)?,
    })
}

fn open_imatrix(path: &Path) -> anyhow::Result<Imatrix> {
    Imatrix::open(path).map_err(|error| {
        let hint = "--imatrix takes a file of `modelve imatrix` or llama-imatrix";
        match error {
            convert::imatrix::Error::Gguf(_) => error.into(),
            _ => hinted(error, hint),
        }
    })
}

/// Checks that a folder can hold an adapter.
fn expect_adapter(folder: &Path) -> anyhow::Result<()> {
    let kind =
        "an adapter is a folder with adapter_config.json, as PEFT's save_pretrained writes it";
    let name = folder.to_string_lossy();
    if !folder.is_dir() {
        let error = anyhow!("no such folder: {}", folder.display());
        return Err(hinted(error, or_like(&name, kind)));
    }
    if !folder.join("adapter_config.json").is_file() {
        let error = anyhow!("{}: has no adapter_config.json", folder.display());
        return Err(hinted(error, kind));
    }
    Ok(())
}

/// Returns an error if the folder of an output that the user named does not exist. Folders of the
/// store are made when needed.
fn expect_folder(output: &Path) -> anyhow::Result<()> {
    match output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.exists() => {
            let folder = folder.display();
            let error = anyhow!("cannot write {}: no folder {folder}", output.display());
            Err(hinted(error, format!("mkdir -p {folder}")))
        }
        _ => Ok(()),
    }
}

/// Converts the error of an interrupted conversion to [`Interrupted`], for its exit code.
fn interrupted<T>(result: Result<T, convert::Error>) -> anyhow::Result<T> {
    match result {
        Err(convert::Error::Interrupted) => {
            Err(anyhow::Error::new(Interrupted).context("nothing was written"))
        }
        other => Ok(other?),
    }
}

fn output_hint<T>(result: anyhow::Result<T>, output: &Path) -> anyhow::Result<T> {
    result.map_err(|error| {
        let Some(convert::Error::Output(refusal)) = error.downcast_ref() else {
            return error;
        };
        let hint = match refusal {
            outfile::Error::Exists { .. } => match Gguf::open(output) {
                Ok(_) => format!(
                    "--force converts again; to use it as it is: modelve complete -m {} \"Today is\"",
                    quote(&output.to_string_lossy())
                ),
                Err(_) => {
                    "that file is not a GGUF: choose another name, -o FILE.gguf".to_owned()
                }
            },
            outfile::Error::IsInput { .. } | outfile::Error::NotAFile { .. } => {
                "choose another name: -o FILE.gguf".to_owned()
            }
            _ => return error,
        };
        hinted(error, hint)
    })
}

fn list_quants(args: &Args, place: &Place, offline: bool) -> anyhow::Result<()> {
    let cancel = AtomicBool::new(false);
    let progress = progress::stderr(false);
    let found = place.find(offline, Wanted::Description, progress.as_ref(), &cancel);
    let (description, name) = match found {
        Ok(found) => {
            let checkpoint = Checkpoint::open_description(&found.folder)?;
            (arch::describe(checkpoint.config())?, place.to_string())
        }
        // The list is useful without the model, too.
        Err(_) if place.is_on_hub() => (source::phi3_mini()?, "a Phi-3-mini".to_owned()),
        Err(error) => return Err(error),
    };
    let mut rows = Vec::new();
    for recipe in RECIPES {
        let (bytes, weights) = convert::estimate(&description, recipe)?;
        rows.push(report::QuantRow {
            name: recipe.name,
            bits_per_weight: bytes as f64 * 8.0 / weights.max(1) as f64,
            bytes,
            about: recipe.about,
        });
    }
    report::quants(&mut Output::stdout(), &rows, &name, args.json)
}

/// Formats a size like `2.23 GiB (4.86 bits per weight)`.
fn size(bytes: u64, bits: f64) -> String {
    format!("{} ({bits:.2} bits per weight)", human::bytes(bytes))
}
