//! The volumes of a container, from the request to its end.

use bollard_stubs::models::ContainerCreateBody;

use crate::engine::{Image, Volume};

use super::answer::Refusal;
use super::mounts::{self, Mounts};
use super::server::Server;
use super::volumes::{HeldVolumes, Volumes};

/// Reads all mounts of a container: its own, those of other containers, and the volumes of the image.
pub(super) fn read(
    server: &Server,
    body: &ContainerCreateBody,
    image: &Image,
    warnings: &mut Vec<String>,
) -> Result<Mounts, Refusal> {
    let host = body.host_config.clone().unwrap_or_default();
    let mut mounts = mounts::read(&host, &server.settings.allowed_binds, warnings)?;
    for text in host.volumes_from.iter().flatten() {
        let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
        let other = server.find(name)?;
        mounts.take_from(&other.mounts, mode.split(',').any(|mode| mode == "ro"));
    }
    for path in image.config.service.volumes.iter().chain(body.volumes.iter().flatten()) {
        mounts.add_anonymous(path)?;
    }
    Ok(mounts)
}

/// Makes the volumes that are not there, and takes all of them into use.
///
/// # Errors
/// Where one cannot be had.
pub(super) fn take(volumes: &Volumes, mounts: &mut Mounts) -> Result<HeldVolumes, Refusal> {
    let mut held = Vec::new();
    for mount in &mut mounts.volumes {
        let volume = volumes.make(&mount.name, &mount.labels, &mount.options)?;
        held.push(volumes.hold(&volume.name)?);
        mount.name = volume.name;
    }
    Ok(HeldVolumes::new(held))
}

/// Returns the volumes as an engine mounts them.
pub(super) fn of_session(volumes: &Volumes, mounts: &Mounts) -> Vec<Volume> {
    let volume = |mount: &mounts::VolumeMount| Volume {
        source: volumes.files(&mount.name),
        target: mount.target.clone(),
        read_only: mount.read_only,
        copies: mount.copies,
    };
    mounts.volumes.iter().map(volume).collect()
}
