//! The shipped catalog against the facts of the benchmark, and every mistake with its place.

use super::*;
use crate::dataset::{InstallConfig, Instance};

const BASE: &str = "[base.python39]\npython = \"3.9\"\ndockerfile = \"Dockerfile\"\n";

/// Loads a catalog of two files in a folder of its own.
fn load(config: &str, local: &str) -> Result<Catalog, CatalogError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    std::fs::write(folder.path().join("a.txt"), "a==1\n").unwrap();
    std::fs::write(folder.path().join("b.txt"), "b==1\n").unwrap();
    std::fs::write(folder.path().join("images.toml"), config).unwrap();
    if !local.is_empty() {
        std::fs::write(folder.path().join("images.local.toml"), local).unwrap();
    }
    Catalog::load(Some(&folder.path().join("images.toml")), &[])
}

fn error(rest: &str) -> (String, Option<String>) {
    let error = load(&format!("{BASE}{rest}"), "").unwrap_err();
    let text = error.to_string();
    let start = text.find("images.toml").unwrap();
    (text[start..].to_owned(), error.hint())
}

/// Reads a file of the test data, which has to be there.
fn facts(name: &str) -> String {
    let folder = std::env::var("IMGFORGE_TEST_DATA")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data").to_owned());
    let path = Path::new(&folder).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("cannot read {path:?}: {error}: set IMGFORGE_TEST_DATA to the test data")
    })
}

#[test]
fn the_embedded_copy_equals_the_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files =
        Catalog::from_layers(&[CatalogFile::read(&root.join("images.toml")).unwrap()]).unwrap();
    let embedded = Catalog::embedded().unwrap();
    for (repo, versions) in files.versions() {
        for version in versions {
            assert_eq!(
                files.environment(repo, version, None).unwrap(),
                embedded.environment(repo, version, None).unwrap()
            );
        }
    }
}

#[test]
fn a_stand_in_shows_and_brings_its_own_lock_and_commands() {
    let env = "[repo.\"o/n\"]\npython = \"3.6\"\n[[repo.\"o/n\".env]]\nversions = [\"1\"]\n\
        lock = { \"3.6\" = \"a.txt\", \"3.9\" = \"b.txt\" }\nstand-in.\"3.9\".env_commands = [\"x\"]\n";
    let local = "[stand-in]\n\"3.6\" = \"3.9\"\n";
    let found =
        load(&format!("{BASE}{env}"), local).unwrap().environment("o/n", "1", None).unwrap();
    assert_eq!((found.wanted_python.as_str(), found.python.as_str()), ("3.6", "3.9"));
    assert_eq!(found.locks[0].path, "b.txt");
    assert_eq!(found.env_commands, ["x"]);
    assert_eq!(found.base.name, "python39");
}

#[test]
fn a_patch_level_that_no_base_has_is_stood_in_for_by_another_of_its_minor_version() {
    let bases = "[base.a]\npython = \"3.9.20\"\ndockerfile = \"Dockerfile\"\n\
        [base.b]\npython = \"3.9.21\"\nfrom = \"a\"\n";
    let env = "[repo.\"o/n\"]\npython = \"3.9\"\n[[repo.\"o/n\".env]]\nversions = [\"1\"]\n\
        instance_python = { two = \"3.9.21\", three = \"3.9.18\" }\nstand-in.\"3.9\".env_commands = [\"x\"]\n\
        [[repo.\"o/n\".env]]\nversions = [\"2\"]\npython = \"3.6.13\"\n";
    let catalog = load(&format!("{bases}{env}"), "[stand-in]\n\"3.6\" = \"3.9\"\n").unwrap();
    let found = |id: &str, version| {
        let row = Instance { instance_id: id.to_owned(), ..Default::default() };
        let found = catalog.environment("o/n", version, Some(&row)).unwrap();
        assert_eq!(found.env_commands.len(), 0);
        (found.wanted_python, found.python, found.base.name)
    };
    let three = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(found("one", "1"), three("3.9", "3.9.20", "a"));
    assert_eq!(found("two", "1"), three("3.9.21", "3.9.21", "b"));
    assert_eq!(found("three", "1"), three("3.9.18", "3.9.20", "a"));
    assert_eq!(found("one", "2"), three("3.6.13", "3.9.20", "a"));
}

/// A row of SWE-rebench's form.
fn rebench(config: InstallConfig, requirements: &str) -> Instance {
    Instance {
        instance_id: "x__y-1".into(),
        repo: "x/y".into(),
        install_config: Some(InstallConfig { python: Some("3.9".into()), ..config }),
        requirements: Some(requirements.to_owned()),
        ..Default::default()
    }
}

#[test]
fn a_rows_frozen_requirements_are_cleaned_and_say_so() {
    let config =
        || InstallConfig { install: Some("pip install -e .".into()), ..Default::default() };
    let catalog = load(BASE, "").unwrap();
    let text = "-e git+https://github.com/x/y@0123#egg=y\ncertifi @ file:///croot/c_1/work\n\
                pip @ file:///croot/pip_1/work\nz==1\n";
    let row =
        Instance { environment: Some("- pip=23.0=py39_0\n".into()), ..rebench(config(), text) };
    let found = catalog.environment("x/y", "", Some(&row)).unwrap();
    assert_eq!(found.locks[0].text, "certifi\npip==23.0\nz==1\n");
    assert_eq!(found.notes.len(), 2);
    assert!(found.notes[0].starts_with("requirements, line 2: `certifi @ file"), "{found:?}");
    let error =
        catalog.environment("x/y", "", Some(&rebench(config(), "z==1\n./v\n"))).unwrap_err();
    assert!(error.to_string().contains("requirements:2: `./v`"), "{error}");
    assert!(error.hint().unwrap().contains("--namespace"));
    let packages = vec!["a b==2".into(), "-e git+https://h/o/n#egg=n".into()];
    let row = rebench(InstallConfig { pip_packages: packages, ..config() }, "");
    let found = catalog.environment("x/y", "", Some(&row)).unwrap();
    assert_eq!(found.packages, ["a", "b==2", "n @ git+https://h/o/n"]);
}

#[test]
fn a_row_that_conda_installs_is_refused_by_name_with_the_way_out() {
    let catalog = load(BASE, "").unwrap();
    let named =
        |packages: &str| InstallConfig { packages: Some(packages.into()), ..Default::default() };
    let of = |config, frozen| catalog.environment("x/y", "", Some(&rebench(config, frozen)));
    for config in [
        named("environment.yml"),
        InstallConfig { reqs_path: vec!["r.txt".into()], ..named("environment.yml") },
        InstallConfig { env_yml_path: vec!["ci/env.yml".into()], ..Default::default() },
        named("-c conda-forge gdal"),
        InstallConfig { pre_install: vec!["conda install -y gdal".into()], ..Default::default() },
    ] {
        let error = of(config.clone(), "").unwrap_err();
        assert!(error.to_string().starts_with("`x__y-1` is installed with conda"), "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("--namespace") && hint.contains("requirements"), "{hint}");
    }
    // With what `pip freeze` printed there, its Python packages can be had.
    let found = of(named("environment.yml"), "z==1\n").unwrap();
    assert_eq!((found.locks[0].text.as_str(), found.notes.len()), ("z==1\n", 1));
    let found = of(named("numpy=1.20 python=3.9 six"), "").unwrap();
    assert_eq!(found.packages, ["numpy==1.20.*", "six"]);
    // Pythons that are older than the rows' own harness takes are lifted, as it does.
    let old = Instance {
        install_config: Some(InstallConfig { python: Some("2.7".into()), ..Default::default() }),
        ..rebench(InstallConfig::default(), "")
    };
    let text = catalog.environment("x/y", "", Some(&old)).unwrap_err().to_string();
    assert!(text.ends_with("no base has Python 3.6"), "{text}");
}

#[test]
fn the_second_file_wins_key_by_key() {
    let env = "[[repo.\"o/n\".env]]\nversions = [\"1\", \"2\"]\npython = \"3.9\"\n\
        install = [\"i\"]\ntest_command = \"t\"\n";
    let local = "[defaults]\nmax-workers = 3\n[mirrors]\n\"o/n\" = [\"/m\"]\n\
        [[repo.\"o/n\".env]]\nversions = [\"2\"]\ninstall = [\"j\"]\n";
    let catalog = load(&format!("{BASE}{env}"), local).unwrap();
    let of = |version| catalog.environment("o/n", version, None).unwrap();
    assert_eq!((of("1").install[0].as_str(), of("2").install[0].as_str()), ("i", "j"));
    assert_eq!(of("2").test_command, "t");
    assert_eq!(catalog.mirrors()["o/n"], ["/m"]);
    assert_eq!(catalog.defaults().max_workers, Some(3));
}

#[test]
fn a_row_that_says_how_it_is_installed_needs_no_entry() {
    let config = InstallConfig {
        python: Some("3.9".into()),
        install: Some("pip install -e .".into()),
        test_cmd: Some("pytest".into()),
        ..Default::default()
    };
    let row = Instance {
        instance_id: "x__y-1".into(),
        install_config: Some(config),
        requirements: Some("z==1\n".into()),
        ..Default::default()
    };
    let found = load(BASE, "").unwrap().environment("x/y", "", Some(&row)).unwrap();
    assert_eq!(found.locks[0].text, "z==1\n");
    assert_eq!(found.install, ["pip install -e ."]);
    assert_eq!(found.test_command, "pytest");
}

#[test]
fn an_unknown_repo_or_version_names_the_nearest() {
    let catalog = Catalog::embedded().unwrap();
    let hint = |repo, version| catalog.environment(repo, version, None).unwrap_err().hint();
    assert_eq!(hint("palets/flask", "2.0").unwrap(), "did you mean `pallets/flask`?");
    assert_eq!(hint("sympy/sympy", "1.15").unwrap(), "did you mean `1.1`?");
}

#[test]
fn an_unknown_key_is_reported_with_its_line_and_the_nearest() {
    let (text, hint) = error("[repo.\"o/n\"]\ninstal = [\"x\"]\n");
    assert!(text.starts_with("images.toml:5: unknown field `instal`"), "{text}");
    assert_eq!(hint.unwrap(), "did you mean `install`?");
}

#[test]
fn a_wrong_type_is_reported_with_its_line() {
    let (text, _) = error("[repo.\"o/n\"]\ninstall = \"x\"\n");
    assert!(text.starts_with("images.toml:5: invalid type: string \"x\""), "{text}");
}

#[test]
fn an_unknown_base_is_reported_with_its_line_and_the_nearest() {
    let (text, hint) = error("[[repo.\"o/n\".env]]\nversions = [\"1\"]\nbase = \"pyton39\"\n");
    assert_eq!(text, "images.toml:6: `repo.\"o/n\".env.base`: there is no base `pyton39`");
    assert_eq!(hint.unwrap(), "did you mean `python39`?");
}

#[test]
fn a_missing_dockerfile_is_reported_with_its_line() {
    let (text, _) = error("[base.other]\ndockerfile = \"none/Dockerfile\"\n");
    assert_eq!(text, "images.toml:5: `base.other.dockerfile`: cannot read `none/Dockerfile`");
}

#[test]
fn a_missing_lockfile_is_reported_with_its_line() {
    let (text, _) = error(
        "[[repo.\"o/n\".env]]\nversions = [\"1\"]\npython = \"3.9\"\nlock = \"{version}.txt\"\n",
    );
    assert_eq!(text, "images.toml:7: `repo.\"o/n\".env.lock`: cannot read `1.txt`");
}

#[test]
fn a_base_that_stands_on_itself_is_reported_with_its_line() {
    let (text, _) = error("[base.a]\nfrom = \"b\"\n[base.b]\nfrom = \"a\"\n");
    assert_eq!(text, "images.toml:7: `base.b.from`: the base stands on itself: a -> b -> a");
}

#[test]
fn a_version_that_is_defined_twice_is_reported_with_both_lines() {
    let (text, _) = error(
        "[repo.\"o/n\"]\npython = \"3.9\"\n[[repo.\"o/n\".env]]\nversions = [\"1\"]\n\
         [[repo.\"o/n\".env]]\nversions = [\"2\", \"1\"]\n",
    );
    assert_eq!(
        text,
        "images.toml:9: `repo.\"o/n\".env.versions`: version `1` is defined before, in line 7"
    );
}

#[test]
fn a_python_without_base_is_reported_with_its_line() {
    let (text, hint) = error("[[repo.\"o/n\".env]]\nversions = [\"1\"]\npython = \"2.7\"\n");
    assert_eq!(text, "images.toml:6: `repo.\"o/n\".env.python`: no base has Python 2.7");
    assert!(hint.unwrap().contains("stand-in"));
}

#[test]
fn a_version_without_python_is_reported_with_its_line() {
    let (text, _) = error("[[repo.\"o/n\".env]]\nversions = [\"1\"]\n");
    assert!(text.starts_with("images.toml:5: "), "{text}");
}

#[test]
fn defaults_of_runs_hold_where_an_entry_does_not_say() {
    let entries = "[repo.\"a/b\"]\npython = \"3.9\"\ntest_command = \"pytest\"\n\
                   [[repo.\"a/b\".env]]\nversions = [\"1\"]\n\
                   [[repo.\"a/b\".env]]\nversions = [\"2\"]\nnetwork = \"none\"\n\
                   limits = { timeout = 7200 }\n";
    let defaults = "[defaults]\ntimeout = 600\nmemory = \"2g\"\ncpus = 1.5\npids-limit = 64\n\
                    network = \"bridge\"\n";
    let catalog = load(&format!("{BASE}{defaults}{entries}"), "").unwrap();
    let of = |catalog: &Catalog, version| {
        let environment = catalog.environment("a/b", version, None).unwrap();
        (environment.limits, environment.network)
    };
    let (limits, network) = of(&catalog, "1");
    let expected = Limits {
        timeout: Some(600),
        memory: Some(2 << 30),
        milli_cpus: Some(1500),
        pids: Some(64),
    };
    assert_eq!((limits, network), (expected, Network::Bridge));
    let (limits, network) = of(&catalog, "2");
    assert_eq!(limits, Limits { timeout: Some(7200), ..expected });
    assert_eq!(network, Network::None, "an entry that says so has its way");
    // The second file wins key by key, and what nobody says is left to what is built in.
    let upper = load(&format!("{BASE}{defaults}{entries}"), "[defaults]\ntimeout = 5\n").unwrap();
    assert_eq!(of(&upper, "1").0, Limits { timeout: Some(5), ..expected });
    let none = load(&format!("{BASE}{entries}"), "").unwrap();
    assert_eq!(of(&none, "1"), (Limits::default(), Network::None));
}

#[test]
fn a_wrong_default_is_reported_with_its_line() {
    for (wrong, part) in [
        ("memory = \"lots\"", "not an amount of bytes"),
        ("memory = \"1k\"", "at least 6m"),
        ("memory = 1000", "at least 6m"),
        ("cpus = 0", "at least 0.01"),
        ("timeout = 0", "at least 1"),
        ("pids-limit = 3", "at least 16"),
        ("network = \"httpbin\"", "none, bridge or host"),
        ("network = \"wide\"", "unknown variant"),
    ] {
        let (text, _) = error(&format!("[defaults]\n{wrong}\n"));
        assert!(text.starts_with("images.toml:5") && text.contains(part), "{wrong}: {text}");
    }
}

#[test]
fn the_variables_of_an_entry_go_with_its_own_install_commands() {
    let entry = "[repo.\"x/y\"]\nvariables = { PRETEND = \"{version}.0\" }\ninstall = [\"a\"]\n\
                 python = \"3.9\"\npackages = []\ntest_command = \"t\"\n\
                 [[repo.\"x/y\".env]]\nversions = [\"1\"]\n";
    let catalog = load(&format!("{BASE}{entry}"), "").unwrap();
    let variables =
        |row: Option<&Instance>| catalog.environment("x/y", "1", row).unwrap().variables;
    assert_eq!(variables(None)["PRETEND"], "1.0");
    let own = InstallConfig { install: Some("b".into()), ..Default::default() };
    assert!(variables(Some(&rebench(own, ""))).is_empty());
    assert_eq!(variables(Some(&rebench(InstallConfig::default(), ""))).len(), 1);
}

/// What needs the test data: `scripts/test` leaves this module out where there is none.
mod test_data {
    use super::*;

    #[test]
    #[ignore = "needs the test data"]
    fn every_version_of_the_benchmark_agrees_with_its_facts() {
        let text = facts("environments.python.json");
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        let catalog = Catalog::embedded().unwrap();
        let mut count = 0;
        for (repo, versions) in all.as_object().unwrap() {
            for (version, fact) in versions.as_object().unwrap() {
                let found = catalog.environment(repo, version, None).unwrap();
                assert_eq!(python::minor(&found.wanted_python), fact["python"], "{repo} {version}");
                assert_eq!(found.python, found.wanted_python, "{repo} {version}");
                let install: Vec<&str> = fact["install"].as_str().into_iter().collect();
                assert_eq!(found.install, install, "{repo} {version}");
                assert_eq!(
                    found.test_command,
                    fact["test_cmd"].as_str().unwrap_or(""),
                    "{repo} {version}"
                );
                let eval = fact["eval_commands"].as_array().map_or(0, Vec::len);
                assert_eq!(found.eval_commands.len(), eval, "{repo} {version}");
                count += 1;
            }
        }
        assert_eq!(count, 300);
    }

    #[test]
    #[ignore = "needs the test data"]
    fn every_verified_instance_gets_the_pins_that_it_was_verified_with() {
        let text = facts("locks.verified.jsonl");
        let catalog = Catalog::embedded().unwrap();
        let mut count = 0;
        for line in text.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            for id in row["instance_ids"].as_array().unwrap() {
                let (repo, version) =
                    (row["repo"].as_str().unwrap(), row["version"].as_str().unwrap());
                let instance =
                    Instance { instance_id: id.as_str().unwrap().to_owned(), ..Default::default() };
                let found = catalog.environment(repo, version, Some(&instance)).unwrap();
                assert_eq!(found.wanted_python, row["python"], "{id}");
                assert_eq!(found.python, row["python"], "{id}");
                assert_eq!(found.base.args["PYTHON"], row["python"], "{id}");
                let lock = &found.locks[0].text;
                let own = repo.split('/').nth(1).unwrap();
                for pin in row["pip"].as_array().unwrap() {
                    let (name, pinned) = pin.as_str().unwrap().split_once("==").unwrap();
                    let name = name.to_lowercase().replace(['_', '.'], "-");
                    assert!(
                        name == own || lock.lines().any(|l| l == format!("{name}=={pinned}")),
                        "{id}: {name}=={pinned}"
                    );
                }
                count += 1;
            }
        }
        assert_eq!(count, 500);
    }
}
