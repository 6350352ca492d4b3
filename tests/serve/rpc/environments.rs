//! How agents act in sessions: `env.*` of the protocol, on the real binary.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::client::PipeServer;

const EDITOR: &str = "#!/bin/sh
# @yaml
# docstring: shows a file
# arguments:
#   path:
#     type: string
#     description: which file
#     required: true
#   at:
#     required: false
echo \"$@\"
";

const LIBRARY: &str = "greet() {
    echo \"hello $2\"
}
# @yaml
# docstring: counts
count() {
    printf '\\033[31m%s\\033[0m\\r\\n' \"$(seq 1 90)\"
}
";

fn file(name: &str, text: &str) -> Value {
    json!({ "name": name, "data": STANDARD.encode(text) })
}

#[test]
#[ignore = "needs a base image"]
fn an_agent_acts_and_is_told_what_came_of_it() {
    let mut server = PipeServer::start();
    let client = &mut server.client;
    let session = client.session();
    let of_session = || json!({ "session": session });
    let step = |text: &str| json!({ "session": session, "action": text, "timeout": 20 });
    let none = client.call("env.step", step("<function=x>")).unwrap_err();
    assert_eq!(none["data"]["kind"], "refused", "{none}");
    client.ok("env.open", json!({ "session": session, "workdir": "/tmp" }));
    let twice = client.call("env.open", of_session()).unwrap_err();
    assert_eq!(twice["data"]["kind"], "refused", "{twice}");

    // One that is wrong keeps all from being installed.
    let files = [file("view.py", EDITOR), file("lib.sh", "f() {\n")];
    let add = |files: &[Value]| json!({ "session": session, "files": files });
    let wrong = client.call("env.add_commands", add(&files)).unwrap_err();
    assert_eq!(wrong["data"]["kind"], "invalid", "{wrong}");
    assert!(wrong["message"].as_str().unwrap().contains("lib.sh:1: the function f"), "{wrong}");
    assert_eq!(client.sh(&session, "ls /usr/local/bin/view*").0, 2);

    let finish = "#!/bin/sh\n: '''ends'''\n";
    let files = [file("view.py", EDITOR), file("lib.sh", LIBRARY), file("finish", finish)];
    let added = client.ok("env.add_commands", add(&files));
    let view = json!({
        "name": "view",
        "signature": "view <path> [<at>]",
        "docstring": "shows a file",
        "end_name": null,
        "arguments": [
            { "name": "path", "required": true, "type": "string", "description": "which file" },
            { "name": "at", "required": false, "type": null, "description": null },
        ],
    });
    assert_eq!(added["commands"][0], view, "{added:#}");
    let names: Vec<&Value> =
        added["commands"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["view", "greet", "count", "finish"]);

    let call = "I look.\n<function=view><parameter=path>it's a; id</parameter>\
                <parameter=command>show</parameter></function>";
    let told = client.ok("env.step", step(call));
    assert_eq!(told["output"], "show --path it's a; id\n", "{told:#}");
    assert_eq!(told["observation"], "Execution output of [view]:\nshow --path it's a; id\n");
    assert_eq!(
        (&told["code"], &told["done"], &told["reward"]),
        (&json!("0"), &json!(false), &json!(0))
    );
    assert_eq!(told["parameters"], json!([["path", "it's a; id"], ["command", "show"]]));
    let greet = "<function=greet><parameter=name>you</parameter></function>";
    assert_eq!(client.ok("env.step", step(greet))["output"], "hello you\n");
    // Colours and carriage returns are taken out of what succeeds.
    let told = client.ok("env.step", step("<function=count></function>"));
    let output = told["output"].as_str().unwrap();
    assert!(output.starts_with("1\n2\n") && output.ends_with("\n90\n"), "{output:?}");

    let refused = client.ok("env.step", step("<function=rm></function>"));
    assert_eq!(refused["code"], "-1");
    assert!(refused["output"].as_str().unwrap().contains("['view', 'greet', 'count', 'finish']"));
    let key = "<function=view><parameter=a;id>1</parameter></function>";
    let refused = client.ok("env.step", step(key));
    assert!(refused["output"].as_str().unwrap().contains("has no valid name"), "{refused:#}");
    let none = client.ok("env.step", step("I think."));
    assert!(none["observation"].as_str().unwrap().contains("YOU MUST USE A FUNCTION CALL"));
    let over = client.ok("env.step", step("<function=finish></function>"));
    assert_eq!((&over["observation"], &over["done"]), (&json!("<<< Finished >>>"), &json!(true)));
    assert_eq!(client.ok("env.step", step(greet))["done"], true);

    client.sh(&session, "echo changed >/tmp/changed");
    assert_eq!(client.ok("env.reset", of_session())["observation"], "Environment reset");
    assert_eq!(client.sh(&session, "cat /tmp/changed 2>/dev/null").0, 1);
    let told = client.ok("env.step", step(greet));
    assert_eq!((&told["output"], &told["done"]), (&json!("hello you\n"), &json!(false)));
    client.ok("env.close", of_session());
    assert_eq!(client.call("env.close", of_session()).unwrap_err()["data"]["kind"], "refused");
}

#[test]
#[ignore = "needs a base image"]
fn at_the_time_limit_an_action_is_killed_and_an_end_of_the_session_is_no_observation() {
    let mut server = PipeServer::start();
    let client = &mut server.client;
    let session = client.session();
    client.ok("env.open", json!({ "session": session, "workdir": "/", "timeout": 1 }));
    let slow = "slow() {\n    echo begun; sleep 60\n}\nquit() {\n    exit 7\n}\n";
    let files = json!({ "session": session, "files": [file("lib.sh", slow)] });
    client.ok("env.add_commands", files);
    let step = |name: &str| json!({ "session": session, "action": format!("<function={name}>") });
    let told = client.ok("env.step", step("slow"));
    assert_eq!(told["code"], "-1", "{told:#}");
    assert_eq!(told["output"], "The command took too long to execute (>1s)\nbegun\n");
    assert_eq!(client.ok("env.step", step("quit"))["code"], "Error: Exit code 7");
    client.ok("session.stop", json!({ "session": session }));
    let gone = client.call("env.step", step("slow")).unwrap_err();
    assert_eq!(gone["data"]["kind"], "no_such_session", "{gone}");
}
