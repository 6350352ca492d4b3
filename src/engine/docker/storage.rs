//! What layers take on the engine's disk, and what its builder keeps of them.
//!
//! The API tells the sizes of files, not what they take. Where this process may read the
//! directories of the graph driver (`overlay2`), they are measured.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::query_parameters::{ListContainersOptionsBuilder, PruneBuildOptionsBuilder};
use serde::Deserialize;

use crate::disk;
use crate::engine::{EngineError, Pruned, Result, step_mounts};
use crate::key::{DiffId, Digest, ImageId};
use crate::retry::{Passing, Tries, retried};

use super::DockerEngine;
use super::errors::{failed, is_copied_files, is_from_image, is_of_command};
use super::transport::NoSuccess;

/// The last minor version of the API whose answer lists the build cache by itself, which `bollard`
/// does not read any more.
const LAST_OLD_FORM: u32 = 51;

/// How many records are named in a request.
const RECORDS_AT_ONCE: usize = 500;

/// Questions for the build cache: Docker 20.10 answers one at a time, and refuses the next one with
/// status 500. The pauses add up to half a minute, or to a whole one by chance.
const OTHERS_ASK: Tries = Tries { attempts: 7, first: Duration::from_millis(500) };

/// The build cache was not told.
struct NotTold(Box<dyn std::error::Error + Send + Sync>);

impl Passing for NotTold {
    fn may_pass(&self) -> bool {
        self.0.downcast_ref::<NoSuccess>().is_some_and(|answer| answer.status.is_server_error())
    }
}

/// Returns the chain ids of layers
/// (<https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid>): what a graph
/// driver stores a layer on others as.
pub(super) fn chain_ids(diff_ids: &[DiffId]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => diff_id.to_string(),
            Some(below) => Digest::of(format!("{below} {diff_id}")).oci(),
        };
        chain.push(id);
    }
    chain
}

/// Measures a layer of the driver `overlay2`.
fn layer_bytes(root: &Path, chain_id: &str) -> Option<u64> {
    let known = root.join("image/overlay2/layerdb/sha256");
    let record = known.join(chain_id.trim_start_matches("sha256:"));
    let cache_id = std::fs::read_to_string(record.join("cache-id")).ok()?;
    let tree = disk::usage(&root.join("overlay2").join(cache_id.trim()))?;
    Some(tree + disk::usage(&record).unwrap_or(0))
}

impl DockerEngine {
    pub(super) async fn layer_bytes(&self, names: &[String]) -> Result<Vec<Option<u64>>> {
        let info = self.read_info().await?;
        let root: Option<PathBuf> = info.root.filter(|_| info.store == "overlay2");
        let Some(root) = root else { return Ok(vec![None; names.len()]) };
        let names = names.to_vec();
        let measured = tokio::task::spawn_blocking(move || {
            names.iter().map(|name| layer_bytes(&root, name)).collect()
        });
        Ok(measured.await.expect("measuring does not panic"))
    }

    /// Returns the ids of the images of all containers, also of those that ended: they can be
    /// started again.
    pub(super) async fn images_of_containers(&self) -> Result<HashSet<ImageId>> {
        let all = ListContainersOptionsBuilder::new();
        let containers = self.listed_containers(all, "list its containers").await?;
        Ok(containers
            .into_iter()
            .filter_map(|container| container.image_id)
            .map(ImageId::from)
            .collect())
    }

    /// Removes the records of imgforge's build steps that no image shares and no build uses. The
    /// builder keeps the layers of images that were removed by them.
    pub(super) async fn prune_builds(&self, dry_run: bool) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        // What a record stands on is free when the record is gone.
        loop {
            let records = self.own_records().await?;
            if dry_run || records.is_empty() {
                pruned.objects += records.len();
                pruned.bytes += records.values().sum::<u64>();
                return Ok(pruned);
            }
            let mut gone = 0;
            let ids: Vec<&str> = records.keys().map(String::as_str).collect();
            for ids in ids.chunks(RECORDS_AT_ONCE) {
                // The engine takes one value, as a regular expression.
                let filters = HashMap::from([("id", vec![format!("^({})$", ids.join("|"))])]);
                let options = PruneBuildOptionsBuilder::new().all(true).filters(&filters).build();
                let answer = self.docker.prune_build(Some(options)).await;
                let answer = answer.map_err(|error| failed("prune its build cache", error))?;
                for id in answer.caches_deleted.unwrap_or_default() {
                    gone += 1;
                    pruned.bytes += records.get(&id).copied().unwrap_or(0);
                }
            }
            pruned.objects += gone;
            if gone == 0 {
                return Ok(pruned);
            }
        }
    }

    /// Returns the builder's records of imgforge's steps that are free, with their bytes.
    async fn own_records(&self) -> Result<HashMap<String, u64>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Usage {
            build_cache: Option<Vec<Record>>,
        }
        #[derive(Deserialize)]
        #[serde(rename = "BuildCache", rename_all = "PascalCase")]
        struct Record {
            #[serde(rename = "ID")]
            id: String,
            parent: Option<String>,
            #[serde(rename = "Type")]
            kind: String,
            description: String,
            in_use: bool,
            shared: bool,
            size: u64,
        }
        let action = "tell its build cache";
        let lost = |source| EngineError::Transient { action: action.to_owned(), source };
        let version = self.read_info().await?.api_version;
        let minor = version.strip_prefix("1.").and_then(|minor| minor.parse().ok());
        let minor = minor.unwrap_or(LAST_OLD_FORM).min(LAST_OLD_FORM);
        let path = format!("/v1.{minor}/system/df?type=build-cache");
        let told = async || self.endpoint.way.get(&path).await.map_err(NotTold);
        let answer =
            retried(OTHERS_ASK, |_, _| {}, told).await.map_err(|NotTold(error)| lost(error))?;
        let usage: Usage = serde_json::from_slice(&answer).map_err(|error| lost(error.into()))?;
        let step = format!("{}/step", step_mounts::MOUNT);
        let all: HashMap<String, Record> = usage
            .build_cache
            .unwrap_or_default()
            .into_iter()
            .filter(|record| !record.in_use && !record.shared && record.kind == "regular")
            .map(|record| (record.id.clone(), record))
            .collect();
        // What is left of an image that is gone: its layers, and what a build put on them before
        // its first step. It holds the layers, and serves nobody any more.
        let of_gone_image = |record: &Record| {
            let mut next = Some(record);
            while let Some(record) = next {
                if is_from_image(&record.description) {
                    return true;
                }
                let put = is_copied_files(&record.description);
                next = record.parent.as_ref().filter(|_| put).and_then(|parent| all.get(parent));
            }
            false
        };
        let free =
            |record: &&Record| is_of_command(&record.description, &step) || of_gone_image(record);
        let records = all.values().filter(free);
        Ok(records.map(|record| (record.id.clone(), record.size)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_id_names_a_layer_with_all_below_it() {
        // From the specification's definition, with coreutils: printf 'sha256:a sha256:b' | sha256sum
        let ids = ["sha256:a", "sha256:b"].map(DiffId::from);
        assert_eq!(chain_ids(&ids), ["sha256:a".to_owned(), Digest::of("sha256:a sha256:b").oci()]);
    }
}
