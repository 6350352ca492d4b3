//! Checkpoints on the embedded engine: many on each other, and what a collection leaves of them.

use std::path::Path;

use imgforge::engine::embedded::EmbeddedEngine;
use imgforge::engine::{
    Builder as _, Checkpoint, ExecRequest, Images as _, LayerStorage as _, NoLog, Runner as _,
    SandboxSession, SessionRequest,
};
use imgforge::session::{Keep, run};

use crate::embedded::{base_tar, image, on_its_own, open};

pub(crate) const IMAGE: &str = "checkpoints/base:1";

pub(crate) async fn engine(directory: &Path) -> std::sync::Arc<EmbeddedEngine> {
    let engine = open(&directory.join("state"), None).await;
    engine.load(&image(vec![base_tar(directory).await], IMAGE)).await.unwrap();
    engine
}

pub(crate) async fn start(engine: &EmbeddedEngine, image: &str) -> Box<dyn SandboxSession> {
    engine.start(&SessionRequest::of_image(image), &NoLog).await.unwrap()
}

pub(crate) async fn prints(session: &dyn SandboxSession, text: &str) -> String {
    let ran = run(session, &ExecRequest::shell(text), Keep::default()).await.unwrap();
    let error = String::from_utf8(ran.error.bytes).unwrap();
    assert_eq!(error, "", "{text}");
    String::from_utf8(ran.out.bytes).unwrap()
}

fn name(checkpoint: &Checkpoint) -> String {
    checkpoint.reference().to_string()
}

/// Returns the names of layers of checkpoints that are there.
pub(crate) fn layers(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for form in std::fs::read_dir(directory.join("state/embedded")).unwrap().flatten() {
        for entry in std::fs::read_dir(form.path().join("s")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('k') {
                found.push(name);
            }
        }
    }
    found
}

/// Returns how many containers or parts of such there are.
pub(crate) fn containers(directory: &Path) -> usize {
    let forms = std::fs::read_dir(directory.join("state/embedded")).unwrap().flatten();
    let inside = |form: std::fs::DirEntry| std::fs::read_dir(form.path().join("c")).into_iter();
    forms.flat_map(inside).flatten().flatten().count()
}

#[test]
#[ignore = "needs an engine"]
fn many_checkpoints_on_each_other_are_one_tree() {
    on_its_own(async |directory| {
        let engine = engine(&directory).await;
        let mut below = IMAGE.to_owned();
        let mut all = Vec::new();
        for number in 0..70 {
            let session = start(&engine, &below).await;
            // Each takes away what the last brought, and brings a directory in the place of a file.
            let text = format!(
                "mkdir -p /w && cd /w && rm -rf gone-{last} kind && echo {number} >file-{number} && \
                 echo {number} >gone-{number} && if [ {odd} = 0 ]; then echo >kind; else \
                 mkdir kind && echo >kind/in-{number}; fi && rm -f /usr/share/doc/{number}",
                last = number - 1,
                odd = number % 2,
            );
            prints(&*session, &text).await;
            let made = match number % 3 {
                0 => {
                    let made = session.checkpoint().await.unwrap();
                    session.stop().await.unwrap();
                    made
                }
                _ => session.end_as_checkpoint().await.unwrap(),
            };
            assert_eq!(made.parent, below);
            below = name(&made);
            all.push(below.clone());
        }
        let session = start(&engine, &below).await;
        let expected: String = (0..70).map(|number| format!("{number}\n")).collect();
        let found = prints(&*session, "cd /w; ls | sed -n 's/^file-//p' | sort -n").await;
        assert_eq!(found, expected);
        assert_eq!(prints(&*session, "ls -d /w/gone-*; ls /w/kind").await, "/w/gone-69\nin-69\n");
        assert_eq!(containers(&directory), 1);

        // All but the last go. What a session stands on that lives stays.
        for reference in &all {
            engine.remove(reference).await.unwrap();
        }
        engine.remove(IMAGE).await.unwrap();
        engine.prune(false).await.unwrap();
        assert_eq!(prints(&*session, "cat /w/file-0 /w/file-69 | tr '\\n' ' '").await, "0 69 ");
        let last = session.checkpoint().await.unwrap();
        session.stop().await.unwrap();
        engine.prune(false).await.unwrap();
        assert!(layers(&directory).len() < 40, "{:?}", layers(&directory));
        let again = start(&engine, &name(&last)).await;
        assert_eq!(prints(&*again, "cat /w/file-0").await, "0\n");
        again.stop().await.unwrap();

        engine.remove(&name(&last)).await.unwrap();
        engine.prune(false).await.unwrap();
        assert_eq!(layers(&directory), Vec::<String>::new());
        assert_eq!(containers(&directory), 0);
        assert_eq!(engine.images().await.unwrap().len(), 0);
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_checkpoint_holds_what_runs_and_leaves_what_was_held() {
    on_its_own(async |directory| {
        let engine = engine(&directory).await;
        let session = start(&engine, IMAGE).await;
        let begin = "mkdir /m; for i in $(seq 500); do echo >/m/$i; done; echo 0 >/a; echo 0 >/z; \
                     sh -c 'i=0; while :; do i=$((i+1)); echo $i >/n; mv /n /a; echo $i >/n; \
                     mv /n /z; done' >&- 2>&- & sleep 100 >&- 2>&- & echo $! >/held; kill -STOP $!";
        prints(&*session, begin).await;
        for _ in 0..5 {
            let made = session.checkpoint().await.unwrap();
            let other = start(&engine, &name(&made)).await;
            // The first that is copied and the last are of one moment.
            let ahead = prints(&*other, "echo $(($(cat /a) - $(cat /z)))").await;
            assert!(["0\n", "1\n"].contains(&&*ahead), "{ahead}");
            other.stop().await.unwrap();
        }
        let state = "cut -d' ' -f3 /proc/$(cat /held)/stat; a=$(cat /a); sleep 0.3; \
                     [ $a = $(cat /a) ] || echo runs";
        assert_eq!(prints(&*session, state).await, "T\nruns\n");
        session.stop().await.unwrap();
    });
}
