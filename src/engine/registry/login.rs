//! How a registry wants to know who asks: nobody, a name with a password, or a token of its service.
//!
//! The challenge comes with the first answer; tokens are for one repository and one kind of access,
//! and are kept while they last.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use docker_credential::DockerCredential;
use http_auth::parser::ChallengeParser;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;

use super::answer::Answer;
use super::failed::Failed;

/// How long a token lasts whose service does not say it.
const LASTS: u64 = 60;

/// How long before its end a token is not used any more.
const MARGIN: Duration = Duration::from_secs(10);

/// What a registry wants before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Nothing, or nothing that is known here.
    None,
    /// A name and a password with each request.
    Basic,
    /// A token of a service.
    Bearer {
        /// Where the service is.
        realm: String,
        /// What it calls the registry.
        service: Option<String>,
    },
}

impl Challenge {
    /// Reads the challenge of an answer: a token is preferred, as Docker does.
    pub(super) fn of(headers: &HeaderMap) -> Challenge {
        let mut found = Challenge::None;
        for header in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = header.to_str() else { continue };
            for challenge in ChallengeParser::new(text).map_while(Result::ok) {
                let parameter = |name: &str| {
                    let mut parameters = challenge.params.iter();
                    let found = parameters.find(|(known, _)| known.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = parameter("realm")
                {
                    return Challenge::Bearer { realm, service: parameter("service") };
                }
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    found = Challenge::Basic;
                }
            }
        }
        found
    }
}

/// What a registry gave, by what it is for.
#[derive(Debug, Default)]
pub(super) struct Login {
    /// What it wants; not known before the first answer.
    pub challenge: Option<Challenge>,
    tokens: HashMap<String, Token>,
}

#[derive(Debug)]
struct Token {
    text: String,
    until: Instant,
}

#[derive(Deserialize)]
pub(super) struct Granted {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Login {
    /// Tells whether a challenge that came with a refusal is worth another try; `kept` tells whether
    /// the request was made with a token of an earlier one.
    pub(super) fn is_news(&self, challenge: &Challenge, has_credential: bool, kept: bool) -> bool {
        let other = self.challenge.as_ref() != Some(challenge);
        match challenge {
            Challenge::None => false,
            Challenge::Basic => has_credential && other,
            Challenge::Bearer { .. } => kept || other,
        }
    }

    /// Takes a challenge that came with a refusal; what was granted before does not hold.
    pub(super) fn challenged(&mut self, challenge: Challenge) {
        self.challenge = Some(challenge);
        self.tokens.clear();
    }

    /// Adds to a request what the registry wants for it; tells whether that is a token of an earlier
    /// request.
    pub(super) async fn authorise(
        &mut self,
        client: &Client,
        credential: Option<&DockerCredential>,
        scope: &str,
        request: RequestBuilder,
    ) -> Result<(RequestBuilder, bool), Failed> {
        match (&self.challenge, credential) {
            (Some(Challenge::Bearer { realm, service }), _) => {
                let known = self.tokens.get(scope).filter(|token| token.until > Instant::now());
                if let Some(token) = known {
                    return Ok((request.bearer_auth(&token.text), true));
                }
                let token = fetch(client, realm, service.as_deref(), scope, credential).await?;
                let request = request.bearer_auth(&token.text);
                self.tokens.insert(scope.to_owned(), token);
                Ok((request, false))
            }
            (Some(Challenge::Basic), Some(DockerCredential::UsernamePassword(name, password))) => {
                Ok((request.basic_auth(name, Some(password)), false))
            }
            (Some(Challenge::Basic), Some(DockerCredential::IdentityToken(token))) => {
                Ok((request.bearer_auth(token), false))
            }
            _ => Ok((request, false)),
        }
    }
}

/// Asks a service for a token.
async fn fetch(
    client: &Client,
    realm: &str,
    service: Option<&str>,
    scope: &str,
    credential: Option<&DockerCredential>,
) -> Result<Token, Failed> {
    let service = service.map(|service| ("service", service));
    // A question has each scope for itself, and a form of OAuth 2 all in one.
    let question = || scope.split(' ').map(|one| ("scope", one)).chain(service).collect::<Vec<_>>();
    let request = match credential {
        // What `docker login` keeps of Azure's and others' services.
        Some(DockerCredential::IdentityToken(token)) => {
            let mut form = vec![("scope", scope)];
            form.extend(service);
            form.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "imgforge"),
                ("refresh_token", token),
            ]);
            client.post(realm).form(&form)
        }
        Some(DockerCredential::UsernamePassword(name, password)) => {
            client.get(realm).query(&question()).basic_auth(name, Some(password))
        }
        None => client.get(realm).query(&question()),
    };
    let response = request.send().await.map_err(Failed::Request)?;
    if !response.status().is_success() {
        return Err(Failed::Answer(Answer::read(response).await));
    }
    let granted: Granted = response.json().await.map_err(Failed::Request)?;
    let text = granted.token.or(granted.access_token).ok_or(Failed::Form("a token"))?;
    let lasts = Duration::from_secs(granted.expires_in.unwrap_or(LASTS));
    Ok(Token { text, until: Instant::now() + lasts.saturating_sub(MARGIN) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[&str]) -> Challenge {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(WWW_AUTHENTICATE, header.parse().unwrap());
        }
        Challenge::of(&map)
    }

    #[test]
    fn challenges_of_registries_are_read() {
        let bearer = |realm: &str, service: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        };
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#;
        assert_eq!(of(&[hub]), bearer("https://auth.docker.io/token", Some("registry.docker.io")));
        let both = [r#"Basic realm="r""#, r#"bearer realm="https://a/t""#];
        assert_eq!(of(&both), bearer("https://a/t", None));
        assert_eq!(of(&[r#"BASIC realm="Sonatype Nexus""#]), Challenge::Basic);
        assert_eq!(of(&["Negotiate"]), Challenge::None);
        assert_eq!(of(&[]), Challenge::None);
    }
}
