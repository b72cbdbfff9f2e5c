//! `modelve ablate`: what the model says without some of its parts.

use std::io::Write;

use clap::ValueEnum;

use super::engine::{EngineArgs, cancel_on_ctrl_c};
use super::experiments::{MeasureArgs, measured, painted, partial, session, signed, told};
use super::probing::{
    bar, clip, columns, interrupted, load, nothing_yet, pad, percent, quoted, tail, telling_of,
};
use super::prompt::PromptArgs;
use super::results::Form;
use super::why::COMMON;
use crate::base::human;
use crate::experiment::ablate::{self, Ablation, Options, Ranking};
use crate::experiment::removal::{Kind, With};
use crate::experiment::{Spot, html};
use crate::hint::{UsageError, hinted};
use crate::output::{self, ACCENT, BOLD, DIM, Output};
use crate::probe::Choice;
use crate::probe::next::Next;
use crate::progress;
use crate::table::{Columns, plain};

/// Flags of `modelve ablate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve ablate 'The ball hit the bat, and' --part 2.1             without head 1 of layer 2
  modelve ablate 'The ball hit the bat, and' --part mlp.0 --part attn.1@-1
  modelve ablate 'The ball hit the bat, and' --part layer.2 -n 16   and how it continues
  modelve ablate 'The ball hit the bat, and' --all heads            which heads matter

A part is LAYER.HEAD, attn.LAYER, mlp.LAYER, layer.LAYER or embed. With @P after it, it is removed
at position P only; positions count from 0, negative ones from the end.")]
pub struct Args {
    #[command(flatten)]
    pub(crate) prompts: PromptArgs,

    /// A part to remove, such as 5.3, attn.5, mlp.5, layer.5, embed, or mlp.5@-1; repeatable, or
    /// several with commas
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = spot)]
    pub part: Vec<Spot>,

    /// Remove all parts of a kind one by one, and rank them
    #[arg(long, value_name = "KIND", conflicts_with_all = ["part", "max_tokens"])]
    pub all: Option<KindArg>,

    /// What replaces the output of the parts: zeros, or its mean over the prompt
    #[arg(long, value_name = "WHAT", default_value = "zero")]
    pub with: WithArg,

    #[command(flatten)]
    pub(crate) measure: MeasureArgs,

    /// Number of tokens to generate without the parts, greedily
    #[arg(short = 'n', long, value_name = "N", default_value_t = 0)]
    pub max_tokens: u32,

    /// Number of tokens to show, or of parts with --all
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,

    #[command(flatten)]
    pub(crate) form: Form,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// The values of `--all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindArg {
    /// Every head
    Heads,
    /// The attention of every layer
    Attn,
    /// The MLP of every layer
    Mlp,
    /// Every layer
    Layers,
}

/// The values of `--with`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum WithArg {
    /// Zeros
    #[default]
    Zero,
    /// The mean over the prompt
    Mean,
}

fn spot(text: &str) -> Result<Spot, String> {
    text.trim()
        .parse()
        .map_err(|error: crate::experiment::Error| error.to_string())
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let text = args.prompts.one("ablate", args.engine.model.is_given())?;
    if args.part.is_empty() && args.all.is_none() {
        let again = super::command_line::CommandLine::typed().with(&["--all", "heads"]);
        return Err(hinted(
            UsageError("no part to remove: --part 2.1, or --all heads".to_owned()),
            format!("to see which heads matter: {again}"),
        ));
    }
    let to = args.form.judge(args.engine.reading(&args.prompts.input))?;
    let cancel = cancel_on_ctrl_c()?;
    let model = load(&args.engine, text.text.len() * 4, &cancel)?;
    let to = to.of(&model);
    let prompt = args
        .prompts
        .read(&model, &text)
        .map_err(super::probing::told)?;
    let room = prompt.ids.len() + COMMON + args.max_tokens as usize;
    let mut session = session(&args.engine, &model, room, &cancel)?;
    let options = Options {
        asked: args.measure.asked(),
        spots: args.part.clone(),
        with: match args.with {
            WithArg::Zero => With::Zero,
            WithArg::Mean => With::Mean,
        },
        top: args.top,
        max_tokens: args.max_tokens as usize,
    };
    let progress = progress::stderr(false);
    let mut on_progress = telling_of(&*progress, "trying", "passes");
    match args.all {
        None => {
            let found = ablate::ablate(&mut session, &prompt, &options, &mut on_progress);
            progress.finish();
            let found = found.map_err(told)?;
            to.show_one(html::ABLATE, &found, |out| print(out, &found))?;
            interrupted(found.complete)
        }
        Some(kind) => {
            let kind = match kind {
                KindArg::Heads => Kind::Heads,
                KindArg::Attn => Kind::Attention,
                KindArg::Mlp => Kind::Mlps,
                KindArg::Layers => Kind::Layers,
            };
            let found = ablate::rank(&mut session, &prompt, kind, &options, &mut on_progress);
            progress.finish();
            let found = found.map_err(told)?;
            if found.parts.is_empty() {
                return Err(nothing_yet());
            }
            to.show_one(html::ABLATE, &found, |out| {
                print_ranking(out, &found, args.top)
            })?;
            interrupted(found.complete)
        }
    }
}

/// Prints the distributions before and after side by side, with the same token in the same row.
fn print(out: &mut Output, found: &Ablation) -> std::io::Result<()> {
    let width = output::width();
    let title = format!("{} _", tail(&found.prompt, width - 2));
    writeln!(out, "{}", out.paint(BOLD, title))?;
    let parts: Vec<String> = found.parts.iter().map(Spot::to_string).collect();
    let with = match found.with {
        With::Zero => "removed",
        With::Mean => "at their mean",
    };
    writeln!(out, "{} {with}\n", parts.join(" + "))?;
    let mut choices: Vec<&Choice> = found.before.top.iter().collect();
    for choice in &found.after.top {
        if !choices.iter().any(|other| other.id == choice.id) {
            choices.push(choice);
        }
    }
    let names: Vec<String> = choices
        .iter()
        .map(|c| clip(&quoted(&c.piece), 20))
        .collect();
    let name = names.iter().map(|name| columns(name)).max().unwrap_or(0);
    let room = (width.saturating_sub(name + 28) / 2).clamp(6, 28);
    let prob = |next: &Next, id| {
        use crate::probe::math::Distribution;
        Distribution::new(&next.logits).prob(id)
    };
    let titles = format!("{:name$}  {}  after", "", pad("before", room + 9));
    writeln!(out, "{}", out.paint(DIM, titles))?;
    for (choice, text) in choices.iter().zip(names) {
        let mut line = pad(&text, name);
        for next in [&found.before, &found.after] {
            let p = prob(next, choice.id);
            line += &format!("  {:>7} ", percent(p));
            line += &out.paint(ACCENT, pad(&bar(p, room), room));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    let entropies = format!(
        "entropy {:.2} → {:.2} bits; KL(before ‖ after) {:.4} nats",
        found.before.entropy_bits, found.after.entropy_bits, found.kl
    );
    writeln!(out, "{}", out.paint(DIM, entropies))?;
    writeln!(
        out,
        "{}: {} → {}, {}",
        measured(&found.measure),
        signed(found.value),
        signed(found.without),
        painted(out, found.change, &signed(found.change))
    )?;
    for (title, written) in [("before", &found.text_before), ("after", &found.text)] {
        if let Some(written) = written {
            let text = human::escape(&written.0);
            writeln!(
                out,
                "\n{} {}",
                out.paint(DIM, format!("{title}:")),
                text.trim_end()
            )?;
        }
    }
    partial(out, found.complete)
}

fn print_ranking(out: &mut Output, found: &Ranking, top: usize) -> std::io::Result<()> {
    let title = format!("{} _", tail(&found.prompt, output::width() - 2));
    writeln!(out, "{}", out.paint(BOLD, title))?;
    writeln!(
        out,
        "{}: {}\n",
        measured(&found.measure),
        signed(found.value)
    )?;
    let mut rows = Columns::new(
        out,
        &["part", "change>", "without it>", "KL, nats>", "then says"],
    );
    for effect in found.parts.iter().take(top) {
        let says = format!(
            "{} {}",
            quoted(&effect.says.piece),
            percent(effect.says.prob).trim()
        );
        rows.add([
            plain(effect.part),
            plain(signed(effect.change)),
            plain(signed(effect.without)),
            plain(format!("{:.4}", effect.kl)),
            plain(says),
        ]);
    }
    out.write_all(rows.lines().as_bytes())?;
    let more = found.parts.len().saturating_sub(top);
    if more > 0 {
        let note = format!("and {more} with smaller changes; --top shows more");
        writeln!(out, "{}", out.paint(DIM, note))?;
    }
    partial(out, found.complete)
}
