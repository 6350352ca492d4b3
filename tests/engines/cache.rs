//! What the cache manager asks of engines: layers, their room, and who uses them.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex};

use imgforge::engine::{LayerConsumer, Quotas, SandboxNetwork, SandboxRequest};
use imgforge::key::{DiffId, Digest};

use crate::common::{Log, layer, on_every_engine};
use crate::needs::{NotHere, not_here};
use crate::scratch::Scratch;

/// Keeps the digests of the layers that it got.
#[derive(Default)]
struct Digests(Mutex<BTreeMap<DiffId, u64>>);

impl LayerConsumer for Digests {
    fn wants(&self, diff_id: &DiffId) -> bool {
        !self.0.lock().unwrap().contains_key(diff_id)
    }

    fn consume(&self, diff_id: Option<&DiffId>, tar: &mut dyn Read) -> std::io::Result<()> {
        let (found, size) = Digest::of_reader(tar)?;
        assert!(diff_id.is_none_or(|diff_id| *diff_id == found));
        self.0.lock().unwrap().insert(found.into(), size);
        Ok(())
    }
}

#[test]
#[ignore = "needs an engine"]
fn the_layers_of_images_are_given_with_their_bytes_and_their_room() {
    on_every_engine(|bench| async move {
        let scratch = Scratch::new();
        let mut images = Vec::new();
        for name in ["one", "two"] {
            let text = name.repeat(20_000);
            let added = layer(scratch.path(), &[("opt/text", &text)]);
            let request = bench.layer(&bench.base, Some(added), name);
            images.push(bench.engine.load(&request).await.unwrap());
        }
        let digests = Arc::new(Digests::default());
        bench.engine.read_layers(&images, digests.clone()).await.unwrap();
        let given = digests.0.lock().unwrap().clone();
        for image in &images {
            assert!(image.diff_ids.iter().all(|diff_id| given.contains_key(diff_id)));
        }
        let names: Vec<Vec<String>> =
            images.iter().map(|image| bench.engine.layer_storage_ids(&image.diff_ids)).collect();
        let base = bench.base.diff_ids.len();
        assert_eq!(names[0][..base], names[1][..base], "what they share has one name");
        assert_ne!(names[0][base], names[1][base]);
        let bytes = bench.engine.layer_disk_usage(&names[0]).await.unwrap();
        let Some(all) = bytes.iter().copied().collect::<Option<Vec<u64>>>() else {
            return not_here(NotHere::FarEngine);
        };
        assert!(all[base] >= 60_000 && all[base] < 200_000, "{all:?}");
        assert!(all[..base].iter().sum::<u64>() > 50 << 20, "{all:?}");
        let unknown = bench.engine.layer_disk_usage(&["sha256:00".to_owned()]).await.unwrap();
        assert_eq!(unknown, [None]);
    });
}

#[test]
#[ignore = "needs an engine"]
fn the_image_of_a_running_container_is_in_use() {
    on_every_engine(|bench| async move {
        let request = bench.layer(&bench.base, None, "used");
        let image = bench.engine.load(&request).await.unwrap();
        let engine = bench.another_engine().await;
        let name = bench.name("used");
        let running = tokio::spawn(async move {
            let request = SandboxRequest {
                image: name,
                files: Vec::new(),
                command: "sleep 3".to_owned(),
                time_limit: std::time::Duration::from_secs(30),
                memory: None,
                milli_cpus: None,
                pids: None,
                quotas: Quotas::default(),
                network: SandboxNetwork::None,
                loopback_names: Vec::new(),
                variables: BTreeMap::new(),
                labels: BTreeMap::new(),
            };
            engine.run_script(&request, &Log::default(), &Log::default()).await.unwrap();
        });
        let mut used = false;
        while !used && !running.is_finished() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            used = bench.engine.images_in_use().await.unwrap().contains(&image.id);
        }
        // The embedded engine holds the layers of what runs by itself.
        assert_eq!(used, bench.state().is_none());
        bench.engine.prune(true).await.unwrap();
        running.await.unwrap();
    });
}

#[test]
#[ignore = "needs an engine"]
fn several_may_ask_at_once_what_builds_have_left() {
    on_every_engine(|bench| async move {
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let engine = bench.another_engine().await;
            asked.spawn(async move { engine.prune(true).await });
        }
        for pruned in asked.join_all().await {
            pruned.unwrap();
        }
    });
}
