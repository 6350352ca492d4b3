//! The order in which a plan's work is cut into shards.

use crate::key::{Key, Kind};

use super::{Plan, Work};

/// Returns the positions of a plan's work in the order in which it is cut: what stands on one environment is
/// together, and there what stands on one checkout. Where images are published, and no environment is
/// planned, rows of one version of a repository are together.
pub fn order(plan: &Plan, work: &[Work]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..work.len()).collect();
    let mut images: Vec<[Option<Key>; 2]> = vec![[None; 2]; work.len()];
    for target in &plan.targets {
        let mut next = Some(target.node);
        while let Some(index) = next {
            let node = &plan.graph[index];
            match node.kind() {
                Kind::Env => images[target.work][0] = Some(node.key),
                Kind::Checkout => images[target.work][1] = Some(node.key),
                _ => {}
            }
            next = plan.parent(index);
        }
    }
    let place = |at: usize| {
        let Work { instance, prediction } = &work[at];
        let model = prediction.as_ref().map(|prediction| prediction.model.as_str());
        (images[at], &instance.repo, &instance.version, &instance.instance_id, model)
    };
    order.sort_by(|one, other| place(*one).cmp(&place(*other)));
    order
}
