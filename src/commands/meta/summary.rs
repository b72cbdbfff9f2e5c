//! The summary: the description of the model, the module tree, and whether it fits.

use std::io::Write;
use std::path::Path;

use comfy_table::Cell;

use super::Args;
use super::sizing::{KvBytes, Sizing};
use super::subject::{Identity, Quality, Subject};
use super::tree::{self, Node};
use crate::base::human;
use crate::commands::kind::Kind;
use crate::convert::arch::names;
use crate::output::{self, ACCENT, BAD, BOLD, DIM, GOOD, Output, WARN};
use crate::table::{Columns, cell, plain};

/// Prints the summary.
pub fn print(
    path: &Path,
    kind: Option<Kind>,
    subject: &Subject<'_>,
    identity: &Identity,
    sizing: &Sizing,
    args: &Args,
    out: &mut Output,
) -> anyhow::Result<()> {
    print_identity(path, identity, out)?;
    if let Some(kind) = kind {
        let line = format!("{}, not a model", kind.in_words());
        writeln!(out, "{}", out.paint(WARN, line))?;
    }
    if subject.tensors.is_empty() {
        writeln!(out, "\nno tensors: this file is a vocabulary alone")?;
    } else {
        let root = tree::build(subject);
        print_tree(&root, out)?;
    }
    if args.explain {
        print_legend(subject, out)?;
    }
    if kind.is_some() {
        return Ok(());
    }
    print_sizes(identity, sizing, out)?;
    if subject.tensors.is_empty() {
        return Ok(());
    }
    print_fit(identity, sizing, args.memory.is_some(), out)
}

fn print_identity(path: &Path, identity: &Identity, out: &mut Output) -> anyhow::Result<()> {
    let file = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = identity.name.as_deref().unwrap_or(&file);
    writeln!(out, "{}", out.paint(BOLD, human::escape(name.as_bytes())))?;
    let count = |n: u64| human::count(n);
    let room = output::terminal_width().unwrap_or(usize::MAX);
    let line = |facts: Vec<Option<String>>| joined(facts.into_iter().flatten(), room);
    let first = line(vec![
        identity
            .architecture
            .as_ref()
            .map(|name| human::escape(name.as_bytes())),
        (identity.n_params > 0)
            .then(|| format!("{} parameters", human::quantity(identity.n_params))),
        identity
            .n_active_params
            .map(|n| format!("{} of them for a token", human::quantity(n))),
        Some(human::bytes(identity.size_bytes)),
        identity
            .quantization
            .as_ref()
            .map(|name| match identity.bits_per_weight {
                Some(bits) => format!("{name}, {bits:.2} bits per weight"),
                None => name.clone(),
            }),
    ]);
    let second = line(vec![
        identity
            .context_length
            .map(|n| format!("context {}", count(n))),
        identity
            .vocab_size
            .map(|n| format!("vocabulary {}", count(n))),
        identity.layers.map(|n| match n {
            1 => "1 layer".to_owned(),
            _ => format!("{} layers", count(n)),
        }),
        identity.width.map(|n| format!("width {}", count(n))),
        identity
            .feed_forward
            .map(|n| format!("feed-forward {}", count(n))),
        identity.heads.map(|n| {
            let of = identity
                .head_size
                .map_or(String::new(), |size| format!(" of {}", count(size)));
            match identity.kv_heads {
                Some(kv) if kv != n => {
                    format!("{} heads{of}, {} for keys and values", count(n), count(kv))
                }
                _ => format!("{} heads{of}", count(n)),
            }
        }),
        identity.activation.map(str::to_owned),
        identity
            .sliding_window
            // A window as long as the whole context has no effect.
            .filter(|&window| identity.context_length.is_none_or(|all| window < all))
            .map(|window| format!("window {}", count(window))),
        identity
            .experts
            .map(|(n, used)| format!("{} experts, {} used", count(n), count(used))),
    ]);
    let third = line(vec![
        identity
            .license
            .as_ref()
            .map(|text| format!("licence {}", human::escape(text.as_bytes()))),
        identity
            .source
            .as_ref()
            .map(|text| human::escape(text.as_bytes())),
    ]);
    for text in [first, second] {
        if !text.is_empty() {
            writeln!(out, "{text}")?;
        }
    }
    if !third.is_empty() {
        writeln!(out, "{}", out.paint(DIM, third))?;
    }
    if let Some(quality) = &identity.quality {
        let facts = quality_facts(quality);
        writeln!(out, "{}", joined(facts.into_iter(), room))?;
    }
    Ok(())
}

/// What is known of the difference between the file and its checkpoint.
fn quality_facts(quality: &Quality) -> Vec<String> {
    let mut facts = vec![format!(
        "mean KL {:.4} from its checkpoint",
        quality.kl_mean
    )];
    facts.extend(quality.kl_p99.map(|kl| format!("99 % below {kl:.3}")));
    let percent = |share: f64| format!("same first choice {:.1} %", 100.0 * share);
    facts.extend(quality.same_top.map(percent));
    if let (Some(before), Some(after)) = (quality.perplexity_source, quality.perplexity) {
        facts.push(format!("perplexity {before:.3} → {after:.3}"));
    }
    if let Some(tokens) = quality.tokens {
        let text = quality.text.as_deref().unwrap_or("a text");
        let tokens = human::count(tokens as u64);
        facts.push(format!(
            "{tokens} tokens of {}",
            human::escape(text.as_bytes())
        ));
    }
    facts
}

/// How much of the tree is left out on a narrow terminal. Each step also leaves out what the steps
/// before it do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shown {
    All,
    WithoutGgufNames,
    /// `Q4_K, Q6_K` without the number of layers of each.
    TypesAlone,
    /// `256 → 768` without the names of modules.
    ShapesAlone,
    WithoutShares,
}

impl Shown {
    const STEPS: [Shown; 5] = [
        Shown::All,
        Shown::WithoutGgufNames,
        Shown::TypesAlone,
        Shown::ShapesAlone,
        Shown::WithoutShares,
    ];

    fn titles(self) -> Vec<&'static str> {
        let module = if self >= Self::ShapesAlone {
            "shape"
        } else {
            "module"
        };
        self.keep(["", "GGUF", module, "type", "bytes>", "params>"])
    }

    /// Removes the columns that are left out.
    fn keep<T>(self, row: [T; 6]) -> Vec<T> {
        let kept = row
            .into_iter()
            .enumerate()
            .filter(|(column, _)| match column {
                1 => self < Self::WithoutGgufNames,
                5 => self < Self::WithoutShares,
                _ => true,
            });
        kept.map(|(_, cell)| cell).collect()
    }
}

/// Joins facts to a line, or to several lines of at most `room` columns.
fn joined(facts: impl Iterator<Item = String>, room: usize) -> String {
    let mut text = String::new();
    let mut used = 0;
    for fact in facts {
        let len = fact.chars().count();
        if used > 0 && used + 3 + len > room {
            text.push('\n');
            used = 0;
        } else if used > 0 {
            text.push_str(" · ");
            used += 3;
        }
        text.push_str(&fact);
        used += len;
    }
    text
}

fn print_tree(root: &Node, out: &mut Output) -> anyhow::Result<()> {
    let room = output::terminal_width().unwrap_or(usize::MAX);
    let tables = Shown::STEPS.into_iter().map(|shown| {
        let mut rows = Columns::new(out, &shown.titles());
        rows.add(tree_row("", root, root.params, shown));
        add_children(&mut rows, root, "", root.params, shown);
        rows
    });
    let mut narrowest = None;
    for rows in tables {
        let fits = rows.width() <= room;
        narrowest = Some(rows);
        if fits {
            break;
        }
    }
    if let Some(rows) = narrowest {
        write!(out, "\n{}", rows.lines())?;
    }
    let mut differences = Vec::new();
    root.differences(&mut differences);
    for (difference, modules) in differences {
        let verb = if modules.len() == 1 { "is" } else { "are" };
        let line = format!("{} {verb} {difference}", modules.join(", "));
        writeln!(out, "{}", out.paint(DIM, human::escape(line.as_bytes())))?;
    }
    Ok(())
}

fn add_children(rows: &mut Columns, node: &Node, indent: &str, all: u64, shown: Shown) {
    for (index, child) in node.children.iter().enumerate() {
        let last = index + 1 == node.children.len();
        let branch = format!("{indent}{}", if last { "└─ " } else { "├─ " });
        rows.add(tree_row(&branch, child, all, shown));
        let below = format!("{indent}{}", if last { "   " } else { "│  " });
        add_children(rows, child, &below, all, shown);
    }
}

fn tree_row(branch: &str, node: &Node, all: u64, shown: Shown) -> Vec<Cell> {
    let group = !node.children.is_empty();
    let plainly = anstyle::Style::new();
    let (strong, faint) = if group { (BOLD, BOLD) } else { (plainly, DIM) };
    let name = human::escape(node.name.as_bytes());
    let share = node.params as f64 * 100.0 / all.max(1) as f64;
    let differ = if node.types.len() > 1 { WARN } else { plainly };
    shown.keep([
        cell(format!("{branch}{name}"), strong),
        cell(human::escape(node.gguf.as_bytes()), ACCENT),
        match &node.class {
            Some(_) if shown >= Shown::ShapesAlone => plain(""),
            Some(class) => cell(class, DIM),
            None if shown >= Shown::ShapesAlone => plain(node.bare_shape()),
            None => plain(&node.shape),
        },
        cell(node.types_in_words(shown < Shown::TypesAlone), differ),
        cell(human::bytes(node.bytes), strong),
        cell(format!("{share:.1} %"), faint),
    ])
}

fn print_legend(subject: &Subject<'_>, out: &mut Output) -> anyhow::Result<()> {
    let mut rows = Columns::new(out, &["", ""]);
    for (table, inside) in [(names::OUTSIDE, false), (names::INSIDE, true)] {
        for entry in table {
            let present = subject.tensors.iter().any(|tensor| {
                let layer = names::layer(&tensor.name);
                let rest = layer.map_or(tensor.name.as_str(), |(_, rest)| rest);
                layer.is_some() == inside && names::bare(rest) == entry.gguf
            });
            if let Some((_, name)) =
                names::find(subject.architecture(), inside, entry.gguf).filter(|_| present)
            {
                rows.add([cell(name.gguf, ACCENT), plain(name.about)]);
            }
        }
    }
    Ok(write!(out, "\n{}", rows.lines())?)
}

fn print_sizes(identity: &Identity, sizing: &Sizing, out: &mut Output) -> anyhow::Result<()> {
    if !sizing.quantizations.is_empty() {
        let mut rows = untitled(sizing.quantizations.len(), out);
        let own = |name: &str| identity.quantization.as_deref() == Some(name);
        let style = |name: &str| {
            if own(name) {
                GOOD
            } else {
                anstyle::Style::new()
            }
        };
        let first = sizing
            .quantizations
            .iter()
            .map(|q| cell(q.name, if own(q.name) { GOOD } else { DIM }));
        rows.add(std::iter::once(cell("quantized as", BOLD)).chain(first));
        let second = sizing
            .quantizations
            .iter()
            .map(|q| cell(size(q.bytes), style(q.name)));
        rows.add(std::iter::once(plain("bytes")).chain(second));
        write!(out, "\n{}", rows.lines())?;
    }
    let Some(cache) = &sizing.kv_cache else {
        return Ok(());
    };
    let mut rows = untitled(1 + cache.contexts.len(), out);
    let mut first = vec![cell("KV cache", BOLD), cell("per token", DIM)];
    for context in &cache.contexts {
        let full = identity.context_length == Some(context.tokens);
        let full = if full { " (full)" } else { "" };
        first.push(cell(format!("{}{full}", human::count(context.tokens)), DIM));
    }
    rows.add(first);
    let mut add = |name: &str, of: fn(&KvBytes) -> Option<u64>| {
        let contexts = cache.contexts.iter().map(|context| &context.bytes);
        let sizes = std::iter::once(&cache.per_token).chain(contexts);
        let cells = sizes.map(|bytes| plain(size(of(bytes))));
        rows.add(std::iter::once(plain(name)).chain(cells));
    };
    add("f16", |bytes| bytes.f16);
    add("q8_0", |bytes| bytes.q8_0);
    write!(out, "\n{}", rows.lines())?;
    if cache.upper_bound {
        let note = "at most: some layers keep a state instead of the tokens";
        writeln!(out, "{}", out.paint(DIM, note))?;
    }
    Ok(())
}

/// Makes a table of a name and this many numbers, without titles.
fn untitled(numbers: usize, out: &Output) -> Columns {
    let mut columns = vec![">"; numbers + 1];
    columns[0] = "";
    Columns::new(out, &columns)
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or("–".to_owned(), human::bytes)
}

/// Prints whether the model fits. `elsewhere` means that the memory is another machine's.
fn print_fit(
    identity: &Identity,
    sizing: &Sizing,
    elsewhere: bool,
    out: &mut Output,
) -> anyhow::Result<()> {
    let Some(memory) = sizing.memory else {
        return Ok(());
    };
    let machine = match elsewhere {
        true => format!("a machine with {}", human::bytes(memory.total)),
        false => {
            let total = human::bytes(memory.total);
            let limited = if memory.limit.is_some() {
                ", a control group's limit"
            } else {
                ""
            };
            format!(
                "{} free of {total}{limited}",
                human::bytes(memory.available)
            )
        }
    };
    let needs = sizing.weight_bytes.saturating_add(sizing.working_bytes);
    let weights = human::bytes(sizing.weight_bytes);
    let working = human::bytes(sizing.working_bytes);
    writeln!(
        out,
        "\n{}  {machine}; {weights} of weights and about {working} to work in",
        out.paint(BOLD, "Memory")
    )?;
    let verdict = match &sizing.largest_context {
        _ if needs > memory.available => out.paint(BAD, "does not fit"),
        Some(largest) => {
            let tokens = |n: Option<u64>| n.map_or("–".to_owned(), human::count);
            let of = match identity.context_length {
                Some(n) => format!(" of {}", human::count(n)),
                None => String::new(),
            };
            let (f16, q8_0) = (tokens(largest.f16), tokens(largest.q8_0));
            let fits = out.paint(GOOD, "fits");
            format!(
                "{fits}; largest context {f16}{of} tokens with an f16 KV cache, {q8_0} with q8_0"
            )
        }
        None => out.paint(GOOD, "fits"),
    };
    Ok(writeln!(out, "        {verdict}")?)
}
