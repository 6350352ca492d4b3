//! Requests to the API server: each is made again where its failure may pass.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, ObjectList, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, Semaphore};

use crate::causes::causes;
use crate::engine::{EngineError, Result};
use crate::retry::{Passing, Tries, retried};

use super::config::Settings;

/// How often a request is made that fails for a reason that may pass.
const TRIES: Tries = Tries { attempts: 8, first: Duration::from_millis(500) };

/// How long a request may take.
const ANSWER: Duration = Duration::from_secs(60);

/// Pods and Secrets that are made, deleted and fetched from at once. One bound for all of them would be
/// held up by creations that wait for deletions.
const CREATES: usize = 16;
const DELETES: usize = 8;
const FETCHES: usize = 8;

/// The API server, for one namespace.
pub(super) struct Server {
    pub client: Client,
    pub namespace: String,
    /// Where it is, as people are told.
    pub address: String,
    /// Its host and port.
    pub place: Option<(String, u16)>,
    pub creates: Semaphore,
    pub deletes: Semaphore,
    pub fetches: Semaphore,
    /// Told of each pod that is deleted: a quota has room then.
    pub freed: Notify,
}

/// Why no cluster can be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No kubeconfig says where the cluster is, and this is no pod.
    #[error("no cluster is known: {0}")]
    NoConfig(String),
    /// The API server does not answer, or does not let us.
    #[error("the API server `{address}` does not {action}: {reason}")]
    Server {
        /// Where it is.
        address: String,
        /// What was asked of it.
        action: String,
        /// Its answer.
        reason: String,
        /// Whether it answered, and refused.
        denied: bool,
    },
}

impl ClusterError {
    /// Returns what would help.
    pub fn hint(&self) -> String {
        match self {
            ClusterError::NoConfig(_) => {
                "KUBECONFIG names the file that kubectl uses, --kube-context one of its contexts"
            }
            ClusterError::Server { denied: true, .. } => {
                "give the user the Role of docs/kubernetes.md in this namespace"
            }
            ClusterError::Server { denied: false, .. } => {
                "look whether `kubectl get pods` answers with the same context and namespace"
            }
        }
        .to_owned()
    }
}

/// A failed request.
#[derive(Debug)]
pub(super) enum Failure {
    Server(kube::Error),
    NoAnswer,
}

impl Failure {
    /// Returns the status that the server answered with.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Failure::Server(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Tells whether the server says that a quota is full.
    pub(super) fn is_quota(&self) -> bool {
        self.code() == Some(403) && self.text().contains("exceeded quota")
    }

    pub(super) fn text(&self) -> String {
        match self {
            Failure::Server(kube::Error::Api(status)) => status.message.clone(),
            Failure::Server(error) => {
                let mut texts = vec![error.to_string()];
                texts.extend(causes(error).map(ToString::to_string));
                texts.dedup();
                texts.join(": ")
            }
            Failure::NoAnswer => format!("no answer for {} s", ANSWER.as_secs()),
        }
    }

    /// Makes the error of a request for a pod.
    pub(super) fn into_error(self, action: &str) -> EngineError {
        let action = action.to_owned();
        let reason = self.text();
        match self.code() {
            Some(code) if !(code == 408 || code == 429 || code >= 500) => {
                EngineError::Refused { action, reason: format!("{reason} (status {code})") }
            }
            _ => EngineError::Transient { action, source: reason.into() },
        }
    }

    fn into_cluster_error(self, server: &Server, action: &str) -> ClusterError {
        ClusterError::Server {
            address: server.address.clone(),
            action: action.to_owned(),
            reason: self.text(),
            denied: self.code().is_some_and(|code| code < 500),
        }
    }
}

impl Passing for Failure {
    fn may_pass(&self) -> bool {
        match self {
            Failure::NoAnswer => true,
            Failure::Server(kube::Error::Api(status)) => {
                status.code == 408 || status.code == 429 || status.code >= 500
            }
            Failure::Server(error) => matches!(
                error,
                kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_)
            ),
        }
    }

    fn asked_pause(&self) -> Option<Duration> {
        match self {
            Failure::Server(kube::Error::Api(status)) => {
                let seconds = status.details.as_ref()?.retry_after_seconds;
                (seconds > 0).then(|| Duration::from_secs(seconds.into()))
            }
            _ => None,
        }
    }
}

impl Server {
    /// Reads where the cluster is, as kubectl does, and makes the client. Nothing is asked yet.
    ///
    /// # Errors
    /// [`ClusterError::NoConfig`].
    pub(super) async fn connect(settings: &Settings) -> std::result::Result<Server, ClusterError> {
        let options =
            KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
        let no_config = |error: &dyn std::fmt::Display| ClusterError::NoConfig(error.to_string());
        let is_named = settings.context.is_some() || std::env::var_os("KUBECONFIG").is_some();
        let mut config = match read_config(&options).await {
            Ok(config) => config,
            Err(error) if is_named => return Err(no_config(&error)),
            Err(error) => Config::incluster().map_err(|_| no_config(&error))?,
        };
        // A retry is an event here, and never takes minutes in silence.
        config.default_retry = false;
        let namespace = settings.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let address = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let (host, port) = (config.cluster_url.host(), config.cluster_url.port_u16());
        let place = host.map(|host| {
            let port = port.unwrap_or(match config.cluster_url.scheme_str() {
                Some("http") => 80,
                _ => 443,
            });
            (host.trim_matches(['[', ']']).to_owned(), port)
        });
        let client = Client::try_from(config).map_err(|error| no_config(&error))?;
        Ok(Server {
            client,
            namespace,
            address,
            place,
            creates: Semaphore::new(CREATES),
            deletes: Semaphore::new(DELETES),
            fetches: Semaphore::new(FETCHES),
            freed: Notify::new(),
        })
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(super) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(super) fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(super) fn events(&self) -> Api<Event> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Asks the server whether it is there, and lets us look.
    pub(super) async fn check(&self) -> std::result::Result<(), ClusterError> {
        let asked = ListParams::default().limit(1);
        let listed: std::result::Result<ObjectList<Pod>, Failure> =
            request(&|_| {}, || self.list(self.pods(), &asked)).await;
        listed.map(drop).map_err(|failure| {
            let action = format!("list the pods of namespace `{}`", self.namespace);
            failure.into_cluster_error(self, &action)
        })
    }

    async fn list<K>(
        &self,
        api: Api<K>,
        params: &ListParams,
    ) -> std::result::Result<ObjectList<K>, kube::Error>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        api.list(params).await
    }
}

async fn read_config(options: &KubeConfigOptions) -> std::result::Result<Config, KubeconfigError> {
    let file = Kubeconfig::read()?;
    Config::from_custom_kubeconfig(file, options).await
}

/// Makes a request until it is answered, or fails for good; `tell` hears of each failure that may pass.
pub(super) async fn request<T, F>(
    tell: &(dyn Fn(String) + Sync),
    ask: impl Fn() -> F,
) -> std::result::Result<T, Failure>
where
    F: Future<Output = std::result::Result<T, kube::Error>>,
{
    let told = |failure: &Failure, pause: Duration| {
        tell(format!("wait {:.1} s for the API server: {}", pause.as_secs_f64(), failure.text()));
    };
    retried(TRIES, told, || async {
        match tokio::time::timeout(ANSWER, ask()).await {
            Ok(answer) => answer.map_err(Failure::Server),
            Err(_) => Err(Failure::NoAnswer),
        }
    })
    .await
}

/// Creates a thing; what is there by that name is returned with `false`.
pub(super) async fn create<K>(
    api: &Api<K>,
    thing: &K,
    tell: &(dyn Fn(String) + Sync),
) -> std::result::Result<bool, Failure>
where
    K: Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let params = PostParams::default();
    match request(tell, || api.create(&params, thing)).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.code() == Some(409) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Deletes a thing; absent is fine.
pub(super) async fn delete<K>(
    api: &Api<K>,
    name: &str,
    params: &DeleteParams,
) -> std::result::Result<(), Failure>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    match request(&|_| {}, || api.delete(name, params)).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.code() == Some(404) => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// Makes the error of what may go better with another pod.
pub(super) fn lost(action: &str, reason: impl Into<String>) -> EngineError {
    EngineError::Transient { action: action.to_owned(), source: reason.into().into() }
}

/// Turns a failure that keeps a run from beginning into its error.
pub(super) fn cluster_error(server: &Server, action: &str, failure: Failure) -> ClusterError {
    failure.into_cluster_error(server, action)
}

/// The result of a request for a pod.
pub(super) fn of_pod<T>(action: &str, answer: std::result::Result<T, Failure>) -> Result<T> {
    answer.map_err(|failure| failure.into_error(action))
}
