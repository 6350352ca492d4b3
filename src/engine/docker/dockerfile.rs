//! What is added to a Dockerfile at build time, and is in no key: what `RUN` gets from the host,
//! and the end of every `RUN`, which gives the files it made constant times.
//!
//! BuildKit mounts a stage of its own, [`STAGE`], at `/mnt`, caches at `/media`, and for a `COPY` the
//! context at `/srv`: directories that every Linux root has, so that no mount point is left in a
//! layer.

use std::fmt::Write as _;

use crate::catalog::ContextFile;
use crate::engine::HostAccess;
use crate::recipe::dockerfile::normalise;

/// The stage that holds what build steps get from the host.
const STAGE: &str = "imgforge-host";

/// Where the files of [`STAGE`] are in the context.
const CONTEXT: &str = ".imgforge-host";

/// The time of files that a step made: 2020-01-01.
const FILE_TIME: u64 = 1_577_836_800;

/// Runs a step and then evens out what differs from run to run. GNU `find` is needed for that;
/// without it the step still runs.
///
/// Files that a lower layer has are emptied, not removed: a removal is a file of its own in the
/// layer, with the time of the build. Files of Debian's Python packages keep the times of their
/// packages, which are constant and which their bytecode refers to. BuildKit touches `/etc` before
/// a step.
const STEP: &str = r#"#!/bin/sh
. /mnt/environment
start=$(date +%s.%N)
sleep 0.02
"$@"
code=$?
[ "$code" = 0 ] || exit "$code"
find / -maxdepth 0 -newerct "@$start" >/dev/null 2>&1 || exit 0
find /tmp /var/tmp /root/.cache /root/.npm /var/lib/apt/lists /var/cache/apt/archives -mindepth 1 \
    -newerct "@$start" ! -type d ! -name lock -delete 2>/dev/null
find /tmp /var/tmp /root/.cache /root/.npm /var/lib/apt/lists -mindepth 1 -depth -type d -empty ! -name partial \
    -newerct "@$start" -delete 2>/dev/null
find /var/log /var/cache/ldconfig/aux-cache /var/cache/apt -type f -newerct "@$start" \
    -exec truncate -s 0 {} + 2>/dev/null
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /mnt -o -path /media -o -path /srv \) -prune \
    -o \( -path '/usr/lib/python3/*' -o -path '/usr/lib/python3.*' -o -path '/usr/share/*' \) ! -newermt "@$start" \
    -o -newerct "@$start" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
touch -d "@$SOURCE_DATE_EPOCH" /etc
exit 0
"#;

/// Does what `COPY` does with its plain arguments, in a step: the directories that `COPY` makes or
/// writes to have the time of the build.
const COPY: &str = r#"#!/bin/sh
set -e
for destination; do :; done
case $destination in */) many=1 ;; *) many= ;; esac
[ $# -gt 2 ] && many=1
while [ $# -gt 1 ]; do
    for source in /srv/$1; do
        if [ -d "$source" ]; then
            mkdir -p "$destination"
            cp -R "$source/." "$destination/"
        elif [ -n "$many" ] || [ -d "$destination" ]; then
            mkdir -p "$destination"
            cp "$source" "$destination/"
        else
            mkdir -p "$(dirname "$destination")"
            cp "$source" "$destination"
        fi
    done
    shift
done
"#;

/// A Dockerfile as it is sent to BuildKit.
pub(super) struct Prepared {
    pub dockerfile: String,
    pub files: Vec<ContextFile>,
}

/// Adds the host's stage and wraps every `RUN`.
pub(super) fn prepare(dockerfile: &str, host: &HostAccess) -> Prepared {
    let text = normalise(dockerfile);
    let mut out = String::with_capacity(text.len() + 1024);
    let mut shell = default_shell();
    let mut staged = false;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let word = line.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
        if word == "FROM" {
            shell = default_shell();
            if !staged {
                staged = true;
                let _ = writeln!(out, "FROM scratch AS {STAGE}\nADD {CONTEXT}/ /");
            }
        }
        let mut instruction = line.to_owned();
        while instruction.ends_with('\\') {
            instruction.pop();
            match lines.next() {
                Some(next) => instruction.push_str(next),
                None => break,
            }
        }
        match word.as_str() {
            "SHELL" => {
                let list = instruction.trim_start()[5..].trim();
                if let Ok(words) = serde_json::from_str(list) {
                    shell = words;
                }
                out.push_str(&instruction);
            }
            "RUN" => out.push_str(&run(instruction.trim_start()[3..].trim(), &shell)),
            "COPY" => match copy(instruction.trim_start()[4..].trim()) {
                Some(step) => out.push_str(&step),
                None => out.push_str(&instruction),
            },
            _ => out.push_str(&instruction),
        }
        out.push('\n');
    }
    Prepared { dockerfile: out, files: host_files(host) }
}

fn default_shell() -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-c".to_owned()]
}

/// The mounts of every step.
fn mounts() -> String {
    format!(
        "--mount=type=bind,from={STAGE},target=/mnt \
         --mount=type=cache,id=imgforge-packages,target=/media,sharing=shared "
    )
}

/// Makes a step of a `COPY` with plain words; one with flags, a list or variables stays.
fn copy(arguments: &str) -> Option<String> {
    let plain = |word: &str| {
        !word.starts_with("--")
            && !word.contains(['[', '"', '\'', '$', '\\', '<', '`', ';', '&', '|'])
    };
    let words: Vec<&str> = arguments.split_whitespace().collect();
    if words.len() < 2 || !words.iter().all(|word| plain(word)) {
        return None;
    }
    let mut list = vec!["/bin/sh", "/mnt/step", "/bin/sh", "/mnt/copy"];
    list.extend(words);
    let list = serde_json::to_string(&list).expect("a list of strings is valid JSON");
    Some(format!("RUN {}--mount=type=bind,target=/srv {list}", mounts()))
}

fn run(arguments: &str, shell: &[String]) -> String {
    let mut flags = String::new();
    let mut command = arguments;
    while command.starts_with("--") {
        let (flag, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let _ = write!(flags, "{flag} ");
        command = rest.trim_start();
    }
    let mounts = mounts();
    // The body of a heredoc follows on the next lines and cannot become a list.
    if command.contains("<<") {
        return format!("RUN {mounts}{flags}{command}");
    }
    let mut words = vec!["/bin/sh".to_owned(), "/mnt/step".to_owned()];
    match serde_json::from_str::<Vec<String>>(command) {
        Ok(list) => words.extend(list),
        Err(_) => {
            words.extend(shell.iter().cloned());
            words.push(command.to_owned());
        }
    }
    let list = serde_json::to_string(&words).expect("a list of strings is valid JSON");
    format!("RUN {mounts}{flags}{list}")
}

/// Returns the files of the host's stage.
fn host_files(host: &HostAccess) -> Vec<ContextFile> {
    let file = |name: &str, bytes: Vec<u8>| ContextFile {
        path: format!("{CONTEXT}/{name}"),
        executable: false,
        bytes,
    };
    let mut environment = format!(
        "export SOURCE_DATE_EPOCH={FILE_TIME} PYTHONHASHSEED=0 LC_ALL=${{LC_ALL:-C.UTF-8}}\n\
         export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1\n\
         export PIP_ROOT_USER_ACTION=ignore PIP_CACHE_DIR=/media/pip UV_CACHE_DIR=/media/uv\n\
         export UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_PYTHON_DOWNLOADS=never\n"
    );
    let mut files =
        vec![file("step", STEP.as_bytes().to_vec()), file("copy", COPY.as_bytes().to_vec())];
    if let Some(bundle) = &host.ca_bundle {
        files.push(file("ca.pem", bundle.clone()));
        for name in [
            "SSL_CERT_FILE",
            "PIP_CERT",
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
            "GIT_SSL_CAINFO",
            "NODE_EXTRA_CA_CERTS",
            "CARGO_HTTP_CAINFO",
        ] {
            let _ = writeln!(environment, "export {name}=/mnt/ca.pem");
        }
    }
    for (name, value) in &host.variables {
        let _ = writeln!(environment, "export {name}={}", crate::recipe::shell_quote(value));
    }
    files.push(file("environment", environment.into_bytes()));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_gets_the_mounts_and_its_own_shell() {
        let text = "ARG X=1\nFROM a AS one\nRUN apt-get update \\\n  && true\nSHELL [\"/bin/bash\", \"-c\"]\nRUN b\nFROM c\nRUN --network=none [\"d\", \"e f\"]\n";
        let mounts = "--mount=type=bind,from=imgforge-host,target=/mnt --mount=type=cache,id=imgforge-packages,target=/media,sharing=shared ";
        let prepared = prepare(text, &HostAccess::default()).dockerfile;
        let expected = format!(
            "ARG X=1\nFROM scratch AS imgforge-host\nADD .imgforge-host/ /\nFROM a AS one\n\
             RUN {mounts}[\"/bin/sh\",\"/mnt/step\",\"/bin/sh\",\"-c\",\"apt-get update   && true\"]\n\
             SHELL [\"/bin/bash\", \"-c\"]\n\
             RUN {mounts}[\"/bin/sh\",\"/mnt/step\",\"/bin/bash\",\"-c\",\"b\"]\n\
             FROM c\nRUN {mounts}--network=none [\"/bin/sh\",\"/mnt/step\",\"d\",\"e f\"]\n"
        );
        assert_eq!(prepared, expected);
    }

    #[test]
    fn a_plain_copy_is_a_step_and_others_stay() {
        let step = copy("a dir/ /opt/x/").unwrap();
        assert!(step.ends_with(
            r#"--mount=type=bind,target=/srv ["/bin/sh","/mnt/step","/bin/sh","/mnt/copy","a","dir/","/opt/x/"]"#
        ));
        for other in ["--from=x /a /b", "--chown=1 a b", "[\"a\", \"b\"]", "$A /b", "<<EOF /x", "a"]
        {
            assert_eq!(copy(other), None, "{other}");
        }
    }

    #[test]
    fn the_bundle_and_the_proxies_are_in_the_stage_and_nowhere_else() {
        let mut host = HostAccess { ca_bundle: Some(b"PEM".to_vec()), ..HostAccess::default() };
        host.variables.insert("https_proxy".into(), "http://u:p@proxy:1".into());
        let prepared = prepare("FROM a\nRUN b\n", &host);
        assert!(!prepared.dockerfile.contains("proxy"));
        assert!(prepared.files.iter().any(|file| file.path.ends_with("ca.pem")));
        let environment = prepared.files.iter().find(|file| file.path.ends_with("environment"));
        let text = String::from_utf8(environment.unwrap().bytes.clone()).unwrap();
        assert!(text.contains("export https_proxy=http://u:p@proxy:1"));
        assert!(text.contains("export PIP_CERT=/mnt/ca.pem"));
    }
}
