//! The steps that change files: `RUN`, `COPY`, `ADD`, `WORKDIR`.

use std::path::PathBuf;

use serde_json::json;

use crate::engine::{EngineError, Quotas, Result, step_mounts};
use crate::file_lock::FileLock;
use crate::key::{DiffId, Digest};

use super::super::capabilities::DEFAULT;
use super::super::containers::with_path;
use super::super::layers::LayerSink;
use super::super::layout::file_error;
use super::super::protocol::{Bind, Container, CopySource, Ends, Limits, Network, Operation, Root};
use super::super::snapshots::Snapshots;
use super::super::{EmbeddedEngine, FILE_TIME, protocol};
use super::stage::{CopySpec, Mount, Run, Step, Variables};
use super::{ACTION, Building, Built, refused};

impl EmbeddedEngine {
    pub(super) async fn run_step(
        &self,
        building: &Building<'_>,
        built: &mut Built,
        run: &Run,
        variables: &Variables,
        text: &str,
        later: &[Step],
    ) -> Result<()> {
        let env = variables.environment();
        let keep = keep(later);
        let config = built.config.clone();
        let mounted = run.mounts.iter().any(|mount| matches!(mount, Mount::Bind { .. }));
        let key = json!({
            "below": built.diff_ids(),
            "context": mounted.then(|| building.context.digest()).transpose()?,
            "env": env,
            "given": building.host_inputs_digest,
            "keep": keep,
            "mounts": format!("{:?}", run.mounts),
            "platform": building.request.platform,
            "program": run.program,
            "user": &config.user,
            "words": run.words,
            "working_dir": &config.working_dir,
        });
        if self.take_known(&key, built, building)? {
            return Ok(());
        }
        let (binds, _locks) = self.binds(building, run).await?;
        let mut words = run.words.clone();
        if let Some(program) = &run.program {
            let name = format!("program-{}", Digest::of(program));
            super::write(&building.host.path().join(&name), program.as_bytes(), true)?;
            words = vec![format!("{}/{name}", step_mounts::MOUNT)];
        }
        let step = format!("{}/step", step_mounts::MOUNT);
        let mut command = vec!["/bin/sh".to_owned(), step, keep];
        command.append(&mut words);
        let root = self.snapshots.root(Snapshots::lowers(&built.diff_ids()), false)?;
        let scratch = Scratch { engine: self, path: self.snapshots.scratch(&root) };
        let since = tokio::task::block_in_place(|| self.snapshots.now())?;
        let network = match building.request.host.network.as_deref() {
            Some("none") => Network::None,
            _ => Network::Host,
        };
        let container = Container {
            root: root.clone(),
            command,
            env: with_path(&env),
            working_dir: config.working_dir,
            user: config.user,
            network,
            loopback_names: Vec::new(),
            binds,
            files: Vec::new(),
            capabilities: DEFAULT,
            no_new_privileges: false,
            ends: Ends::Log,
            limits: Limits::default(),
            quotas: Quotas::default(),
            settings: crate::engine::SessionSettings::default(),
        };
        let ended = self.helper_client.run(container, &[], None, building.log, None).await?;
        if ended.code != 0 {
            return Err(EngineError::Step { step: text.to_owned(), code: ended.code });
        }
        self.commit(&key, &root, since, built)?;
        drop(scratch);
        Ok(())
    }

    pub(super) async fn copy_step(
        &self,
        building: &Building<'_>,
        built: &mut Built,
        copy: &CopySpec,
        from: Option<&Built>,
    ) -> Result<()> {
        let source = match from {
            Some(stage) => json!(stage.diff_ids()),
            None if copy.sources.is_empty() => json!(null),
            None => json!(building.context.digest()?),
        };
        let key = json!({
            "below": built.diff_ids(),
            "destination": copy.destination,
            "mode": copy.mode,
            "owner": copy.owner,
            "platform": building.request.platform,
            "source": source,
            "sources": copy.sources,
            "unpack": copy.unpack,
        });
        if self.take_known(&key, built, building)? {
            return Ok(());
        }
        let root = self.snapshots.root(Snapshots::lowers(&built.diff_ids()), false)?;
        let scratch = Scratch { engine: self, path: self.snapshots.scratch(&root) };
        let since = tokio::task::block_in_place(|| self.snapshots.now())?;
        let from = match from {
            None => CopySource::Directory(building.context.path().to_owned()),
            Some(stage) => CopySource::Layers(Snapshots::lowers(&stage.diff_ids())),
        };
        let work = Operation::Copy(Box::new(protocol::Copy {
            root: root.clone(),
            from,
            sources: copy.sources.clone(),
            destination: copy.destination.clone(),
            owner: copy.owner.clone(),
            mode: copy.mode,
            time: FILE_TIME,
            unpack: copy.unpack,
        }));
        let copied = tokio::task::block_in_place(|| self.helper_client.call(work, None, None));
        self.snapshots.prove(&root)?;
        copied?;
        self.commit(&key, &root, since, built)?;
        drop(scratch);
        Ok(())
    }

    /// Packs what a step changed, keeps it, and adds it to what is built.
    fn commit(
        &self,
        key: &serde_json::Value,
        root: &Root,
        since: i128,
        built: &mut Built,
    ) -> Result<()> {
        tokio::task::block_in_place(|| {
            let mut sink = LayerSink::new(self.layout.writer()?);
            let packed = self.snapshots.pack(root, since, &mut sink);
            self.snapshots.prove(root)?;
            packed?;
            let changed = sink.size > EMPTY_TAR;
            let (diff_id, writer, size) = sink.finish()?;
            let diff_id = if changed {
                let (diff_id, descriptor) = self.keep_layer(&diff_id, writer, size)?;
                self.snapshots.keep(root, &diff_id)?;
                built.layers.push((diff_id.clone(), descriptor));
                diff_id
            } else {
                DiffId::default()
            };
            let path = self.step_record(key);
            crate::atomic::write(&path, diff_id.as_str().as_bytes(), false)
                .map_err(file_error("remember a step", &path))
        })
    }

    /// Takes the layer of a step that was done before.
    fn take_known(
        &self,
        key: &serde_json::Value,
        built: &mut Built,
        building: &Building<'_>,
    ) -> Result<bool> {
        if building.request.no_cache {
            return Ok(false);
        }
        let Ok(text) = std::fs::read_to_string(self.step_record(key)) else { return Ok(false) };
        let diff_id = DiffId::from(text);
        if !diff_id.is_empty() {
            if !self.snapshots.has(&diff_id) {
                return Ok(false);
            }
            let Some(layer) = self.known_layer(&diff_id)? else { return Ok(false) };
            built.layers.push((diff_id, layer));
        }
        building.log.write(b" ---> Using cache\n");
        Ok(true)
    }

    fn step_record(&self, key: &serde_json::Value) -> PathBuf {
        self.dir.join("steps").join(Digest::of(key.to_string()).to_string())
    }

    /// Makes what is mounted in a step, and takes the locks of its caches.
    async fn binds(
        &self,
        building: &Building<'_>,
        run: &Run,
    ) -> Result<(Vec<Bind>, Vec<FileLock>)> {
        let bind = |source: PathBuf, target: &str, read_only| Bind {
            source: Some(source),
            target: target.to_owned(),
            read_only,
        };
        let mut binds = vec![
            bind(building.host.path().to_owned(), step_mounts::MOUNT, true),
            bind(self.cache("packages")?, step_mounts::CACHE, false),
        ];
        let mut locks = Vec::new();
        for mount in &run.mounts {
            match mount {
                Mount::Cache { id, target, locked } => {
                    let name = Digest::of(id).to_string();
                    if *locked {
                        let path = self.dir.join("cache").join(format!("{name}.lock"));
                        let lock = super::super::blocking(move || {
                            FileLock::take(&path).map_err(file_error("lock a cache", &path))
                        });
                        locks.push(lock.await?);
                    }
                    binds.push(bind(self.cache(&name)?, target, false));
                }
                Mount::Bind { source, target } => {
                    let path = building.context.path().join(source);
                    if !path.exists() {
                        return Err(refused(format!("there is no `{source}` to mount")));
                    }
                    binds.push(bind(path, target, true));
                }
                Mount::Tmpfs { target } => {
                    binds.push(Bind { source: None, target: target.clone(), read_only: false });
                }
                Mount::Secret { id, target, required } => {
                    match building.request.host.secrets.get(id) {
                        Some(path) => {
                            let path = path.canonicalize().map_err(file_error(ACTION, path))?;
                            binds.push(bind(path, target, true));
                        }
                        None if *required => {
                            return Err(refused(format!("the secret `{id}` is not given")));
                        }
                        None => {}
                    }
                }
            }
        }
        Ok((binds, locks))
    }

    /// Returns the directory of a cache, which everybody in a container may write.
    fn cache(&self, name: &str) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.dir.join("cache").join(name);
        if !path.exists() {
            std::fs::create_dir_all(&path).map_err(file_error(ACTION, &path))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o1777))
                .map_err(file_error(ACTION, &path))?;
        }
        Ok(path)
    }
}

/// Bytes of a tar without entries.
const EMPTY_TAR: u64 = 1024;

/// Removes the directory of a container that is done, or was given up.
struct Scratch<'a> {
    engine: &'a EmbeddedEngine,
    path: PathBuf,
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // What cannot be removed now is found by the next clean-up.
        let _ = self.engine.snapshots.remove(&[std::mem::take(&mut self.path)]);
    }
}

/// Says what the files of a step are needed for in the steps after it.
fn keep(later: &[Step]) -> String {
    let mut keep = Vec::new();
    if later.iter().any(|next| next.mentions("/tmp")) {
        keep.push("tmp");
    }
    let installs = |next: &&Step| next.runs() && next.mentions("apt");
    if later.iter().filter(installs).any(|next| !next.mentions("update")) {
        keep.push("lists");
    }
    if keep.is_empty() { "nothing".to_owned() } else { keep.join(",") }
}
