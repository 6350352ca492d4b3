//! Classic builds: an archive, a Dockerfile in it, and a stream of what happens.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::client::{Got, Serve};
use crate::common::needs;

/// Makes the body of a build.
fn context(files: &[(&str, &str, u32)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "link", "data").unwrap();
    tar.into_inner().unwrap()
}

fn lines(got: &Got) -> Vec<Value> {
    let text = String::from_utf8_lossy(&got.body);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

impl Serve {
    async fn build(&self, query: &str, body: impl Into<Bytes>) -> Vec<Value> {
        let got = self.bytes("POST", &format!("/build?{query}"), body.into()).await;
        assert_eq!(got.status, 200, "{:?}", got.body);
        lines(&got)
    }

    async fn output_of(&self, image: &str, command: &[&str]) -> String {
        let body = json!({ "Image": image, "Cmd": command });
        let got = self.call("POST", "/containers/create", body).await;
        assert_eq!(got.status, 201, "{}", got.message());
        let id = got.json()["Id"].as_str().unwrap().to_owned();
        self.start_it(&id).await;
        self.wait(&id).await;
        let got = self.get(&format!("/containers/{id}/logs?stdout=1&stderr=1")).await;
        crate::client::demultiplexed(&got.body).0
    }
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn a_build_has_files_arguments_labels_and_a_target_and_tells_what_it_does() {
    let serve = Serve::start(&[]).await;
    let mark = format!("{:x}", rand::random::<u64>());
    let dockerfile = format!(
        "FROM {base} AS one\nARG WHO=nobody\nENV WHO=$WHO\nCOPY data link run.sh /srv/\n\
         RUN echo said-{mark} && /srv/run.sh > /out && id -u >> /out\nLABEL own=text both=a\n\
         EXPOSE 80\nVOLUME /data\nCMD [\"cat\", \"/out\"]\n\
         FROM one AS two\nRUN echo never-{mark} && false\n",
        base = needs::BASE
    );
    let script = "#!/bin/sh\necho $WHO $(cat /srv/link)\n";
    let body = context(&[
        ("sub/Docker.file", &dockerfile, 0o644),
        ("data", "text", 0o644),
        ("run.sh", script, 0o755),
    ]);
    let args = encoded(&json!({ "WHO": "me", "NO": null }).to_string());
    let labels = encoded(&json!({ "both": "b" }).to_string());
    let query = format!(
        "t=test/built:1&t=test/other&dockerfile=sub/Docker.file&buildargs={args}&labels={labels}\
         &target=one&rm=1"
    );
    let told = serve.build(&query, body.clone()).await;
    let text: String = told.iter().filter_map(|line| line["stream"].as_str()).collect();
    assert!(text.contains("Step 1/") && text.contains(&format!("\nsaid-{mark}\n")), "{text}");
    assert!(!text.contains("never-"), "{text}");
    let id = told.iter().find_map(|line| line["aux"]["ID"].as_str()).unwrap().to_owned();
    assert!(text.contains(&format!("Successfully built {}\n", &id[7..19])), "{text}");
    assert!(text.contains("Successfully tagged test/built:1\n"), "{text}");
    let image = serve.get("/images/test/other:latest/json").await.json();
    assert_eq!(image["Id"], id);
    let labels = &image["Config"]["Labels"];
    assert_eq!((&labels["own"], &labels["both"]), (&json!("text"), &json!("b")), "{labels}");
    assert!(!labels.to_string().contains("dev.imgforge"), "{labels}");
    assert!(image["Config"]["Volumes"]["/data"].is_object(), "{image}");
    assert_eq!(serve.output_of("test/built:1", &[]).await, "me text\n0\n");
    // The same again takes what is there; with `nocache` it is done anew.
    let again = serve.build(&format!("{query}&q=1"), body.clone()).await;
    assert_eq!(again, [json!({ "stream": format!("{id}\n") })]);
    let told = serve.build(&format!("{query}&nocache=1"), body.clone()).await;
    assert!(
        told.iter().any(|line| line["stream"].as_str().is_some_and(|text| text.contains("said-")))
    );
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut zipped, &body).unwrap();
    let told = serve.build(&query, zipped.finish().unwrap()).await;
    assert_eq!(told.iter().find_map(|line| line["aux"]["ID"].as_str()), Some(&*id));
    // A step that fails ends the stream with its code.
    let told = serve.build(&query.replace("target=one", "target=two"), body).await;
    let last = told.last().unwrap();
    assert_eq!(last["errorDetail"]["code"], 1, "{last}");
    let right = format!("'/bin/sh -c echo never-{mark} && false' returned a non-zero code: 1");
    assert!(last["error"].as_str().unwrap().contains(&right), "{last}");
    for name in ["test/built:1", "test/other"] {
        assert_eq!(
            serve.call("DELETE", &format!("/images/{name}?force=1"), Value::Null).await.status,
            200
        );
    }
}

#[tokio::test]
#[ignore = "needs a base image"]
async fn what_is_no_build_is_refused_with_a_sentence() {
    let serve = Serve::start(&[]).await;
    let post = async |path: &str, body: Vec<u8>| serve.bytes("POST", path, body.into()).await;
    for path in ["/grpc", "/session", "/v1.41/grpc", "/build?version=2"] {
        let got = post(path, Vec::new()).await;
        assert_eq!(got.status, 501, "{path}");
        assert!(got.message().contains("DOCKER_BUILDKIT=0"), "{}", got.message());
    }
    let got = post("/build?remote=https://example.org/a.git", Vec::new()).await;
    assert!(got.status == 501 && got.message().contains("remote"), "{}", got.message());
    let body = context(&[("Dockerfile", "FROM scratch\n", 0o644)]);
    let got = post("/build?dockerfile=nosuch", body.clone()).await;
    assert!(got.status == 400 && got.message().contains("nosuch"), "{}", got.message());
    assert_eq!(post("/build?t=A%20b", body.clone()).await.status, 400);
    assert_eq!(post("/build?buildargs=x", body.clone()).await.status, 400);
    assert_eq!(post("/build", b"no archive at all".to_vec()).await.status, 400);
    let body = context(&[("Dockerfile", "FROM scratch\nLABEL a=b\n", 0o644)]);
    let told = serve.build("", body).await;
    assert!(told.iter().any(|line| line["aux"]["ID"].is_string()), "without files: {told:?}");
    let last = told.last().unwrap()["stream"].as_str().unwrap();
    assert!(last.starts_with("Successfully built "), "{last}");
    let body = context(&[("Dockerfile", &format!("FROM {}\nRUNN x\n", needs::BASE), 0o644)]);
    let told = serve.build("", body).await;
    assert!(told.last().unwrap()["error"].as_str().unwrap().contains("RUNN"), "{told:?}");
}
