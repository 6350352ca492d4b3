//! Whether pods without a network have none. A NetworkPolicy that the cluster does not enforce is taken
//! by the API server all the same, so it is tried.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::engine::{EngineError, LogSink, NoLog, Quotas, Result, SandboxEnd, SandboxRequest};
use crate::quote::shell_quote;
use crate::runner::Tests;

use super::client::Server;
use super::run;
use super::shared::Shared;

/// What is tried beside the API server: a resolver and a web server of the internet.
const OUTSIDE: [(&str, u16); 2] = [("8.8.8.8", 53), ("1.1.1.1", 443)];

/// The exit code where something answered.
const CONNECTED: i64 = 10;

/// The policy that a namespace needs.
pub(super) const POLICY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: imgforge-none}
spec: {podSelector: {matchLabels: {dev.imgforge.network: none}}, policyTypes: [Ingress, Egress]}
";

/// What is printed.
#[derive(Default)]
pub(super) struct Kept(Mutex<Vec<u8>>);

impl LogSink for Kept {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().expect("no holder panics").extend_from_slice(bytes);
    }
}

/// Runs a pod that must reach nothing; returns what it reached, empty where that is nothing.
///
/// # Errors
/// It did not come to its end.
pub(super) async fn reached(shared: &Arc<Shared>, tests: &Tests<'_>) -> Result<String> {
    let (image, labels) = (tests.request.image.clone(), tests.request.labels.clone());
    let request = SandboxRequest {
        memory: Some(256 << 20),
        quotas: Quotas { log: Some(1 << 20), ..Quotas::default() },
        ..run::request_of(image, probe(&shared.server), Duration::from_secs(60), labels)
    };
    (tests.tell)("try whether pods without a network have none".to_owned());
    let output = Kept::default();
    let canary = Tests { request: &request, ..*tests };
    let ended = run::run(shared, &canary, &output, &NoLog).await?;
    let code = match ended {
        SandboxEnd::Exited(code) => code,
        _ => -1,
    };
    judge(code, &output)
}

/// Returns the script that tries what a pod reaches.
pub(super) fn probe(server: &Server) -> String {
    let outside = OUTSIDE.map(|(host, port)| (host.to_owned(), port));
    script(server.place.clone().into_iter().chain(outside))
}

/// Returns what was reached, by the end of the script; empty where that is nothing.
///
/// # Errors
/// It did not come to its end.
pub(super) fn judge(code: i64, output: &Kept) -> Result<String> {
    let printed = output.0.lock().expect("no holder panics");
    let printed = String::from_utf8_lossy(&printed).trim().to_owned();
    match code {
        0 => Ok(String::new()),
        CONNECTED => Ok(printed.replace('\n', ", ")),
        other => Err(EngineError::Refused {
            action: "try whether pods without a network have none".to_owned(),
            reason: format!("the script that tries it ended otherwise ({other}): {printed}"),
        }),
    }
}

/// Makes the script: it ends with 0 where nothing answers, within 3 s a place.
fn script(places: impl Iterator<Item = (String, u16)>) -> String {
    let mut text = "c=0\n\
        try() { timeout 3 /bin/bash -c 'exec 3<>\"/dev/tcp/$0/$1\"' \"$1\" \"$2\" 2>/dev/null || return 0\n\
        echo \"$1:$2\"; c=10; }\n\
        [ -x /bin/bash ] || { echo 'the image has no /bin/bash'; exit 11; }\n\
        [ -z \"$KUBERNETES_SERVICE_HOST\" ] || try \"$KUBERNETES_SERVICE_HOST\" \"$KUBERNETES_SERVICE_PORT\"\n"
        .to_owned();
    for (host, port) in places {
        text.push_str(&format!("try {} {port}\n", shell_quote(&host)));
    }
    text.push_str("exit $c\n");
    text
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;

    use super::*;

    fn run(places: Vec<(String, u16)>) -> (Option<i32>, String) {
        let text = script(places.into_iter());
        let ended = Command::new("/bin/sh").arg("-c").arg(text).output().unwrap();
        (ended.status.code(), String::from_utf8(ended.stdout).unwrap())
    }

    #[test]
    fn what_answers_is_told_and_what_does_not_is_no_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap().port();
        let closed = {
            let other = TcpListener::bind("127.0.0.1:0").unwrap();
            other.local_addr().unwrap().port()
        };
        let place = |port| ("127.0.0.1".to_owned(), port);
        assert_eq!(run(vec![place(closed)]), (Some(0), String::new()));
        let (code, said) = run(vec![place(closed), place(open)]);
        assert_eq!((code, said.as_str()), (Some(10), &*format!("127.0.0.1:{open}\n")));
    }
}
