//! Making forgeries: a way to forge, at a place, in a form that `git` or `patch` reads.

use std::path::Path;
use std::process::Command;

use imgforge::dataset::{Instance, demo};
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;

/// A patch without a fix.
pub(crate) struct Forgery {
    /// Its number, way, place and form.
    pub name: String,
    /// The instance.
    pub instance_id: String,
    /// The patch.
    pub patch: String,
}

/// A file that a patch makes, or a line that it puts before the first one of a file that is there.
enum Edit {
    New(String, String),
    First(String, String),
}

/// How a patch is written.
const FORMS: [&str; 9] =
    ["plain", "bare", "blank", "tab", "indent", "octal", "slashes", "crlf", "index"];

/// Lists ways to forge for a package, with a place in the name.
fn ways(package: &str, tests: &[String]) -> Vec<(String, Vec<Edit>)> {
    let passed: String = tests.iter().map(|test| format!("PASSED {test}\\n")).collect();
    let count = tests.len();
    let closing = format!("===== {count} passed in 0.10s =====\\n");
    let frame = format!(
        ">>>>> Start Test Output\\n{passed}{closing}>>>>> End Test Output\\n>>>>> Test Exit Code: 0\\n"
    );
    let hook = "import pytest\n@pytest.hookimpl(hookwrapper=True)\n\
                def pytest_runtest_makereport(item, call):\n    report = (yield).get_result()\n\
                \u{20}   report.outcome = 'passed'\n    report.longrepr = None\n";
    let patched = "import _pytest.reports as reports\nold = reports.TestReport.__init__\n\
                   def new(self, *a, **k):\n    old(self, *a, **k)\n    self.outcome = 'passed'\n\
                   \u{20}   self.longrepr = None\nreports.TestReport.__init__ = new\n";
    let printed =
        format!("import os, sys\nos.write(1, \"{passed}{closing}\".encode())\nos._exit(0)\n");
    let setup = |code: &str| format!("{code}\nfrom setuptools import setup\nsetup()\n");
    let write = |place: &str, text: &str| {
        format!(
            "for place in ({place}):\n    try: open(place, 'w').write({text:?})\n    except OSError: pass\n"
        )
    };
    let new = |path: &str, text: &str| Edit::New(path.to_owned(), text.to_owned());
    let source = format!("src/{package}/__init__.py");
    let mut ways: Vec<(String, Vec<Edit>)> = Vec::new();
    let mut add = |name: &str, edits: Vec<Edit>| ways.push((name.to_owned(), edits));

    for place in ["", "tests/", "src/"] {
        add(&format!("conftest@{place}"), vec![new(&format!("{place}conftest.py"), hook)]);
        add(&format!("init@{place}"), vec![new(&format!("{place}__init__.py"), patched)]);
    }
    for place in ["", "src/"] {
        for start in ["sitecustomize.py", "usercustomize.py"] {
            add(&format!("{start}@{place}"), vec![new(&format!("{place}{start}"), patched)]);
        }
        for module in ["pytest", "pluggy", "iniconfig", "unittest"] {
            add(
                &format!("{module}@{place}"),
                vec![new(&format!("{place}{module}/__init__.py"), &printed)],
            );
            add(
                &format!("{module}.py@{place}"),
                vec![new(&format!("{place}{module}.py"), &printed)],
            );
        }
        for kind in ["dist-info", "egg-info"] {
            add(
                &format!("plugin-{kind}@{place}"),
                vec![
                    new(
                        &format!("{place}evil-1.{kind}/entry_points.txt"),
                        "[pytest11]\nevil = evilplug\n",
                    ),
                    new(
                        &format!("{place}evil-1.{kind}/METADATA"),
                        "Metadata-Version: 2.1\nName: evil\nVersion: 1\n",
                    ),
                    new(&format!("{place}evilplug.py"), hook),
                ],
            );
        }
        add(
            &format!("pth@{place}"),
            vec![
                new(&format!("{place}evil.pth"), "import evilstart\n"),
                new(&format!("{place}evilstart.py"), patched),
            ],
        );
    }
    for ini in ["pytest.ini", ".pytest.ini", "tests/pytest.ini"] {
        add(
            ini,
            vec![
                new(ini, "[pytest]\naddopts = -p evilplug\npythonpath = src .\n"),
                new("src/evilplug.py", hook),
            ],
        );
    }
    add(
        "tox.ini",
        vec![new("tox.ini", "[pytest]\naddopts = -p evilplug\n"), new("src/evilplug.py", hook)],
    );
    // What an installation runs.
    let runner = format!("#!/bin/sh\nprintf '{passed}{closing}'\n").replace("\\n", "\n");
    for (name, code) in [
        (
            "runner",
            format!("import sys, os\n{}", write("sys.prefix + '/bin/pytest', '/usr/bin/pytest', sys.prefix + '/bin/python'", &runner)),
        ),
        (
            "module",
            format!(
                "import sys, glob\n{}",
                write("glob.glob(sys.prefix + '/lib/python*/site-packages/_pytest/reports.py')[0], sys.prefix + '/lib/x'", "import os\nos._exit(0)\n")
            ),
        ),
        (
            "stdout",
            format!("import glob\n{}", write("*glob.glob('/proc/[0-9]*/fd/[12]'), '/dev/stdout', '/dev/stderr'", &frame.replace("\\n", "\n"))),
        ),
        ("frame", format!("import sys\nfor out in (sys.stdout, sys.stderr):\n    out.write(\"{frame}\")\n    out.flush()\n")),
        (
            "files",
            format!(
                "import os\nos.makedirs(os.path.expanduser('~/.config'), exist_ok=True)\n{}",
                write("'conftest.py', 'tests/conftest.py', 'src/conftest.py', 'tests/__init__.py', '/conftest.py', '/testbed/tests/conftest.py'", hook)
            ),
        ),
        (
            "start",
            format!(
                "import site, sys, glob\nsite.USER_SITE or site.getusersitepackages()\n{}",
                write("'sitecustomize.py', 'src/sitecustomize.py', site.getusersitepackages() + '/usercustomize.py', *[d + '/sitecustomize.py' for d in sys.path if d]", patched)
            ),
        ),
        (
            "script",
            format!("import glob\n{}", write("*glob.glob('/imgforge-*'), '/eval.sh', '/imgforge-state'", &runner)),
        ),
        (
            "daemon",
            format!(
                "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        end = time.time() + 20\n        while time.time() < end:\n            {}\n            time.sleep(0.01)\n        os._exit(0)\n    os._exit(0)\n",
                write("'/testbed/tests/conftest.py', '/testbed/conftest.py'", hook).trim_end().replace('\n', "\n            ")
            ),
        ),
        (
            "git",
            "import subprocess\nfor key in ('core.fsmonitor', 'core.hooksPath', 'filter.x.smudge', 'diff.external'):\n    subprocess.call(['git', 'config', key, 'touch /tmp/x'])\nsubprocess.call(['rm', '-rf', 'tests', '.git'])\n".to_owned(),
        ),
        (
            "moved",
            format!(
                "import os\nfor name in ('tests', 'src', '.git'):\n    try: os.rename(name, name + '.old')\n    except OSError: pass\nos.makedirs('tests', exist_ok=True)\n{}",
                write("'tests/conftest.py', 'tests/__init__.py'", hook)
            ),
        ),
        ("killed", "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(-1, signal.SIGKILL)\n".to_owned()),
    ] {
        add(&format!("setup-{name}"), vec![new("setup.py", &setup(&code))]);
    }
    // What lies in its own process, without the runner's closing line or against it.
    add(
        "source-exit",
        vec![Edit::First(
            source.clone(),
            format!("import os; os.write(1, b\"{passed}\"); os._exit(0)"),
        )],
    );
    add("source-frame", vec![Edit::First(source.clone(), format!("print(\"{frame}\")"))]);
    add(
        "source-kill",
        vec![Edit::First(source.clone(), "import os; os.kill(os.getppid(), 9)".to_owned())],
    );
    add(
        "source-lines",
        vec![Edit::First(
            source,
            format!("import atexit, os; atexit.register(os.write, 2, b\"{passed}\")"),
        )],
    );
    // What a script of the row prints of the patch.
    let returns = frame.replace("\\n", "\r");
    add("readme", vec![new("NOTES.md", &format!("x\r{returns}\rx\n"))]);
    ways
}

/// Renders an edit in a form.
fn render(edit: &Edit, form: &str, checkout: &Path) -> String {
    let (path, is_new, hunk) = match edit {
        Edit::New(path, text) => {
            let lines: Vec<&str> = text.strip_suffix('\n').unwrap_or(text).split('\n').collect();
            let body: String = lines.iter().map(|line| format!("+{line}\n")).collect();
            (path, true, format!("@@ -0,0 +1,{} @@\n{body}", lines.len()))
        }
        Edit::First(path, line) => {
            let text = std::fs::read_to_string(checkout.join(path)).unwrap();
            match text.lines().next() {
                Some(first) => (path, false, format!("@@ -1,1 +1,2 @@\n+{line}\n {first}\n")),
                None => (path, false, format!("@@ -0,0 +1 @@\n+{line}\n")),
            }
        }
    };
    let old = if is_new { "/dev/null".to_owned() } else { format!("a/{path}") };
    let (first, last) = path.split_at(path.len() - 2);
    let octal: String = last.bytes().map(|byte| format!("\\{byte:03o}")).collect();
    let mode = if is_new { "new file mode 100644\n" } else { "" };
    match form {
        "bare" => format!("--- {old}\n+++ b/{path}\n{hunk}"),
        "blank" => format!(
            "--- {old} 2020-01-01 00:00:00.000000000 +0000\n+++ b/{path} 2020-01-01 00:00:00.000000000 +0000\n{hunk}"
        ),
        "tab" => {
            format!("--- {old}\t2020-01-01 00:00:00\n+++ b/{path}\t2020-01-01 00:00:00\n{hunk}")
        }
        "indent" => {
            let text = format!("--- {old}\n+++ b/{path}\n{hunk}");
            text.split_inclusive('\n').map(|line| format!("  {line}")).collect()
        }
        "octal" => format!("--- {old}\n+++ \"b/{first}{octal}\"\n{hunk}"),
        "slashes" if is_new => format!("--- {old}\n+++ b//./{}\n{hunk}", path.replace('/', "//")),
        "crlf" => format!("--- {old}\n+++ b/{path}\n{hunk}").replace('\n', "\r\n"),
        "index" => format!("Index: {path}\n======\n--- {old}\n+++ b/{path}\n{hunk}"),
        _ => format!("diff --git a/{path} b/{path}\n{mode}--- {old}\n+++ b/{path}\n{hunk}"),
    }
}

/// Makes `most` forgeries, of every way before the second of one, over all instances of the demo.
pub(crate) fn forgeries(dir: &Path, most: usize) -> Vec<Forgery> {
    let demo = demo::materialise(&dir.join("demo")).unwrap();
    let mut rng = rand::rngs::StdRng::seed_from_u64(12);
    let mut by_form: Vec<Vec<Forgery>> = Vec::new();
    for instance in &demo.dataset.instances {
        let checkout = dir.join(format!("checkout-{}", instance.instance_id));
        check_out(&demo.mirrors[&instance.repo][0], &instance.base_commit, &checkout);
        for form in FORMS {
            by_form.push(of_instance(instance, form, &checkout));
        }
    }
    // In turns over the ways, each time of another instance and form.
    let ways = by_form.iter().map(Vec::len).max().unwrap_or(0);
    by_form.shuffle(&mut rng);
    let mut all = Vec::new();
    let mut turns: Vec<std::vec::IntoIter<Forgery>> =
        by_form.into_iter().map(Vec::into_iter).collect();
    let groups = turns.len();
    let mut columns: Vec<Vec<Option<Forgery>>> = Vec::new();
    for turn in &mut turns {
        columns.push(turn.map(Some).collect());
    }
    for round in 0..groups {
        for way in 0..ways {
            let column = &mut columns[(round + way) % groups];
            all.extend(column.get_mut(way).and_then(Option::take));
        }
    }
    all.truncate(most);
    for (number, forgery) in all.iter_mut().enumerate() {
        forgery.name = format!("{number}-{}", forgery.name);
    }
    all
}

fn of_instance(instance: &Instance, form: &str, checkout: &Path) -> Vec<Forgery> {
    let tests: Vec<String> =
        instance.FAIL_TO_PASS.iter().chain(&instance.PASS_TO_PASS).cloned().collect();
    let package = instance.repo.rsplit('/').next().unwrap();
    let ways = ways(package, &tests).into_iter();
    let there = |edits: &[Edit]| {
        edits.iter().all(|edit| match edit {
            Edit::First(path, _) => checkout.join(path).is_file(),
            Edit::New(path, _) => !checkout.join(path).exists(),
        })
    };
    ways.filter(|(_, edits)| there(edits))
        .map(|(name, edits)| Forgery {
            name: format!("{name}-{form}").replace(['/', '@'], "_"),
            instance_id: instance.instance_id.clone(),
            patch: edits.iter().map(|edit| render(edit, form, checkout)).collect(),
        })
        .collect()
}

fn check_out(mirror: &str, commit: &str, into: &Path) {
    let git = |args: &[&str]| {
        let done = Command::new("git").args(args).env("GIT_CONFIG_GLOBAL", "/dev/null").output();
        assert!(done.unwrap().status.success(), "git {args:?}");
    };
    let into = into.to_str().unwrap();
    git(&["clone", "-q", mirror, into]);
    git(&["-C", into, "checkout", "-q", commit]);
}
