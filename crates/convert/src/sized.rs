//! Chooses the types of a file of a given size.
//!
//! [`Survey`] knows what each type would do to each tensor: its size, and the KL divergence of the
//! model's predictions that it is expected to cause alone. [`Survey::choose`] takes the types with the
//! smallest sum under the size. That divergences add up holds while they are small: the errors of
//! different matrices are independent, and a divergence is quadratic in the error.
//!
//! The divergence of a tensor in a type is
//!
//! - measured, where [`Survey::measured`] was told it;
//! - else, for a tensor that was measured in other types, proportional to the relative error of its
//!   products, interpolated between the types that were measured;
//! - else the relative error times the sensitivity of its role. If tensors of that role were
//!   measured, this is their mean; a table stands in for it otherwise.

mod candidates;
mod sensitivity;

use std::collections::BTreeMap;

use super::estimate;
use super::{Error, Options, Plan, PlannedTensor, Request};
use crate::checkpoint::Checkpoint;
use modelve_base::progress::Progress;
use modelve_gguf::{DEFAULT_ALIGNMENT, GgmlType};
use modelve_quant::budget::{self, Choice};
use modelve_quant::mix::{self, Decision, RECIPES, Recipe, Role};

pub use candidates::Candidate;
use candidates::{Knowledge, types_for};
use sensitivity::sensitivity;

/// The size that a file may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// Bytes of the whole file.
    Bytes(u64),
    /// Bits of tensor data for each weight.
    Bits(f64),
}

/// The chosen types of a file.
#[derive(Clone, Debug)]
pub struct Mixture {
    /// The type of each tensor that has no given one, and the reason, by its name.
    pub types: BTreeMap<String, Decision>,
    /// The recipe whose base type most of the weights have; `general.file_type` names it.
    pub recipe: &'static Recipe,
    /// The expected divergence, in nats.
    pub loss: f64,
    /// No choice under the limit has a smaller expected divergence than this.
    pub bound: f64,
    /// The index of the chosen candidate of each of [`Survey::tensors`].
    pub chosen: Vec<usize>,
}

/// A tensor whose type is to be chosen.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Its index in [`Plan::tensors`].
    pub tensor: usize,
    /// Its name.
    pub name: String,
    /// The types that it can have, smallest first.
    pub candidates: Vec<Candidate>,
    /// The divergence per relative error of its role, before anything was measured.
    prior: f64,
}

/// What each type would do to each tensor of a checkpoint.
#[derive(Debug)]
pub struct Survey {
    plan: Plan,
    tensors: Vec<Surveyed>,
    /// Bytes of the file, and of its tensor data, that do not depend on the choice.
    fixed: (u64, u64),
}

/// The size of a tensor in the file, with its padding.
fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(DEFAULT_ALIGNMENT)
}

impl Survey {
    /// Estimates the relative error of every type for every tensor. The recipe of `request` does not
    /// matter; types that its overrides name are kept. Types of 2 and 3 bits that are slow to compute
    /// with are candidates if `limit` leaves fewer than 4.75 bits for a weight.
    ///
    /// # Errors
    /// [`Error::TooSmall`] if not even the smallest types fit; the errors of planning, reading and
    /// encoding.
    pub fn new(
        checkpoint: &Checkpoint,
        request: &Request<'_>,
        limit: Option<Limit>,
        options: &Options<'_>,
        progress: &dyn Progress,
    ) -> Result<Self, Error> {
        let plan = Plan::new(checkpoint, request)?;
        let is_output = |tensor: &PlannedTensor| Role::of(&tensor.name) == Role::Output;
        let tied = !plan.tensors().iter().any(is_output);
        let is_free = |tensor: &PlannedTensor| {
            mix::is_quantized(&tensor.name, tensor.shape.len())
                && !request.overrides.pins(&tensor.name, tied)
        };
        let free = || plan.tensors().iter().filter(|tensor| is_free(tensor));
        let now: u64 = free().map(|tensor| padded(tensor.bytes)).sum();
        let data: u64 = (plan.tensors().iter())
            .map(|tensor| padded(tensor.bytes))
            .sum();
        let fixed = (plan.file_size() - now, data - now);
        let weights: u64 = free().map(PlannedTensor::elements).sum();
        let few_bits = limit.is_some_and(|limit| {
            let room = allowed(limit, &plan).saturating_sub(of_limit(limit, fixed));
            (room as f64) * 8.0 < candidates::FEW_BITS * weights as f64
        });
        let roles: Vec<Role> = free().map(|tensor| Role::of(&tensor.name)).collect();
        let mut types = Vec::with_capacity(plan.tensors().len());
        for tensor in plan.tensors() {
            types.push(match is_free(tensor) {
                false => Vec::new(),
                true => {
                    let weighted = match request.imatrix {
                        Some(imatrix) => imatrix.weights(&tensor.name, &tensor.shape)?.is_some(),
                        None => false,
                    };
                    types_for(tensor.columns(), weighted, few_bits)
                }
            });
        }
        let of_role = |role: Role| {
            let each = roles.iter().filter(|&&other| other == role);
            each.count().max(1)
        };
        let mut survey = Survey {
            tensors: Vec::new(),
            fixed,
            plan,
        };
        let each = survey.plan.tensors().iter().zip(&types).enumerate();
        let free = each.filter(|(_, (_, types))| !types.is_empty());
        let surveyed = free.map(|(index, (tensor, types))| {
            let rows = tensor.elements() / tensor.columns().max(1);
            let candidate = |&ty: &GgmlType| Candidate {
                ty,
                bytes: padded(rows * ty.row_bytes(tensor.columns()).unwrap_or(0)),
                relative: 0.0,
                loss: 0.0,
                known: Knowledge::Estimated,
            };
            let role = Role::of(&tensor.name);
            Surveyed {
                tensor: index,
                name: tensor.name.clone(),
                candidates: types.iter().map(candidate).collect(),
                prior: sensitivity(role, tied) / of_role(role) as f64,
            }
        });
        survey.tensors = surveyed.collect();
        if let Some(limit) = limit {
            survey.room(limit)?;
        }

        let (threads, cancel) = (options.threads, options.cancel);
        let errors = estimate::errors(
            &survey.plan,
            checkpoint,
            request.imatrix,
            &types,
            threads,
            cancel,
            progress,
        )?;
        for tensor in &mut survey.tensors {
            let errors = errors[tensor.tensor].iter();
            for (candidate, error) in tensor.candidates.iter_mut().zip(errors) {
                candidate.relative = *error;
            }
            let finite = |candidate: &Candidate| candidate.relative.is_finite();
            match tensor.candidates.iter().any(finite) {
                true => tensor.candidates.retain(finite),
                // No type can hold the weights: converting says which.
                false => tensor.candidates.iter_mut().for_each(|c| c.relative = 0.0),
            }
            tensor.candidates.sort_by_key(|candidate| candidate.bytes);
        }
        survey.expect();
        Ok(survey)
    }

    /// The tensors whose types are to be chosen, in the order of the file.
    pub fn tensors(&self) -> &[Surveyed] {
        &self.tensors
    }

    /// The plan whose tensors these are, with the types of its recipe.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The smallest and the largest size of the file in bytes.
    pub fn sizes(&self) -> (u64, u64) {
        let (mut least, mut most) = (self.fixed.0, self.fixed.0);
        for tensor in &self.tensors {
            let bytes = || tensor.candidates.iter().map(|candidate| candidate.bytes);
            least += bytes().min().unwrap_or(0);
            most += bytes().max().unwrap_or(0);
        }
        (least, most)
    }

    /// Enters the divergence that was measured with one tensor in one type. `tensor` and `candidate`
    /// are indices of [`Survey::tensors`] and of its candidates. [`Survey::expect`] uses it.
    pub fn measured(&mut self, tensor: usize, candidate: usize, divergence: f64) {
        let candidate = &mut self.tensors[tensor].candidates[candidate];
        candidate.loss = divergence.max(0.0);
        candidate.known = Knowledge::Measured;
    }

    /// Expects a divergence of every candidate that was not measured.
    pub fn expect(&mut self) {
        let mut ratios: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        for tensor in &self.tensors {
            for ratio in tensor.ratios().map(|(_, ratio)| ratio / tensor.prior) {
                ratios
                    .entry(role_name(&tensor.name))
                    .or_default()
                    .push(ratio);
                ratios.entry("").or_default().push(ratio);
            }
        }
        let means: BTreeMap<&str, f64> = ratios
            .into_iter()
            .map(|(role, ratios)| {
                let logs: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
                (role, (logs / ratios.len() as f64).exp())
            })
            .collect();
        for tensor in &mut self.tensors {
            let role = means.get(role_name(&tensor.name)).or(means.get(""));
            tensor.expect(role.copied().unwrap_or(1.0));
        }
    }

    /// Chooses the types under `limit`.
    ///
    /// # Errors
    /// [`Error::TooSmall`].
    pub fn choose(&self, limit: Limit) -> Result<Mixture, Error> {
        let room = self.room(limit)?;
        let choice = budget::choose(&self.items(), room);
        let choice = choice.ok_or_else(|| self.too_small(limit))?;
        Ok(self.mixture(choice))
    }

    /// Chooses the types of the smallest file whose expected divergence is at most `target` nats;
    /// `None` if even the largest types are expected to differ more.
    pub fn choose_within(&self, target: f64) -> Option<Mixture> {
        let items = self.items();
        let (least, most) = self.sizes();
        let (mut below, mut above) = (least - self.fixed.0, most - self.fixed.0);
        let within = |room: u64| {
            let choice = budget::choose(&items, room);
            choice.filter(|choice| choice.error <= target)
        };
        let mut best = within(above)?;
        while below < above {
            let middle = below + (above - below) / 2;
            match within(middle) {
                Some(choice) => {
                    above = choice.bytes.min(middle);
                    best = choice;
                }
                None => below = middle + 1,
            }
        }
        Some(self.mixture(best))
    }

    fn items(&self) -> Vec<Vec<budget::Candidate>> {
        let candidate = |candidate: &Candidate| budget::Candidate {
            bytes: candidate.bytes,
            error: candidate.loss,
        };
        let tensors = self.tensors.iter();
        tensors
            .map(|tensor| tensor.candidates.iter().map(candidate).collect())
            .collect()
    }

    /// The bytes that the tensors may take together.
    fn room(&self, limit: Limit) -> Result<u64, Error> {
        let room = allowed(limit, &self.plan).checked_sub(of_limit(limit, self.fixed));
        let least = self.sizes().0 - self.fixed.0;
        room.filter(|&room| room >= least)
            .ok_or_else(|| self.too_small(limit))
    }

    fn too_small(&self, limit: Limit) -> Error {
        let (least, most) = self.sizes();
        // Bits count the tensor data alone.
        let header = self.fixed.0 - self.fixed.1;
        let allowed = match limit {
            Limit::Bytes(bytes) => bytes,
            Limit::Bits(_) => allowed(limit, &self.plan) + header,
        };
        Error::TooSmall {
            allowed,
            least,
            most,
        }
    }

    fn mixture(&self, choice: Choice) -> Mixture {
        let mut types = BTreeMap::new();
        let mut weights: BTreeMap<GgmlType, u64> = BTreeMap::new();
        for (tensor, &at) in self.tensors.iter().zip(&choice.chosen) {
            let ty = tensor.candidates[at].ty;
            *weights.entry(ty).or_default() += self.plan.tensors()[tensor.tensor].elements();
            let reason = tensor.reason(at);
            types.insert(tensor.name.clone(), Decision { ty, reason });
        }
        let most = weights.into_iter().max_by_key(|&(ty, n)| (n, ty));
        let recipe = RECIPES
            .iter()
            .find(|recipe| Some(recipe.base) == most.map(|(ty, _)| ty));
        Mixture {
            types,
            recipe: recipe.unwrap_or(&RECIPES[0]),
            loss: choice.error,
            bound: choice.bound,
            chosen: choice.chosen,
        }
    }
}

/// The bytes of a limit: of the file, or of its tensor data.
fn allowed(limit: Limit, plan: &Plan) -> u64 {
    match limit {
        Limit::Bytes(bytes) => bytes,
        Limit::Bits(bits) => (bits * plan.weights() as f64 / 8.0) as u64,
    }
}

/// The fixed bytes that count for a limit.
fn of_limit(limit: Limit, (file, data): (u64, u64)) -> u64 {
    match limit {
        Limit::Bytes(_) => file,
        Limit::Bits(_) => data,
    }
}

/// What the tensors of all layers that do the same are called: `ffn_down` of `blk.7.ffn_down.weight`.
fn role_name(name: &str) -> &'static str {
    match Role::of(name) {
        Role::TokenEmbedding => "token_embd",
        Role::Output => "output",
        Role::AttentionValue => "attn_v",
        Role::AttentionKey => "attn_k",
        Role::AttentionQuery => "attn_q",
        Role::AttentionOutput => "attn_output",
        Role::FfnGate => "ffn_gate",
        Role::FfnUp => "ffn_up",
        Role::FfnDown => "ffn_down",
        Role::Other => "other",
    }
}
