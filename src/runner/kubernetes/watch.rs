//! The one watch of a run. Each evaluation waits for its own pod on a channel; nothing is polled.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::Api;
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The first and the longest pause before a watch that failed is begun again. Meanwhile nothing is heard of
/// any pod.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(5);

/// Pauses that double, until an event comes.
struct Pauses(Duration);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        Some(pause.mul_f64(rand::random_range(1.0..1.25)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = FIRST;
    }
}

/// What a watch told last of a pod.
#[derive(Debug, Clone, Default)]
pub(super) enum Told {
    /// Nothing yet.
    #[default]
    Nothing,
    /// The pod.
    Pod(Arc<Pod>),
    /// It is gone; the pod as it was before.
    Gone(Option<Arc<Pod>>),
}

impl Told {
    fn pod(&self) -> Option<Arc<Pod>> {
        match self {
            Told::Nothing => None,
            Told::Pod(pod) => Some(pod.clone()),
            Told::Gone(pod) => pod.clone(),
        }
    }
}

struct Entry {
    sender: watch::Sender<Told>,
    /// The list that was begun last when the server said that it has the pod: a later one has it, or it
    /// is gone.
    since: Option<u64>,
}

#[derive(Default)]
struct Known {
    /// The number of the list that was begun last.
    list: u64,
    pods: HashMap<String, Entry>,
    /// The pods of the list that is under way.
    listed: HashMap<String, Arc<Pod>>,
    /// Why the watch does not go on, where it does not.
    trouble: Option<String>,
}

/// The watch of the pods of an owner; it ends when it is dropped.
pub(super) struct Watch {
    known: Arc<Mutex<Known>>,
    task: JoinHandle<()>,
}

/// A pod that is watched for, as long as this lives.
pub(super) struct Watched {
    known: Arc<Mutex<Known>>,
    name: String,
    pub told: watch::Receiver<Told>,
}

impl Watch {
    /// Starts to watch the pods with a label.
    pub(super) fn start(pods: Api<Pod>, label: &str) -> Watch {
        let known = Arc::new(Mutex::new(Known::default()));
        // The server closes a watch after a while; what comes after it goes on from the last version.
        let config = watcher::Config::default().labels(label).timeout(290);
        let seen = known.clone();
        let task = tokio::spawn(async move {
            let mut events = pin!(watcher(pods, config).backoff(Pauses(FIRST)));
            while let Some(event) = events.next().await {
                let mut known = seen.lock().expect("no holder panics");
                match event {
                    Ok(event) => known.take(event),
                    Err(error) => known.trouble = Some(error.to_string()),
                }
            }
        });
        Watch { known, task }
    }

    /// Watches for a pod from now on, before it is created.
    pub(super) fn pod(&self, name: &str) -> Watched {
        let (sender, told) = watch::channel(Told::Nothing);
        let mut known = self.known.lock().expect("no holder panics");
        known.pods.insert(name.to_owned(), Entry { sender, since: None });
        Watched { known: self.known.clone(), name: name.to_owned(), told }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watched {
    /// Takes note that the server has the pod: a list that is begun from now on has it.
    pub(super) fn created(&self) {
        let mut known = self.known.lock().expect("no holder panics");
        let list = known.list;
        if let Some(entry) = known.pods.get_mut(&self.name) {
            entry.since = Some(list);
        }
    }

    /// Returns why nothing is heard, where the watch itself is in trouble.
    pub(super) fn trouble(&self) -> Option<String> {
        self.known.lock().expect("no holder panics").trouble.clone()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.known.lock().expect("no holder panics").pods.remove(&self.name);
    }
}

impl Known {
    fn take(&mut self, event: watcher::Event<Pod>) {
        self.trouble = None;
        match event {
            watcher::Event::Init => {
                self.list += 1;
                self.listed.clear();
            }
            watcher::Event::InitApply(pod) => {
                self.listed.insert(pod.name_any(), Arc::new(pod));
            }
            watcher::Event::InitDone => self.take_list(),
            watcher::Event::Apply(pod) => {
                if let Some(entry) = self.pods.get(&pod.name_any()) {
                    entry.sender.send_replace(Told::Pod(Arc::new(pod)));
                }
            }
            watcher::Event::Delete(pod) => {
                if let Some(entry) = self.pods.get(&pod.name_any()) {
                    entry.sender.send_replace(Told::Gone(Some(Arc::new(pod))));
                }
            }
        }
    }

    /// Takes a list that is whole: what it lacks is gone.
    fn take_list(&mut self) {
        let listed = std::mem::take(&mut self.listed);
        for (name, entry) in &self.pods {
            match listed.get(name) {
                Some(pod) => {
                    entry.sender.send_replace(Told::Pod(pod.clone()));
                }
                None if entry.since.is_some_and(|since| since < self.list) => {
                    let before = entry.sender.borrow().pod();
                    entry.sender.send_replace(Told::Gone(before));
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn named(name: &str) -> Pod {
        let mut pod = testing::pod();
        pod.metadata.name = Some(name.to_owned());
        pod
    }

    fn watched(known: &Arc<Mutex<Known>>, name: &str) -> Watched {
        let (sender, told) = watch::channel(Told::Nothing);
        let entry = Entry { sender, since: None };
        known.lock().unwrap().pods.insert(name.to_owned(), entry);
        Watched { known: known.clone(), name: name.to_owned(), told }
    }

    #[test]
    fn what_a_list_lacks_is_gone_unless_it_was_made_meanwhile() {
        let known = Arc::new(Mutex::new(Known::default()));
        let take = |event| known.lock().unwrap().take(event);
        let (old, late) = (watched(&known, "old"), watched(&known, "late"));
        old.created();
        take(watcher::Event::Init);
        // The server made it after it began to list.
        late.created();
        take(watcher::Event::InitDone);
        assert!(matches!(*old.told.borrow(), Told::Gone(None)));
        assert!(matches!(*late.told.borrow(), Told::Nothing));
        take(watcher::Event::Init);
        take(watcher::Event::InitApply(named("late")));
        take(watcher::Event::InitDone);
        assert!(matches!(*late.told.borrow(), Told::Pod(_)));
        take(watcher::Event::Init);
        take(watcher::Event::InitDone);
        assert!(matches!(*late.told.borrow(), Told::Gone(Some(_))));
    }

    #[test]
    fn a_pod_that_nobody_waits_for_is_passed_by() {
        let known = Arc::new(Mutex::new(Known::default()));
        drop(watched(&known, "one"));
        let other = watched(&known, "two");
        known.lock().unwrap().take(watcher::Event::Apply(named("one")));
        assert!(matches!(*other.told.borrow(), Told::Nothing));
        known.lock().unwrap().take(watcher::Event::Delete(named("two")));
        assert!(matches!(*other.told.borrow(), Told::Gone(Some(_))));
        assert_eq!(known.lock().unwrap().pods.len(), 1);
    }
}
