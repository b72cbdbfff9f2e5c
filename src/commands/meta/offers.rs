//! The GGUF files of a repository on the Hub: the size of each, whether it fits this machine, how
//! fast it can be, and which one is recommended.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::remote::Remote;
use super::sizing::{self, KvCache, Sizing};
use super::subject::{Identity, Subject, active_share};
use crate::base::memory::Memory;
use crate::base::{bandwidth, human};
use crate::commands::find::open;
use crate::hub::HubId;
use crate::hub::ggufs::{self, Choice};
use crate::hub::locate::{DEFAULT_QUANT, get_command};
use crate::hub::preview::Offer;
use crate::output::{BAD, BOLD, DIM, GOOD, Output};
use crate::runtime::host;
use crate::runtime::working::Working;
use crate::table::{Columns, cell, plain};

/// Context in tokens for which a recommended file must leave room, if the model's own is not
/// smaller.
const ENOUGH_CONTEXT: u64 = 4096;
/// Bits per weight above which more bits gain little: the default recipe has 4.8 to 5.
const ENOUGH_BITS: f64 = 5.05;

/// What the quantizations of one model have in common, from the header of one of them.
struct Base {
    identity: Identity,
    kv_cache: Option<KvCache>,
    working: Working,
    /// Bytes of a file in addition to its weights.
    overhead: u64,
    /// The share of the weights that are read for each token.
    active: f64,
}

/// One file, or all parts of a split one.
#[derive(Debug, Serialize)]
struct Row<'a> {
    label: &'a str,
    files: &'a [String],
    bytes: u64,
    bits_per_weight: Option<f64>,
    /// Whether it fits into the memory with any context.
    fits: Option<bool>,
    /// The largest context that fits with an f16 KV cache, in tokens.
    largest_context: Option<u64>,
    /// Upper bound of the tokens per second on the CPU.
    most_tokens_per_second: Option<f64>,
    #[serde(skip)]
    full_context: Option<u64>,
}

/// The files of a repository.
pub struct Table<'a> {
    id: &'a HubId,
    rows: Vec<Row<'a>>,
    recommended: usize,
    identity: Option<Identity>,
    memory: Option<Memory>,
    /// Memory bandwidth in bytes per second.
    bandwidth: Option<f64>,
}

impl<'a> Table<'a> {
    /// Computes the sizes of all offers for `memory`. If `elsewhere`, it is another machine's, of
    /// which the speed is not known.
    ///
    /// # Errors
    /// A header that is damaged.
    pub fn new(
        id: &'a HubId,
        offers: &'a [Offer],
        memory: Option<Memory>,
        elsewhere: bool,
    ) -> anyhow::Result<Self> {
        let mut bases: BTreeMap<&PathBuf, Base> = BTreeMap::new();
        for path in offers.iter().filter_map(|offer| offer.header.as_ref()) {
            if !bases.contains_key(path) {
                let gguf = open(path)?;
                let subject = Subject::of_gguf(&gguf);
                let base = Base {
                    identity: Identity::of(&subject),
                    kv_cache: Sizing::of(&subject, None).kv_cache,
                    working: Working::of(&subject),
                    overhead: subject.size_bytes.saturating_sub(subject.tensor_bytes()),
                    active: active_share(&subject),
                };
                bases.insert(path, base);
            }
        }
        let bandwidth = memory
            .filter(|_| !elsewhere)
            .and_then(|memory| bandwidth::measure(host::threads() as usize, memory.available));
        let row = |offer: &'a Offer| {
            let base = offer.header.as_ref().and_then(|path| bases.get(path));
            Row::new(offer, base, memory, bandwidth)
        };
        let rows: Vec<Row<'_>> = offers.iter().map(row).collect();
        let recommended = recommended(offers, &rows);
        let only = bases.len() == 1;
        Ok(Self {
            id,
            recommended,
            rows,
            identity: bases
                .into_values()
                .next()
                .map(|b| b.identity)
                .filter(|_| only),
            memory,
            bandwidth,
        })
    }

    /// Size of the recommended file in bytes.
    pub fn bytes_to_get(&self) -> u64 {
        self.rows.get(self.recommended).map_or(0, |row| row.bytes)
    }

    /// Returns the command that fetches it.
    pub fn command(&self) -> String {
        let label = self.rows.get(self.recommended).map(|row| row.label);
        let id = label.and_then(|label| self.id.with_quant(label).ok());
        get_command(id.as_ref().unwrap_or(self.id))
    }

    /// Prints the table or the object that docs/json.md describes.
    pub fn print(&self, remote: &Remote, as_json: bool, out: &mut Output) -> anyhow::Result<()> {
        if as_json {
            let object = Json {
                remote,
                summary: self.identity.as_ref(),
                memory: self.memory,
                memory_bytes_per_second: self.bandwidth,
                models: &self.rows,
                recommended: self.rows.get(self.recommended).map(|row| row.label),
            };
            return Ok(out.json(&object)?);
        }
        writeln!(out, "{}", out.paint(BOLD, &remote.repo))?;
        if let Some(identity) = &self.identity {
            let name = identity.architecture.as_deref().unwrap_or("unknown");
            let context = identity
                .context_length
                .map_or(String::new(), |n| format!(" · context {}", human::count(n)));
            writeln!(
                out,
                "{} · {} parameters{context}",
                human::escape(name.as_bytes()),
                human::quantity(identity.n_params)
            )?;
        }
        let titles = [
            "label",
            "size>",
            "bits/weight>",
            "context that fits>",
            "tokens/s>",
        ];
        let mut text = Columns::new(out, &titles);
        for (index, row) in self.rows.iter().enumerate() {
            let style = match index == self.recommended {
                true => GOOD,
                false => anstyle::Style::new(),
            };
            let number = |number: Option<f64>, digits: usize| {
                number.map_or("–".to_owned(), |n| format!("{n:.digits$}"))
            };
            let rate = row.most_tokens_per_second;
            text.add([
                cell(human::escape(row.label.as_bytes()), style),
                cell(human::bytes(row.bytes), style),
                plain(number(row.bits_per_weight, 2)),
                match row.fits {
                    Some(false) => cell("does not fit", BAD),
                    _ => plain(row.context()),
                },
                plain(match rate {
                    Some(rate) if rate >= 1000.0 => human::count(rate as u64),
                    _ => number(rate, if rate.is_some_and(|r| r < 10.0) { 1 } else { 0 }),
                }),
            ]);
        }
        write!(out, "\n{}", text.lines())?;
        if let Some(memory) = self.memory {
            let free = human::bytes(memory.available);
            writeln!(
                out,
                "\n{free} of memory is free; contexts are for an f16 KV cache"
            )?;
        }
        if let Some(rate) = self.bandwidth {
            let text = format!(
                "tokens/s is an upper limit: the weights that a token needs, read once at the {:.1} GB/s measured just now on {} threads",
                rate / 1e9,
                host::threads()
            );
            writeln!(out, "{}", out.paint(DIM, text))?;
        }
        if let Some(row) = self.rows.get(self.recommended) {
            writeln!(
                out,
                "\n{} ({}): {}",
                row.label,
                self.why(row),
                out.paint(BOLD, self.command())
            )?;
        }
        Ok(())
    }

    fn why(&self, row: &Row<'_>) -> &'static str {
        match row.fits {
            Some(false) => "the smallest, and it does not fit",
            _ if row.label.eq_ignore_ascii_case(DEFAULT_QUANT) => "the usual choice",
            _ => "the best that fits of about five bits per weight or less",
        }
    }
}

impl<'a> Row<'a> {
    fn new(
        offer: &'a Offer,
        base: Option<&Base>,
        memory: Option<Memory>,
        bandwidth: Option<f64>,
    ) -> Self {
        let overhead = base.map_or(0, |base| base.overhead);
        let weights = offer.bytes.saturating_sub(overhead);
        let params = base.map(|base| base.identity.n_params).filter(|&n| n > 0);
        let full_context = base.and_then(|base| base.identity.context_length);
        let cache = base.and_then(|base| base.kv_cache.as_ref());
        let working = base.map_or(Working::default(), |base| base.working);
        let room = memory.map(|memory| sizing::room(weights, working, memory));
        let largest = cache
            .zip(room)
            .and_then(|(cache, room)| sizing::largest_context(cache, room, full_context).f16);
        Self {
            label: &offer.label,
            files: &offer.model.files,
            bytes: offer.bytes,
            bits_per_weight: params.map(|n| weights as f64 * 8.0 / n as f64),
            fits: room.map(|room| room > 0 && largest != Some(0)),
            largest_context: largest,
            most_tokens_per_second: bandwidth
                .zip(base)
                .map(|(rate, base)| rate / (weights as f64 * base.active).max(1.0)),
            full_context,
        }
    }

    fn context(&self) -> String {
        match self.largest_context {
            None => "–".to_owned(),
            Some(tokens) if Some(tokens) == self.full_context => {
                format!("{} (all)", human::count(tokens))
            }
            Some(tokens) => human::count(tokens),
        }
    }

    /// Returns whether it fits with a useful context.
    fn is_usable(&self) -> bool {
        let enough = self.full_context.unwrap_or(u64::MAX).min(ENOUGH_CONTEXT);
        self.fits != Some(false) && self.largest_context.is_none_or(|tokens| tokens >= enough)
    }
}

/// Returns the recommended row: the default type if it fits; else the largest file that fits and
/// has about as many bits; else the smallest.
fn recommended(offers: &[Offer], rows: &[Row<'_>]) -> usize {
    let models: Vec<_> = offers.iter().map(|offer| &offer.model).collect();
    let models: Vec<ggufs::GgufModel> = models.into_iter().cloned().collect();
    if let Choice::One(model) = ggufs::choose(&models, Some(DEFAULT_QUANT))
        && let Some(at) = models.iter().position(|other| other == model)
        && rows[at].is_usable()
    {
        return at;
    }
    let of_few_bits = |row: &Row<'_>| row.bits_per_weight.is_none_or(|bits| bits <= ENOUGH_BITS);
    // Rows are sorted by size.
    let best = rows
        .iter()
        .rposition(|row| row.is_usable() && of_few_bits(row));
    best.or(rows.iter().position(Row::is_usable)).unwrap_or(0)
}

#[derive(Serialize)]
struct Json<'a> {
    remote: &'a Remote,
    summary: Option<&'a Identity>,
    memory: Option<Memory>,
    memory_bytes_per_second: Option<f64>,
    models: &'a [Row<'a>],
    recommended: Option<&'a str>,
}
