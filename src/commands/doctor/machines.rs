//! The machines that were named as workers: what they offer, and the plan for the default model.

use serde::Serialize;

use crate::base::human;
use crate::commands::find;
use crate::commands::workers::{WorkersArgs, machines, plan_lines};
use crate::hub::locate::Located;
use crate::runtime::placement::{Needs, Plan};
use crate::runtime::{KvType, Model};
use crate::workers::{Link, OfferedDevice};

/// Number of tokens of the context that the plan has room for.
const CONTEXT: u64 = 4096;

/// What the workers say.
#[derive(Debug, Serialize)]
pub struct Machines {
    workers: Vec<Worker>,
    /// Why there are none: the error of the first that could not be reached.
    problem: Option<String>,
    /// Which layers of the default model each machine would compute.
    plan: Option<Vec<Part>>,
    /// Number of tokens that the plan has room for.
    context: u64,
    /// Seconds that a token would take at least.
    seconds_per_token: Option<f64>,
    /// Why there is no plan.
    no_plan: Option<String>,
    #[serde(skip)]
    shown: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Worker {
    name: String,
    version: String,
    system: String,
    devices: Vec<OfferedDevice>,
    cache: bool,
    round_trip_seconds: f64,
    bytes_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Part {
    name: String,
    layers: u32,
    weight_bytes: u64,
    cache_bytes: u64,
    working_bytes: u64,
    memory_bytes: u64,
    reading_seconds: f64,
    travelling_seconds: f64,
}

impl Machines {
    /// Asks the workers.
    pub fn ask(args: &WorkersArgs) -> Machines {
        let links = match args.connect() {
            Ok(links) => links,
            Err(error) => return Self::unreachable(format!("{error:#}")),
        };
        let plan = plan(args, &links);
        let workers = links.iter().map(|link| Worker {
            name: link.name().to_owned(),
            version: link.offer().version.clone(),
            system: link.offer().system.clone(),
            devices: link.offer().devices.clone(),
            cache: link.offer().cache,
            round_trip_seconds: link.round_trip().as_secs_f64(),
            bytes_per_second: link.bytes_per_second(),
        });
        Machines {
            workers: workers.collect(),
            problem: None,
            context: CONTEXT,
            seconds_per_token: plan.as_ref().ok().map(Plan::seconds),
            no_plan: plan.as_ref().err().map(|error| format!("{error:#}")),
            shown: plan.as_ref().map(plan_lines).unwrap_or_default(),
            plan: plan
                .ok()
                .map(|plan| plan.parts.into_iter().map(Part::of).collect()),
        }
    }

    fn unreachable(problem: String) -> Machines {
        Machines {
            workers: Vec::new(),
            problem: Some(problem),
            plan: None,
            context: CONTEXT,
            seconds_per_token: None,
            no_plan: None,
            shown: Vec::new(),
        }
    }

    /// Lines with a name and a text each.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines: Vec<(&'static str, String)> = Vec::new();
        for worker in &self.workers {
            for device in &worker.devices {
                let rate = device.bytes_per_second.map_or(String::new(), |rate| {
                    format!(" read at {}/s", human::bytes(rate as u64))
                });
                lines.push((
                    "worker",
                    format!(
                        "{}: {} ({}), {}{rate}; {:.2} ms there and back, {}/s",
                        worker.name,
                        device.name,
                        device.description.trim(),
                        human::bytes(device.memory),
                        worker.round_trip_seconds * 1e3,
                        human::bytes(worker.bytes_per_second as u64)
                    ),
                ));
            }
        }
        lines.extend(self.problem.iter().map(|text| ("workers", text.clone())));
        lines.extend(self.shown.iter().map(|text| ("plan", text.clone())));
        lines.extend(self.no_plan.iter().map(|text| ("plan", text.clone())));
        lines
    }
}

impl Part {
    fn of(part: crate::runtime::placement::Part) -> Part {
        Part {
            name: part.name,
            layers: part.layers,
            weight_bytes: part.weights,
            cache_bytes: part.cache,
            working_bytes: part.working,
            memory_bytes: part.memory,
            reading_seconds: part.reading,
            travelling_seconds: part.travelling,
        }
    }
}

/// The plan for the default model.
fn plan(args: &WorkersArgs, links: &[std::sync::Arc<Link>]) -> anyhow::Result<Plan> {
    let path = match find::locate(None)? {
        Located::Gguf(path) => path,
        Located::Checkpoint(path) => anyhow::bail!("{} is a checkpoint", path.display()),
    };
    let checked = Model::inspect(&path)?;
    let facts = checked.facts();
    let context = CONTEXT.min(u64::from(facts.n_ctx_train.max(1)));
    let needs = Needs::of(checked.gguf(), facts, KvType::F16, context);
    let (machines, _) = machines(links, None);
    args.plan(&needs, &machines)
}
