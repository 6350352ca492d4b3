//! A registry as a client sees it: requests with what it wants to know of who asks, and pauses that
//! hold for all that ask it.
//!
//! `oci-client` hides what decides here: the status of an answer with a document, what a token
//! service answers, and `Retry-After`. The few requests of the protocol are made here.

use std::sync::Mutex;
use std::time::Duration;

use docker_credential::DockerCredential;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use tokio::time::Instant;

use crate::causes::in_one_line;

use super::super::reference;
use super::answer::Answer;
use super::failed::Failed;
use super::login::{Challenge, Login};

/// Registries without TLS, separated by commas, beside those on this machine.
const INSECURE: &str = "IMGFORGE_INSECURE_REGISTRIES";

/// The longest pause of one that holds for the others too.
const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// A registry, and who asks it.
pub(crate) struct Registry {
    /// As references name it.
    name: String,
    /// Where its API is, without a slash at the end.
    api: String,
    client: Client,
    credential: Option<DockerCredential>,
    login: tokio::sync::Mutex<Login>,
    /// When it may be asked again.
    hold: Mutex<Option<Instant>>,
}

impl Registry {
    /// Makes a client of a registry; nothing is asked yet.
    ///
    /// # Errors
    /// A client cannot be made: the authorities that the host names cannot be read.
    pub(crate) fn new(
        name: &str,
        credential: Option<DockerCredential>,
    ) -> Result<Registry, String> {
        let builder = crate::http::client().map_err(|error| in_one_line(&error))?;
        // Blobs come as they are stored: their digests are of those bytes.
        let client = builder.no_gzip().build().map_err(|error| in_one_line(&error))?;
        // Docker Hub's API has a host of its own.
        let host = if name == "docker.io" { "index.docker.io" } else { name };
        let bare = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => host.split(':').next().unwrap_or(host),
        };
        let listed = std::env::var(INSECURE).unwrap_or_default();
        let plain = matches!(bare, "localhost" | "127.0.0.1" | "::1")
            || listed
                .split(',')
                .any(|insecure| reference::place(insecure).is_ok_and(|insecure| insecure == name));
        let scheme = if plain { "http" } else { "https" };
        Ok(Registry {
            name: name.to_owned(),
            api: format!("{scheme}://{host}/v2"),
            client,
            credential,
            login: tokio::sync::Mutex::default(),
            hold: Mutex::new(None),
        })
    }

    /// Returns its name in references.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the address of something in a repository.
    pub(super) fn url(&self, repository: &str, rest: &str) -> String {
        format!("{}/{repository}/{rest}", self.api)
    }

    /// Resolves an address, such as the `Location` of an answer.
    pub(super) fn resolve(&self, location: &str) -> Result<Url, Failed> {
        let api = Url::parse(&self.api).map_err(|_| Failed::Form("an address"))?;
        api.join(location).map_err(|_| Failed::Form("a location"))
    }

    /// Tells whether a URL is the registry's own: nobody else gets credentials.
    fn is_own(&self, url: &Url) -> bool {
        Url::parse(&self.api).is_ok_and(|api| api.origin() == url.origin())
    }

    /// Makes a request for `scope`, such as `repository:a/b:pull` or several with spaces between them, and
    /// returns a success. It is sent a
    /// second time where the registry wants another token.
    pub(super) async fn send(
        &self,
        scope: &str,
        method: Method,
        url: &str,
        with: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Failed> {
        self.greet().await?;
        let url = self.resolve(url)?;
        let make = || with(self.client.request(method.clone(), url.clone()));
        let (mut response, kept) = self.send_once(scope, &url, make()).await?;
        if response.status() == StatusCode::UNAUTHORIZED && self.is_own(&url) {
            let challenge = Challenge::of(response.headers());
            // A token that ran out, or a challenge that comes with the image only.
            if self.login.lock().await.is_news(&challenge, self.credential.is_some(), kept) {
                self.login.lock().await.challenged(challenge);
                response = self.send_once(scope, &url, make()).await?.0;
            }
        }
        self.success(response).await
    }

    /// Sends a body that cannot be sent twice, to an address that the registry gave.
    pub(super) async fn send_body(
        &self,
        scope: &str,
        url: Url,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Failed> {
        let request = with(self.client.put(url.clone()));
        let (response, _) = self.send_once(scope, &url, request).await?;
        self.success(response).await
    }

    async fn success(&self, response: Response) -> Result<Response, Failed> {
        if response.status().is_success() {
            return Ok(response);
        }
        let answer = Answer::read(response).await;
        if let Some(wait) = answer.wait {
            let until = Instant::now() + wait.min(LONGEST_HOLD);
            let mut hold = self.hold.lock().expect("no holder panics");
            *hold = Some(hold.map_or(until, |known| known.max(until)));
        }
        Err(Failed::Answer(answer))
    }

    /// Asks what the registry wants, once.
    async fn greet(&self) -> Result<(), Failed> {
        let mut login = self.login.lock().await;
        if login.challenge.is_some() {
            return Ok(());
        }
        let url = format!("{}/", self.api);
        let response = self.raw(self.client.get(url)).await?;
        match response.status().as_u16() {
            429 | 500.. => self.success(response).await.map(drop),
            _ => {
                login.challenge = Some(Challenge::of(response.headers()));
                Ok(())
            }
        }
    }

    async fn send_once(
        &self,
        scope: &str,
        url: &Url,
        request: RequestBuilder,
    ) -> Result<(Response, bool), Failed> {
        // Uploads go where the registry says, which may be another host: that gets no credentials.
        if !self.is_own(url) {
            return self.raw(request).await.map(|response| (response, false));
        }
        let mut login = self.login.lock().await;
        let credential = self.credential.as_ref();
        let (request, kept) = login.authorise(&self.client, credential, scope, request).await?;
        drop(login);
        self.raw(request).await.map(|response| (response, kept))
    }

    /// Sends a request when the registry may be asked.
    async fn raw(&self, request: RequestBuilder) -> Result<Response, Failed> {
        loop {
            let until = *self.hold.lock().expect("no holder panics");
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => break,
            }
        }
        match request.send().await {
            Ok(response) => Ok(response),
            Err(error) if error.is_connect() && self.has_no_host().await => Err(Failed::NoHost),
            Err(error) => Err(Failed::Request(error)),
        }
    }

    /// Tells whether the resolver knows that there is no such host; one that is busy says so.
    async fn has_no_host(&self) -> bool {
        if crate::proxy::leads_to(&self.api) {
            return false;
        }
        let Some(host) = self.resolve("").ok().and_then(|url| url.host_str().map(str::to_owned))
        else {
            return true;
        };
        let looked_up = tokio::task::spawn_blocking(move || {
            dns_lookup::getaddrinfo(Some(&host), None, None).map(drop)
        });
        let looked_up = looked_up.await.expect("looking up a host does not panic");
        looked_up.is_err_and(|error| matches!(error.kind(), dns_lookup::LookupErrorKind::NoName))
    }
}
