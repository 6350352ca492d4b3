//! Pushing images to a registry that is a cache, and saying how it went.

use crate::cache::check::Checker;
use crate::cache::registry::{Pushed, PushedImage, RegistryCache, ToPush};
use crate::disk;
use crate::engine::Result;
use crate::exec::NodeSummary;
use crate::plan::name;
use crate::words;

use super::Notices;

/// Pushes images, with progress.
pub(crate) async fn push_images(
    notices: &Notices,
    checker: &Checker<'_>,
    registry: &RegistryCache,
    images: &[ToPush],
) -> Result<Vec<PushedImage>> {
    let waiting = notices.wait(format!("pushing {}", words::count(images.len(), "image")));
    let told = |image: &PushedImage| {
        if image.outcome == Pushed::Pushed {
            let name = name::image(image.kind, &image.key);
            let text = format!("   pushed {name} ({})", disk::bytes_text(image.bytes));
            waiting.apart(|| notices.remark(text));
        }
    };
    registry.push(checker, images, &told).await
}

/// Says what was pushed; returns how many images could not be.
pub(crate) fn say_pushed(notices: &Notices, pushed: &[PushedImage]) -> usize {
    let count = |wanted: &Pushed| pushed.iter().filter(|one| one.outcome == *wanted).count();
    let failed: Vec<(&PushedImage, &String)> = pushed
        .iter()
        .filter_map(|one| match &one.outcome {
            Pushed::Failed(why) => Some((one, why)),
            _ => None,
        })
        .collect();
    let bytes: u64 = pushed.iter().map(|one| one.bytes).sum();
    let (sent, there) = (count(&Pushed::Pushed), count(&Pushed::There));
    let (sent, bytes) = (words::count(sent, "image"), disk::bytes_text(bytes));
    notices.remark(format!("{sent} pushed, {there} there before: {bytes} sent"));
    let other = count(&Pushed::Differs) + count(&Pushed::OnOther);
    if other > 0 {
        notices.warn(format!(
            "{other} images are, or stand on, other builds than the registry has: those stay. \
             `imgforge cache rm` and `prewarm` exchange the ones here"
        ));
    }
    for (image, why) in failed.iter().take(10) {
        notices.warn(format!("{} was not pushed: {why}", name::image(image.kind, &image.key)));
    }
    failed.len()
}

/// Pushes the images of a run. A registry that fails is a warning: the images are here. Returns how
/// many could not be pushed.
pub(crate) async fn push_nodes<'a>(
    notices: &Notices,
    checker: &Checker<'_>,
    registry: &RegistryCache,
    nodes: impl Iterator<Item = &'a NodeSummary>,
) -> usize {
    // A published image has a name of its own already.
    let ours = nodes.filter(|node| name::is_image(&node.image));
    let images: Vec<ToPush> = ours.map(|node| ToPush { kind: node.kind, key: node.key }).collect();
    if images.is_empty() {
        return 0;
    }
    match push_images(notices, checker, registry, &images).await {
        Ok(pushed) => say_pushed(notices, &pushed),
        Err(error) => {
            let error = anyhow::Error::from(error);
            notices.warn(format!("the images are not pushed: {error:#}"));
            images.len()
        }
    }
}
