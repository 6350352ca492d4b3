//! The files that tests get: in Secrets that are there before the pod, as many as the bytes need.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    Pod, ProjectedVolumeSource, Secret, SecretProjection, SecretVolumeSource, Volume,
    VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::engine::{EngineError, Result};

/// Where the files are in the container.
pub(super) const INPUTS: &str = "/imgforge/in";

/// The most bytes in one Secret; etcd has 1 MiB for an object.
pub(super) const IN_ONE: usize = 900 << 10;

/// The most bytes in all: the node holds them in its memory.
pub(super) const IN_ALL: usize = 64 << 20;

/// Only root reads them.
const MODE: i32 = 0o400;

/// A file in Secrets.
type Content = (String, Vec<u8>);

/// A part of a file.
struct Piece<'a> {
    /// The number of its Secret.
    secret: usize,
    /// Its name there.
    name: String,
    bytes: &'a [u8],
}

/// Cuts files into pieces that fit into Secrets; for each file at least one, in their order.
fn pieces(files: &[Content]) -> Vec<Vec<Piece<'_>>> {
    let (mut secret, mut room) = (0, IN_ONE);
    let mut all = Vec::new();
    for (at, (_, bytes)) in files.iter().enumerate() {
        let (mut of_file, mut rest) = (Vec::new(), bytes.as_slice());
        loop {
            if room == 0 {
                (secret, room) = (secret + 1, IN_ONE);
            }
            let (piece, left) = rest.split_at(rest.len().min(room));
            let name = match of_file.len() {
                0 => format!("f{at}"),
                number => format!("f{at}-{number}"),
            };
            of_file.push(Piece { secret, name, bytes: piece });
            room -= piece.len();
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        all.push(of_file);
    }
    all
}

/// Returns where the parts of each file are in the container.
pub(super) fn paths(files: &[Content]) -> Vec<Vec<String>> {
    let path = |piece: &Piece<'_>| format!("{INPUTS}/{}", piece.name);
    pieces(files).iter().map(|of_file| of_file.iter().map(path).collect()).collect()
}

/// Returns how many Secrets the files need: one at least.
fn count(files: &[Content]) -> usize {
    pieces(files).iter().flatten().map(|piece| piece.secret + 1).max().unwrap_or(1)
}

/// Returns the name of a Secret of a pod.
pub(super) fn secret_name(pod: &str, number: usize) -> String {
    match number {
        0 => pod.to_owned(),
        number => format!("{pod}-{number}"),
    }
}

/// Makes the volume with the files.
pub(super) fn volume(pod: &str, files: &[Content]) -> Volume {
    let name = "in".to_owned();
    let count = count(files);
    if count == 1 {
        let secret = SecretVolumeSource {
            secret_name: Some(pod.to_owned()),
            default_mode: Some(MODE),
            ..SecretVolumeSource::default()
        };
        return Volume { name, secret: Some(secret), ..Volume::default() };
    }
    let source = |number| VolumeProjection {
        secret: Some(SecretProjection {
            name: secret_name(pod, number),
            ..SecretProjection::default()
        }),
        ..VolumeProjection::default()
    };
    let projected = ProjectedVolumeSource {
        default_mode: Some(MODE),
        sources: Some((0..count).map(source).collect()),
    };
    Volume { name, projected: Some(projected), ..Volume::default() }
}

/// Makes the Secrets with the files of a pod.
///
/// # Errors
/// [`EngineError::Refused`] where the files have more than 64 MiB.
pub(super) fn secrets(pod: &Pod, files: &[Content]) -> Result<Vec<Secret>> {
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    if bytes > IN_ALL {
        return Err(EngineError::Refused {
            action: "give a pod its files".to_owned(),
            reason: format!(
                "the test script and the patches have {bytes} bytes, and a pod takes {IN_ALL}: use \
                 `--runner local` for this instance"
            ),
        });
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut secrets: Vec<Secret> = (0..count(files))
        .map(|number| Secret {
            metadata: ObjectMeta {
                name: Some(secret_name(name, number)),
                labels: pod.metadata.labels.clone(),
                owner_references: pod.metadata.owner_references.clone(),
                ..ObjectMeta::default()
            },
            immutable: Some(true),
            data: Some(Default::default()),
            ..Secret::default()
        })
        .collect();
    for piece in pieces(files).into_iter().flatten() {
        let data = secrets[piece.secret].data.get_or_insert_default();
        data.insert(piece.name, ByteString(piece.bytes.to_owned()));
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_files_again_and_every_secret_has_room_for_its_own() {
        for sizes in [
            vec![],
            vec![0],
            vec![10, 0, 20],
            vec![IN_ONE],
            vec![IN_ONE, 0],
            vec![IN_ONE + 1],
            vec![IN_ONE - 1, 2, 3 * IN_ONE, 5],
        ] {
            let byte = |at: usize| (at % 251) as u8;
            let file = |size: &usize| ("/a".to_owned(), (0..*size).map(byte).collect::<Vec<u8>>());
            let files: Vec<Content> = sizes.iter().map(file).collect();
            let cut = pieces(&files);
            let mut in_secrets = vec![0; count(&files)];
            for ((_, bytes), of_file) in files.iter().zip(&cut) {
                let joined: Vec<u8> =
                    of_file.iter().flat_map(|piece| piece.bytes.to_vec()).collect();
                assert_eq!(joined, *bytes, "{sizes:?}");
                of_file.iter().for_each(|piece| in_secrets[piece.secret] += piece.bytes.len());
            }
            assert!(in_secrets.iter().all(|bytes| *bytes <= IN_ONE), "{sizes:?}: {in_secrets:?}");
            let needed = sizes.iter().sum::<usize>().div_ceil(IN_ONE).max(1);
            assert!(in_secrets.len() <= needed + 1, "{sizes:?}: {in_secrets:?}");
            let mut names: Vec<&str> = cut.iter().flatten().map(|piece| &*piece.name).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "{sizes:?}");
        }
    }
}
