//! Dockerfiles: what is built, sealed and kept out.

use std::time::Duration;

use imgforge::engine::EngineError;

use crate::common::{Log, file, is_running, on_every_engine};
use crate::scratch::Scratch;

#[test]
#[ignore = "needs an engine"]
fn a_build_has_the_labels_that_were_asked_for_and_runs() {
    on_every_engine(|bench| async move {
        let text = format!(
            "ARG BASE={}\nFROM $BASE\nARG WHO=nobody\nENV GREETING=\"hello world\"\n\
             COPY data/ /opt/data/\nRUN echo \"$GREETING\" \\\n    \"$WHO\" > /opt/greeting\n\
             WORKDIR /opt\nCMD [\"cat\", \"greeting\"]\n",
            bench.from()
        );
        let mut request = bench.build(&text, "built");
        request.args.insert("WHO".to_owned(), "imgforge".to_owned());
        request.context.push(file("data/sub/a.txt", "a"));
        let log = Log::default();
        let image = bench.engine.build(&request, &log).await.unwrap();
        assert_eq!(image.config.labels, request.labels);
        assert_eq!(image.config.cmd, ["cat", "greeting"]);
        assert_eq!(image.config.working_dir, "/opt");
        assert!(image.config.env.contains(&"GREETING=hello world".to_owned()));
        assert!(!image.config.env.iter().any(|variable| variable.starts_with("WHO=")));
        assert!(image.diff_ids.starts_with(&bench.base.diff_ids));
        let command = "cat /opt/greeting /opt/data/sub/a.txt";
        let (_, output) = bench.shell(&bench.name("built"), command).await;
        assert_eq!(output, "hello world imgforge\na");
        assert_eq!(bench.left().await, [bench.name("built")]);
    });
}

#[test]
#[ignore = "needs an engine"]
fn building_again_gives_the_same_image() {
    on_every_engine(|bench| async move {
        let text = format!(
            "FROM {}\nCOPY . /opt/src/\nRUN mkdir -p /opt/made/deep && date +%N > /tmp/now \
             && rm /tmp/now && cp /opt/src/a.txt /opt/made/deep/ && ln -s deep /opt/made/link \
             && echo log > /var/log/step.log\n\
             RUN python3 -c 'import compileall, sys; sys.exit(not compileall.compile_dir(\
             \"/opt/made\", quiet=1))' && chmod 700 /opt/made/deep\nCOPY a.txt /opt/late/b.txt\n",
            bench.from()
        );
        let mut request = bench.build(&text, "again");
        request.context = vec![file("a.txt", "a"), file("b/c.py", "pass\n")];
        let mut images = Vec::new();
        for run in 0..2 {
            // What the host gives is in no layer, but no cached step outlives its change.
            request.host.variables.insert("IMGFORGE_TEST_RUN".into(), format!("{run}"));
            let log = Log::default();
            images.push(bench.engine.build(&request, &log).await.unwrap());
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
        assert_eq!(images[0].diff_ids, images[1].diff_ids);
        assert_eq!(images[0].id, images[1].id);
    });
}

#[test]
#[ignore = "needs an engine"]
fn without_the_cache_a_step_runs_that_was_done_before() {
    on_every_engine(|bench| async move {
        // What it writes is another thing every time.
        let text = format!("FROM {}\nRUN cat /proc/sys/kernel/random/uuid > /id\n", bench.from());
        let mut ids = Vec::new();
        for no_cache in [false, false, true] {
            let mut request = bench.build(&text, "uncached");
            request.no_cache = no_cache;
            let image = bench.engine.build(&request, &Log::default()).await.unwrap();
            ids.push(image.id);
        }
        assert_eq!(ids[0], ids[1]);
        assert_ne!(ids[1], ids[2]);
    });
}

#[test]
#[ignore = "needs an engine"]
fn what_the_host_gives_reaches_steps_and_no_layer() {
    on_every_engine(|bench| async move {
        let text = format!(
            "FROM {}\nRUN cat \"$SSL_CERT_FILE\" && echo \"proxy $https_proxy\" && find / -xdev \
             -newer /proc/self/stat -name 'ca*.pem' && touch /opt/done\n\
             SHELL [\"/bin/bash\", \"-c\"]\nRUN [[ $PIP_CERT == /* ]] && echo bash\n\
             RUN [\"sh\", \"-c\", \"echo exec form $UV_CACHE_DIR\"]\n",
            bench.from()
        );
        let mut request = bench.build(&text, "host");
        request.host.ca_bundle = Some(b"-----MY AUTHORITY-----\n".to_vec());
        let proxy = "http://user:it's@proxy:3128";
        request.host.variables.insert("https_proxy".to_owned(), proxy.to_owned());
        // So that no cached step of an earlier run stands in.
        request.host.variables.insert("IMGFORGE_TEST_RUN".to_owned(), bench.owner.clone());
        let log = Log::default();
        let image = bench.engine.build(&request, &log).await.unwrap();
        let log = log.text();
        if !log.contains("does not report the output") {
            assert!(log.contains("MY AUTHORITY"), "{log}");
            assert!(log.contains(&format!("proxy {proxy}")), "{log}");
            assert!(log.contains("exec form /"), "{log}");
        }
        assert!(!format!("{image:?}").contains("proxy"), "{image:?}");
        assert_eq!(image.config.shell, ["/bin/bash", "-c"]);
        let command = "grep -rls -e 'MY AUTHORITY' -e proxy:3128 /etc /opt /root /run /mnt /media \
                       /srv /tmp /var; ls -A /mnt /media /srv /run/imgforge; env";
        let (_, output) = bench.shell(&bench.name("host"), command).await;
        assert!(!output.contains("proxy"), "{output}");
        assert!(!output.contains("environment"), "{output}");
        assert!(!output.contains("ca.pem"), "{output}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn files_that_a_later_step_needs_stay() {
    on_every_engine(|bench| async move {
        let text = format!(
            "FROM {}\nCOPY a.txt /tmp/\nRUN echo one > /tmp/made && mkdir -p ~/.cache/models \
             && echo model > ~/.cache/models/m\n\
             RUN cat /tmp/a.txt /tmp/made ~/.cache/models/m > /opt/all\n",
            bench.from()
        );
        let mut request = bench.build(&text, "stay");
        request.context.push(file("a.txt", "a\n"));
        bench.engine.build(&request, &Log::default()).await.unwrap();
        let (_, output) = bench.shell(&bench.name("stay"), "cat /opt/all").await;
        assert_eq!(output, "a\none\nmodel\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_script_in_the_dockerfile_runs_as_it_is() {
    on_every_engine(|bench| async move {
        let text = format!(
            "FROM {}\nRUN <<EOF\nset -e\n# not a comment\nfor i in 1 2; do\n  echo \"$i\" >> /opt/n\n\
             done\nEOF\nRUN cat > /opt/m <<'END'\n$HOME\nEND\nRUN <<X\n#!/usr/bin/env python3\n\
             print('snake', file=open('/opt/p', 'w'))\nX\n",
            bench.from()
        );
        bench.engine.build(&bench.build(&text, "script"), &Log::default()).await.unwrap();
        let (_, output) = bench.shell(&bench.name("script"), "cat /opt/n /opt/m /opt/p").await;
        assert_eq!(output, "1\n2\n$HOME\nsnake\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_step_that_fails_is_named_with_its_exit_code_and_output() {
    on_every_engine(|bench| async move {
        let text = format!("FROM {}\nRUN true\nRUN echo boom >&2; exit 42\n", bench.from());
        let log = Log::default();
        let error = bench.engine.build(&bench.build(&text, "fails"), &log).await.unwrap_err();
        let EngineError::Step { step, code } = &error else { panic!("{error:?}") };
        assert_eq!(*code, 42);
        assert!(step.ends_with("RUN echo boom >&2; exit 42"), "{step}");
        assert!(log.text().contains("boom"), "{}", log.text());
        assert_eq!(bench.left().await, Vec::<String>::new());
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_parent_that_is_not_there_is_named_and_not_pulled() {
    on_every_engine(|bench| async move {
        let request = bench.build("FROM imgforge/env:gone\nRUN true\n", "orphan");
        let error = bench.engine.build(&request, &Log::default()).await.unwrap_err();
        let EngineError::NoSuchImage { reference } = &error else { panic!("{error:?}") };
        assert_eq!(reference, "imgforge/env:gone");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_dockerfile_that_is_none_is_refused_in_the_words_of_the_engine() {
    on_every_engine(|bench| async move {
        let text = format!("FROM {}\nRUNN true\n", bench.from());
        let request = bench.build(&text, "typo");
        let error = bench.engine.build(&request, &Log::default()).await.unwrap_err();
        let EngineError::Refused { reason, .. } = &error else { panic!("{error:?}") };
        assert!(reason.contains("RUNN"), "{reason}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn builds_at_once_share_the_caches() {
    on_every_engine(|bench| async move {
        let builds = (0..3).map(|number| {
            let text = format!(
                "FROM {}\nRUN mkdir -p $PIP_CACHE_DIR && echo {number} > $PIP_CACHE_DIR/{number} \
                 && echo {number} > /opt/n\n",
                bench.from()
            );
            let request = bench.build(&text, &format!("n{number}"));
            let bench = bench.clone();
            async move { bench.engine.build(&request, &Log::default()).await.unwrap().id }
        });
        let ids = futures_util::future::join_all(builds).await;
        assert_ne!(ids[0], ids[1]);
        assert_eq!(bench.left().await.len(), 3);
    });
}

#[test]
#[ignore = "needs an engine"]
fn dropping_a_build_ends_its_step() {
    on_every_engine(|bench| async move {
        let marker = format!("30{}", rand::random::<u32>());
        let text = format!("FROM {}\nRUN sleep {marker}\n", bench.from());
        let request = bench.build(&text, "dropped");
        let log = Log::default();
        {
            let mut build = std::pin::pin!(bench.engine.build(&request, &log));
            while !is_running(&marker) {
                let step = tokio::time::timeout(Duration::from_millis(50), &mut build).await;
                assert!(step.is_err(), "{step:?}");
            }
        }
        let gone = async {
            while is_running(&marker) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the step ends");
        assert_eq!(bench.left().await, Vec::<String>::new());
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_dockerfile_with_stages_mounts_and_secrets_is_built() {
    on_every_engine(|bench| async move {
        let text = format!(
            "ARG BASE={from}\nFROM $BASE AS build\nCOPY --chmod=750 src/*.txt /in/\n\
             RUN --mount=type=cache,target=/var/cache/mine,id={id} echo kept >> /var/cache/mine/n; \
             cat /in/a.txt > /out.txt\n\
             RUN --mount=type=secret,id=token cat /run/secrets/token | tr a-z A-Z > /len; test -s /len\n\
             FROM {from}\nCOPY --from=build --chown=7:8 /out.txt /len /opt/sub/\nADD in.tar.gz /opt/\n\
             COPY src /opt/src\nUSER nobody\nWORKDIR /home/x\nRUN id -un > /tmp/who\nUSER root\n\
             ENTRYPOINT [\"cat\"]\nCMD [\"/opt/sub/out.txt\"]\n",
            from = bench.from(),
            id = bench.owner,
        );
        let mut request = bench.build(&text, "stages");
        request.context =
            vec![file("src/a.txt", "one\n"), file("src/b.txt", "two\n"), file("src/c.md", "no\n")];
        let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(
            Vec::new(),
            flate2::Compression::fast(),
        ));
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(3);
        archive.append_data(&mut header, "unpacked/x", b"xyz".as_slice()).unwrap();
        let mut packed = file("in.tar.gz", "");
        packed.bytes = archive.into_inner().unwrap().finish().unwrap();
        request.context.push(packed);
        let dir = Scratch::new();
        std::fs::write(dir.path().join("secret"), "hidden").unwrap();
        request.host.secrets.insert("token".to_owned(), dir.path().join("secret"));
        let log = Log::default();
        let built = bench.engine.build(&request, &log).await;
        let built = built.unwrap_or_else(|error| panic!("{error}: {}", log.text()));
        assert_eq!(built.config.entrypoint, ["cat"]);
        assert_eq!(built.config.working_dir, "/home/x");
        let script = "cat /opt/sub/out.txt /opt/sub/len /opt/unpacked/x; echo; ls /opt/src; \
                      cat /tmp/who; ls -d /in /run/secrets 2>&1; stat -c %u:%g /opt/sub/out.txt";
        let (_, output) = bench.shell(&bench.name("stages"), script).await;
        assert!(output.starts_with("one\nHIDDENxyz\na.txt\nb.txt\nc.md\n"), "{output}");
        assert!(output.contains("cannot access '/in'"), "{output}");
        // A user who is alone has no others.
        assert!(output.ends_with("7:8\n") || output.ends_with("0:0\n"), "{output}");
        // Equal steps give equal layers; without a daemon they are not even done again.
        let log = Log::default();
        assert_eq!(bench.engine.build(&request, &log).await.unwrap().id, built.id);
        assert!(bench.state().is_none() || log.text().contains("Using cache"), "{}", log.text());
    });
}
