//! The choice of one candidate for each item that has the smallest sum of errors under a limit of
//! bytes: which tensor gets which type in a file of a given size.
//!
//! Lagrangian relaxation: for a price of a byte, each item takes the candidate with the smallest error
//! plus priced bytes, and the price is lowered until the limit is reached. This visits the corners of
//! the lower convex hull of each item, in the order of what a byte saves there. The bytes that are
//! left, fewer than one step takes, are used by exchanges of one or two candidates, as long as the sum
//! falls. The lower bound that the relaxation gives says how far the choice can be from the best.

use std::cmp::Ordering;

/// A way to store an item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Its size, which counts against the limit.
    pub bytes: u64,
    /// Its error; the sum over items is minimized.
    pub error: f64,
}

/// A choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The index of the candidate of each item.
    pub chosen: Vec<usize>,
    /// The bytes of all of them.
    pub bytes: u64,
    /// The sum of their errors.
    pub error: f64,
    /// A lower bound: no choice under the limit has a smaller sum.
    pub bound: f64,
}

/// Maximum number of exchanges, which bounds the time for files of very many tensors.
const ROUNDS: usize = 200;

/// Chooses a candidate for each item so that the bytes are within `limit`. The result depends on the
/// arguments alone. `None` if the smallest candidates are too large together, or an item has none.
pub fn choose(items: &[Vec<Candidate>], limit: u64) -> Option<Choice> {
    let hulls: Option<Vec<Vec<usize>>> = items.iter().map(|item| hull(item)).collect();
    let hulls = hulls?;
    let mut at = vec![0; items.len()];
    let candidate = |item: usize, step: usize| items[item][hulls[item][step]];
    let mut bytes: u64 = (0..items.len()).map(|item| candidate(item, 0).bytes).sum();
    if bytes > limit {
        return None;
    }
    // Steps along the hulls, those that save most for each byte first. Along one hull it falls.
    let mut steps = Vec::new();
    for (item, hull) in hulls.iter().enumerate() {
        for step in 1..hull.len() {
            let (from, to) = (candidate(item, step - 1), candidate(item, step));
            let price = (from.error - to.error) / (to.bytes - from.bytes) as f64;
            steps.push((price, item, step));
        }
    }
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let mut bound = None;
    let mut blocked = vec![false; items.len()];
    for &(price, item, step) in &steps {
        let more = candidate(item, step).bytes - candidate(item, step - 1).bytes;
        if bytes + more > limit {
            // At the price where the limit is passed first, the relaxation is tight.
            bound.get_or_insert_with(|| {
                let error: f64 = (0..items.len()).map(|i| candidate(i, at[i]).error).sum();
                error - price * (limit - bytes) as f64
            });
            blocked[item] = true;
        } else if !blocked[item] {
            at[item] = step;
            bytes += more;
        }
    }
    let mut chosen: Vec<usize> = (0..items.len()).map(|item| hulls[item][at[item]]).collect();
    fill(items, &mut chosen, &mut bytes, limit);
    let error = sum(items, &chosen);
    Some(Choice {
        bytes,
        error,
        bound: bound.unwrap_or(error).min(error),
        chosen,
    })
}

fn sum(items: &[Vec<Candidate>], chosen: &[usize]) -> f64 {
    items
        .iter()
        .zip(chosen)
        .map(|(item, &at)| item[at].error)
        .sum()
}

/// Uses the bytes that are left, as long as the sum falls: repeatedly makes the change of one item, or
/// of a pair of which one makes room for the other, that lowers it most.
fn fill(items: &[Vec<Candidate>], chosen: &mut [usize], bytes: &mut u64, limit: u64) {
    for _ in 0..ROUNDS {
        let left = limit - *bytes;
        let Some((gives, takes)) = best_exchange(items, chosen, left) else {
            return;
        };
        for (item, candidate) in [gives, Some(takes)].into_iter().flatten() {
            *bytes -= items[item][chosen[item]].bytes;
            *bytes += items[item][candidate].bytes;
            chosen[item] = candidate;
        }
    }
}

/// A change of one item: its index, and the index of its new candidate.
type Change = (usize, usize);

/// The exchange that lowers the sum most within `left` more bytes: a change of one item, and possibly
/// one of another item that makes room for it.
fn best_exchange(
    items: &[Vec<Candidate>],
    chosen: &[usize],
    left: u64,
) -> Option<(Option<Change>, Change)> {
    let mut better = Vec::new();
    let mut smaller = Vec::new();
    for (item, candidates) in items.iter().enumerate() {
        let now = candidates[chosen[item]];
        for (at, candidate) in candidates.iter().enumerate() {
            let saves = now.error - candidate.error;
            if saves > 0.0 {
                better.push((
                    candidate.bytes as i128 - now.bytes as i128,
                    saves,
                    (item, at),
                ));
            } else if candidate.bytes < now.bytes {
                smaller.push((now.bytes - candidate.bytes, -saves, (item, at)));
            }
        }
    }
    // For each room, the two cheapest changes of different items that make at least that much.
    smaller.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
    let mut cheapest: Vec<[Option<(f64, Change)>; 2]> = Vec::with_capacity(smaller.len());
    for &(_, costs, gives) in &smaller {
        let [first, second] = cheapest.last().copied().unwrap_or_default();
        let new = Some((costs, gives));
        let beats = |old: Option<(f64, Change)>| old.is_none_or(|(least, _)| costs < least);
        let same = |old: Option<(f64, Change)>| old.is_some_and(|(_, (item, _))| item == gives.0);
        cheapest.push(match beats(first) {
            true if same(first) => [new, second],
            true => [new, first],
            false if !same(first) && beats(second) => [first, new],
            false => [first, second],
        });
    }
    let mut best: Option<(f64, Option<Change>, Change)> = None;
    let mut offer = |saves: f64, gives: Option<Change>, takes: Change| {
        let order = best.map_or(Ordering::Greater, |(most, ..)| saves.total_cmp(&most));
        if saves > 0.0 && order == Ordering::Greater {
            best = Some((saves, gives, takes));
        }
    };
    for &(more, saves, takes) in &better {
        if more <= i128::from(left) {
            offer(saves, None, takes);
            continue;
        }
        let enough =
            smaller.partition_point(|&(room, ..)| i128::from(room) + i128::from(left) >= more);
        let rooms = enough
            .checked_sub(1)
            .map_or([None; 2], |last| cheapest[last]);
        let other = |(_, gives): &(f64, Change)| gives.0 != takes.0;
        if let Some((costs, gives)) = rooms.into_iter().flatten().find(other) {
            offer(saves - costs, Some(gives), takes);
        }
    }
    best.map(|(_, gives, takes)| (gives, takes))
}

/// The candidates at the corners of the lower convex hull of error over bytes, smallest first; each
/// is larger than the one before and has a smaller error. `None` without a candidate.
fn hull(candidates: &[Candidate]) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (candidates[a], candidates[b]);
        a.bytes.cmp(&b.bytes).then(a.error.total_cmp(&b.error))
    });
    let mut hull: Vec<usize> = Vec::new();
    for next in order {
        let to = candidates[next];
        if hull
            .last()
            .is_some_and(|&last| to.error >= candidates[last].error)
        {
            continue;
        }
        while let [.., a, b] = hull[..] {
            let (a, b) = (candidates[a], candidates[b]);
            let slope = |from: Candidate, to: Candidate| {
                (from.error - to.error) / (to.bytes - from.bytes) as f64
            };
            if slope(a, b) > slope(b, to) {
                break;
            }
            hull.pop();
        }
        hull.push(next);
    }
    (!hull.is_empty()).then_some(hull)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The best choice by trying all.
    fn exhaustive(items: &[Vec<Candidate>], limit: u64) -> Option<f64> {
        let Some((first, rest)) = items.split_first() else {
            return Some(0.0);
        };
        let sums = first
            .iter()
            .filter(|c| c.bytes <= limit)
            .filter_map(|c| Some(c.error + exhaustive(rest, limit - c.bytes)?));
        sums.min_by(f64::total_cmp)
    }

    fn random(state: &mut u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *state >> 33
    }

    #[test]
    fn choices_are_near_the_best_of_all() {
        let mut state = 7;
        let (mut exact, mut tried) = (0, 0);
        for _ in 0..300 {
            let n = 1 + random(&mut state) as usize % 6;
            let items: Vec<Vec<Candidate>> = (0..n)
                .map(|_| {
                    let size = 1 + random(&mut state) % 20;
                    let weight = 1.0 + (random(&mut state) % 100) as f64;
                    // Half a bit more takes a third of the error, or a little less.
                    (2..7)
                        .map(|bits| Candidate {
                            bytes: bits * size,
                            error: weight
                                * 0.3f64.powi(bits as i32)
                                * (1.0 + (random(&mut state) % 10) as f64 / 20.0),
                        })
                        .collect()
                })
                .collect();
            let limit = random(&mut state) % 400;
            let best = exhaustive(&items, limit);
            let found = choose(&items, limit);
            assert_eq!(best.is_some(), found.is_some());
            let (Some(best), Some(found)) = (best, found) else {
                continue;
            };
            let bytes: u64 = items
                .iter()
                .zip(&found.chosen)
                .map(|(item, &at)| item[at].bytes)
                .sum();
            assert_eq!(bytes, found.bytes);
            assert!(bytes <= limit);
            assert!((found.error - sum(&items, &found.chosen)).abs() < 1e-12);
            assert!(
                found.bound <= best * (1.0 + 1e-9) + 1e-12,
                "{} {best}",
                found.bound
            );
            assert!(
                found.error >= best - 1e-12 && found.error <= best * 1.5 + 1e-12,
                "{} {best}",
                found.error
            );
            exact += usize::from(found.error <= best * (1.0 + 1e-9));
            tried += 1;
        }
        assert!(exact * 10 > tried * 9, "{exact} of {tried}");
    }

    #[test]
    fn what_does_not_fit_is_no_choice() {
        let one = Candidate {
            bytes: 10,
            error: 1.0,
        };
        let two = Candidate {
            bytes: 20,
            error: 0.5,
        };
        let worse = Candidate {
            bytes: 15,
            error: 2.0,
        };
        let items = vec![vec![two, worse, one], vec![two, one]];
        assert_eq!(choose(&items, 19), None);
        assert_eq!(choose(&items, 20).unwrap().chosen, [2, 1]);
        assert_eq!(choose(&items, 39).unwrap().bytes, 30);
        let all = choose(&items, u64::MAX).unwrap();
        assert_eq!((all.chosen, all.bound), (vec![0, 0], 1.0));
        assert_eq!(choose(&[vec![]], 9), None);
        assert_eq!(choose(&[], 0).unwrap().bytes, 0);
    }
}
