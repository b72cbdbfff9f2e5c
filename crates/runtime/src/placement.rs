//! Which machine computes which layers: by memory, and by the time that a token then takes.
//!
//! One stream of text passes through the machines one after another, so the time of a token is the
//! sum of what each takes to read its weights, and of the ways between them. A machine is worth using
//! if it holds what has no other place, or reads faster than the way to it costs.

use std::fmt;

use modelve_base::human;
use modelve_gguf::Gguf;

use super::check::Facts;
use super::kv::KvShape;
use super::settings::KvType;
use super::working::Working;

/// Bytes that a device with its own memory reads in a second, where nobody measured it: what GPUs of
/// laptops reach.
pub const GPU_BYTES_PER_SECOND: f64 = 200e9;
/// Bytes that a processor reads in a second, where nobody measured it.
pub const CPU_BYTES_PER_SECOND: f64 = 20e9;
/// Bytes besides the state that a token takes to a worker and back, without those that grow with the
/// text: positions, places in the cache, what ggml says of the graph. Measured.
const PASS_BYTES: f64 = 4096.0;

/// What a model's layers need.
#[derive(Debug, Clone, PartialEq)]
pub struct Needs {
    /// Bytes of weights of each layer.
    pub weights: Vec<u64>,
    /// Bytes of weights of each layer that a token reads: of experts, only those in use.
    pub read: Vec<u64>,
    /// Bytes of KV cache of each layer, for the whole context.
    pub cache: Vec<u64>,
    /// Bytes of weights outside the layers, which stay on the local machine.
    pub outside: u64,
    /// Bytes of these that a token reads: the output matrix.
    pub outside_read: u64,
    /// Bytes of working memory of each machine.
    pub working: u64,
    /// Bytes of a state between layers.
    pub state: u64,
    /// Number of tokens of the context.
    pub n_ctx: u64,
}

/// A machine or device that can hold layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Its name, for the plan.
    pub name: String,
    /// Bytes of memory that may be used.
    pub memory: u64,
    /// Bytes of weights that it reads in a second.
    pub bytes_per_second: f64,
    /// The way to it; `None` for the local machine.
    pub way: Option<Way>,
}

/// The network between the local machine and another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    /// Seconds from a question to its answer.
    pub round_trip: f64,
    /// Bytes per second.
    pub bytes_per_second: f64,
}

/// What a machine does in a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The machine's name.
    pub name: String,
    /// Number of layers; they follow those of the part before.
    pub layers: u32,
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of KV cache.
    pub cache: u64,
    /// Bytes of working memory.
    pub working: u64,
    /// Bytes of memory that may be used.
    pub memory: u64,
    /// Seconds of a token for reading the weights.
    pub reading: f64,
    /// Seconds of a token for the way there and back.
    pub travelling: f64,
}

impl Part {
    /// Bytes that the layers need on the machine.
    fn need(&self) -> u64 {
        let sum = self.weights.saturating_add(self.cache);
        sum.saturating_add(self.working)
    }

    /// Returns whether the machine can hold the layers; without any it can.
    fn fits(&self) -> bool {
        self.layers == 0 || self.need() <= self.memory
    }
}

/// A plan: the local machine first, then the others in the order in which they were named. Those
/// without layers are not used.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The machines.
    pub parts: Vec<Part>,
    /// Number of tokens of the context that it has room for.
    pub n_ctx: u64,
}

impl Plan {
    /// Seconds that a token of one text takes.
    pub fn seconds(&self) -> f64 {
        self.parts.iter().map(|p| p.reading + p.travelling).sum()
    }
}

/// There is no plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Impossible {
    /// The layers do not fit.
    Memory {
        /// Bytes of weights and cache of all layers.
        need: u64,
        /// The machines with the bytes that they have for layers.
        have: Vec<(String, u64)>,
        /// Number of tokens of the context.
        n_ctx: u64,
        /// Bytes of the largest layer with its cache.
        layer: u64,
        /// The number of layers, and of those that have a place.
        layers: (usize, usize),
    },
    /// The numbers of layers that were asked for are not those of the model.
    Count {
        /// Their sum.
        sum: u64,
        /// The model's number of layers.
        layers: usize,
    },
    /// There are more numbers of layers than machines.
    Machines {
        /// The number of numbers.
        given: usize,
        /// The number of machines.
        machines: usize,
    },
    /// A machine cannot hold the layers that were asked for.
    Machine {
        /// Its name.
        name: String,
        /// The number of layers.
        layers: u32,
        /// Bytes that they need there.
        need: u64,
        /// Bytes that may be used.
        have: u64,
    },
}

impl std::error::Error for Impossible {}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Impossible::Memory {
                need,
                have,
                n_ctx,
                layer,
                layers: (all, placed),
            } => {
                let sum: u64 = have.iter().map(|(_, bytes)| bytes).sum();
                let have: Vec<String> = have
                    .iter()
                    .map(|(name, bytes)| format!("{name} {}", human::bytes(*bytes)))
                    .collect();
                write!(
                    f,
                    "the {all} layers need {} with a cache of {n_ctx} tokens, and there is room for {placed}: {} = {}, in pieces of up to {}",
                    human::bytes(*need),
                    have.join(" + "),
                    human::bytes(sum),
                    human::bytes(*layer),
                )
            }
            Impossible::Count { sum, layers } => {
                write!(f, "the model has {layers} layers, not {sum}")
            }
            Impossible::Machines { given, machines } => write!(
                f,
                "{given} numbers of layers for {machines} machines, of which this one is the first"
            ),
            Impossible::Machine {
                name,
                layers,
                need,
                have,
            } => write!(
                f,
                "{layers} layers need {} on {name}, which has {}",
                human::bytes(*need),
                human::bytes(*have)
            ),
        }
    }
}

impl Needs {
    /// What the layers of a file need with a context of `n_ctx` tokens.
    pub fn of(gguf: &Gguf, facts: &Facts, kv_type: KvType, n_ctx: u64) -> Needs {
        let layers = facts.n_layer as usize;
        let number = |key: &str| {
            let value = gguf.arch(key)?;
            let many = value.as_array();
            let largest = many.and_then(|all| all.iter().filter_map(|v| v.as_u64()).max());
            value.as_u64().or(largest)
        };
        let experts = number("expert_count").unwrap_or(0);
        let used = number("expert_used_count").unwrap_or(experts);
        let (mut weights, mut read) = (vec![0; layers], vec![0; layers]);
        let mut outside = 0;
        for tensor in gguf.tensors() {
            let bytes = tensor.bytes.unwrap_or(0);
            let layer = tensor.name.strip_prefix("blk.").and_then(|rest| {
                let number = rest.split('.').next()?.parse::<usize>().ok()?;
                (number < layers).then_some(number)
            });
            let Some(layer) = layer else {
                outside += bytes;
                continue;
            };
            weights[layer] += bytes;
            read[layer] += match tensor.name.contains("_exps") && experts > 0 {
                true => {
                    (u128::from(bytes) * u128::from(used.min(experts)) / u128::from(experts)) as u64
                }
                false => bytes,
            };
        }
        let output = ["output.weight", "token_embd.weight"];
        let output = output.iter().find_map(|name| gguf.tensor(name)?.bytes);
        Needs {
            cache: cache_of(&facts.kv, kv_type, layers, n_ctx),
            weights,
            read,
            outside,
            outside_read: output.unwrap_or(0),
            working: facts
                .working
                .fixed
                .saturating_add(Working::PER_TOKEN.saturating_mul(n_ctx)),
            state: u64::from(facts.n_embd) * 4,
            n_ctx,
        }
    }

    fn layers(&self) -> usize {
        self.weights.len()
    }

    fn total(&self) -> u64 {
        let all = self.weights.iter().chain(&self.cache);
        all.fold(0u64, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// The bytes that a machine has for layers.
    fn room(&self, machine: &Machine) -> u64 {
        let outside = match machine.way {
            None => self.outside,
            Some(_) => 0,
        };
        machine
            .memory
            .saturating_sub(outside.saturating_add(self.working))
    }

    /// The seconds of a token on the way to a worker and back: the state both ways, and a row of the
    /// attention mask there.
    fn travelling(&self, way: &Way) -> f64 {
        let bytes = 2.0 * self.state as f64 + 2.0 * self.n_ctx as f64 + PASS_BYTES;
        way.round_trip + bytes / way.bytes_per_second.max(1.0)
    }

    fn part(&self, machine: &Machine, first: usize, layers: usize) -> Part {
        let of = |all: &[u64]| {
            let own = all[first..first + layers].iter();
            own.fold(0u64, |sum, bytes| sum.saturating_add(*bytes))
        };
        let (outside, outside_read) = match machine.way {
            None => (self.outside, self.outside_read),
            Some(_) => (0, 0),
        };
        let is_used = layers > 0 || machine.way.is_none();
        Part {
            name: machine.name.clone(),
            layers: layers as u32,
            weights: of(&self.weights) + outside,
            cache: of(&self.cache),
            working: if is_used { self.working } else { 0 },
            memory: machine.memory,
            reading: (of(&self.read) + outside_read) as f64 / machine.bytes_per_second.max(1.0),
            travelling: match (&machine.way, layers) {
                (Some(way), 1..) => self.travelling(way),
                _ => 0.0,
            },
        }
    }

    /// The plan with these numbers of layers.
    fn plan(&self, machines: &[Machine], counts: &[usize]) -> Plan {
        let mut first = 0;
        let parts = machines.iter().zip(counts).map(|(machine, &layers)| {
            let part = self.part(machine, first, layers);
            first += layers;
            part
        });
        Plan {
            parts: parts.collect(),
            n_ctx: self.n_ctx,
        }
    }
}

fn cache_of(kv: &KvShape, kv_type: KvType, layers: usize, n_ctx: u64) -> Vec<u64> {
    let bytes = kv.layer_bytes(kv_type.gguf());
    let bytes = bytes.or_else(|| kv.layer_bytes(KvType::F32.gguf()));
    let mut bytes = bytes.unwrap_or_default();
    bytes.resize(layers, 0);
    bytes
        .iter()
        .map(|token| token.saturating_mul(n_ctx))
        .collect()
}

/// Maximum number of machines besides the local one, which is that of ggml.
pub const MOST_WORKERS: usize = 16;

/// The fastest plan for these machines, of which the first is the local one.
///
/// # Errors
/// The layers do not fit.
pub fn fastest(needs: &Needs, machines: &[Machine]) -> Result<Plan, Impossible> {
    let machines = &machines[..machines.len().min(MOST_WORKERS + 1)];
    match fastest_counts(needs, machines) {
        Some(counts) => Ok(needs.plan(machines, &counts)),
        None => Err(does_not_fit(needs, machines)),
    }
}

/// The numbers of layers of the fastest plan; `None` if there is none.
///
/// Machines get layers in their order, so the best way to give the first `j` layers to the first
/// machines follows from the best ways to give fewer layers to one machine less.
fn fastest_counts(needs: &Needs, machines: &[Machine]) -> Option<Vec<usize>> {
    let layers = needs.layers();
    // Seconds of the best way to place the first layers, by their number; and for each machine, how
    // many it takes then.
    let mut best: Vec<Option<f64>> = vec![None; layers + 1];
    best[0] = Some(0.0);
    let mut taken: Vec<Vec<usize>> = Vec::new();
    for machine in machines {
        let mut next = vec![None; layers + 1];
        let mut takes = vec![0; layers + 1];
        for end in 0..=layers {
            for take in 0..=end {
                let first = end - take;
                let part = needs.part(machine, first, take);
                if !part.fits() {
                    break;
                }
                let Some(before) = best[first] else {
                    continue;
                };
                let seconds = before + part.reading + part.travelling;
                // Of equally fast ways, the one that leaves more to the machines before.
                if next[end].is_none_or(|known| seconds < known * (1.0 - 1e-9)) {
                    next[end] = Some(seconds);
                    takes[end] = take;
                }
            }
        }
        best = next;
        taken.push(takes);
    }
    best[layers]?;
    let mut left = layers;
    let counts = taken.iter().rev().map(|takes| {
        let take = takes[left];
        left -= take;
        take
    });
    let mut counts: Vec<usize> = counts.collect();
    counts.reverse();
    Some(counts)
}

fn does_not_fit(needs: &Needs, machines: &[Machine]) -> Impossible {
    let layer = (0..needs.layers()).map(|i| needs.weights[i] + needs.cache[i]);
    let layer = layer.max().unwrap_or(0);
    let rooms = machines.iter().map(|machine| needs.room(machine));
    // As many as there would be room for, one after the other.
    let mut placed = 0;
    for machine in machines {
        let most = (0..=needs.layers() - placed).rev();
        let fits = |&layers: &usize| needs.part(machine, placed, layers).fits();
        placed += most.into_iter().find(fits).unwrap_or(0);
    }
    Impossible::Memory {
        need: needs.total(),
        have: machines.iter().map(|m| m.name.clone()).zip(rooms).collect(),
        n_ctx: needs.n_ctx,
        layer,
        layers: (needs.layers(), placed),
    }
}

/// The first machine that cannot hold its layers.
fn misfit(plan: &Plan) -> Option<Impossible> {
    let part = plan.parts.iter().find(|part| !part.fits())?;
    Some(Impossible::Machine {
        name: part.name.clone(),
        layers: part.layers,
        need: part.need(),
        have: part.memory,
    })
}

/// The plan in which each machine has the number of layers that the user gave it.
///
/// # Errors
/// The numbers are not those of the model, or a machine cannot hold its layers.
pub fn given(needs: &Needs, machines: &[Machine], counts: &[u32]) -> Result<Plan, Impossible> {
    if counts.len() > machines.len() {
        return Err(Impossible::Machines {
            given: counts.len(),
            machines: machines.len(),
        });
    }
    let sum: u64 = counts.iter().map(|&n| u64::from(n)).sum();
    if sum != needs.layers() as u64 {
        return Err(Impossible::Count {
            sum,
            layers: needs.layers(),
        });
    }
    let mut counts: Vec<usize> = counts.iter().map(|&n| n as usize).collect();
    counts.resize(machines.len(), 0);
    let plan = needs.plan(machines, &counts);
    match misfit(&plan) {
        Some(impossible) => Err(impossible),
        None => Ok(plan),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// 40 layers of 1 GiB with a cache of 64 MiB each, and 1 GiB outside.
    fn needs() -> Needs {
        Needs {
            weights: vec![GIB; 40],
            read: vec![GIB; 40],
            cache: vec![64 << 20; 40],
            outside: GIB,
            outside_read: GIB / 2,
            working: GIB / 4,
            state: 32 << 10,
            n_ctx: 4096,
        }
    }

    fn local(gib: u64) -> Machine {
        Machine {
            name: "here".to_owned(),
            memory: gib * GIB,
            bytes_per_second: 50e9,
            way: None,
        }
    }

    fn worker(gib: u64, bytes_per_second: f64) -> Machine {
        Machine {
            name: format!("w{gib}"),
            memory: gib * GIB,
            bytes_per_second,
            way: Some(Way {
                round_trip: 0.0002,
                bytes_per_second: 125e6,
            }),
        }
    }

    fn counts(plan: &Plan) -> Vec<u32> {
        plan.parts.iter().map(|part| part.layers).collect()
    }

    #[test]
    fn the_local_machine_is_filled_first() {
        let plan = fastest(&needs(), &[local(24), worker(32, 50e9)]).unwrap();
        // (24 - 1.25) / 1.0625 = 21.4
        assert_eq!(counts(&plan), [21, 19]);
        let part = &plan.parts[0];
        assert_eq!(part.weights, 22 * GIB);
        assert!(part.weights + part.cache + part.working <= part.memory);
        assert!(plan.parts[1].travelling > 0.0002);
        // Without need a worker is not used, unless it is faster.
        let plan = fastest(&needs(), &[local(64), worker(32, 50e9)]).unwrap();
        assert_eq!(counts(&plan), [40, 0]);
        let plan = fastest(&needs(), &[local(64), worker(32, 400e9)]).unwrap();
        assert_eq!(counts(&plan), [11, 29]);
    }

    #[test]
    fn the_time_is_the_sum_over_machines_and_ways() {
        let plan = fastest(&needs(), &[local(24), worker(32, 25e9)]).unwrap();
        let gib = GIB as f64;
        let reading = 21.5 * gib / 50e9 + 19.0 * gib / 25e9;
        let way = 0.0002 + (2.0 * 32768.0 + 2.0 * 4096.0 + PASS_BYTES) / 125e6;
        assert!((plan.seconds() - reading - way).abs() < 1e-6);
    }

    #[test]
    fn no_more_workers_are_used_than_pay() {
        let far = Machine {
            way: Some(Way {
                round_trip: 0.1,
                bytes_per_second: 1e6,
            }),
            ..worker(40, 60e9)
        };
        let plan = fastest(&needs(), &[local(24), far, worker(32, 50e9)]).unwrap();
        assert_eq!(counts(&plan), [21, 0, 19]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_arithmetic() {
        let error = fastest(&needs(), &[local(12), worker(16, 50e9)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the 40 layers need 42.5 GiB with a cache of 4096 tokens, and there is room for 24: \
             here 10.8 GiB + w16 15.8 GiB = 26.5 GiB, in pieces of up to 1.06 GiB"
        );
    }

    #[test]
    fn layers_of_different_sizes_fit_where_they_are_put() {
        let mut needs = needs();
        for (i, layer) in needs.weights.iter_mut().enumerate() {
            *layer = if i < 20 { 2 * GIB } else { GIB };
        }
        let plan = fastest(&needs, &[local(34), worker(40, 50e9)]).unwrap();
        for part in &plan.parts {
            assert!(
                part.weights + part.cache + part.working <= part.memory,
                "{part:?}"
            );
        }
        assert_eq!(counts(&plan).iter().sum::<u32>(), 40);
    }

    #[test]
    fn numbers_that_the_user_gives_are_taken_or_refused() {
        let machines = [local(64), worker(32, 50e9)];
        let given = |counts: &[u32]| given(&needs(), &machines, counts);
        assert_eq!(counts(&given(&[20, 20]).unwrap()), [20, 20]);
        assert_eq!(counts(&given(&[40]).unwrap()), [40, 0]);
        let refused = |counts| given(counts).unwrap_err().to_string();
        assert_eq!(refused(&[20, 21]), "the model has 40 layers, not 41");
        assert!(refused(&[20, 10, 10]).contains("3 numbers of layers for 2 machines"));
        assert_eq!(
            refused(&[0, 40]),
            "40 layers need 42.8 GiB on w32, which has 32.0 GiB"
        );
    }
}
