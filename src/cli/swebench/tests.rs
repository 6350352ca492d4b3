//! Command lines as people publish them, in our own words, each with what it must mean here.
//!
//! They are those of the harness's help and README (4.1 and 5.0.2), and those of the scripts and
//! guides of OpenHands, SWE-agent, mini-swe-agent, Agentless, NeMo, moatless and others.

use std::ffi::OsString;

use clap::Parser as _;

use super::super::{Chosen, Cli, Command, Sources};
use super::{SwebenchArgs, translate};

/// A line, and what it means: only what differs from the defaults.
type Row = (&'static str, &'static str);

#[rustfmt::skip]
const LINES: &[Row] = &[
    // The README and the guide of 4.1.
    ("python -m swebench.harness.run_evaluation --predictions_path gold --max_workers 1 --instance_ids sympy__sympy-20590 --run_id validate-gold",
     "eval SWE-bench/SWE-bench_Lite ids=sympy__sympy-20590 p=gold run=validate-gold j=1 by-default"),
    ("python -m swebench.harness.run_evaluation --predictions_path gold --max_workers 1 --instance_ids sympy__sympy-20590 --run_id validate-gold --namespace ''",
     "eval SWE-bench/SWE-bench_Lite ids=sympy__sympy-20590 p=gold run=validate-gold j=1 ns= by-default"),
    ("python -m swebench.harness.run_evaluation --dataset_name princeton-nlp/SWE-bench_Lite --predictions_path preds.jsonl --max_workers 8 --run_id mine",
     "eval princeton-nlp/SWE-bench_Lite p=preds.jsonl run=mine j=8"),
    ("python -m swebench.harness.run_evaluation --predictions_path preds.jsonl --instance_ids httpie-cli__httpie-1088,sympy__sympy-20590 --max_workers 2",
     "eval SWE-bench/SWE-bench_Lite ids=httpie-cli__httpie-1088,sympy__sympy-20590 p=preds.jsonl j=2 by-default"),
    ("python -m swebench.harness.run_evaluation --predictions_path preds.jsonl --cache_level env --max_workers 8",
     "eval SWE-bench/SWE-bench_Lite p=preds.jsonl j=8 by-default note:images-are-kept"),
    ("python -m swebench.harness.run_evaluation --predictions_path preds.jsonl --clean True",
     "eval SWE-bench/SWE-bench_Lite p=preds.jsonl by-default note:images-are-kept"),
    ("python -m swebench.harness.run_evaluation --dataset_name SWE-bench/SWE-bench_Multimodal --split dev --predictions_path preds.json --run_id mm",
     "eval SWE-bench/SWE-bench_Multimodal split=dev p=preds.json run=mm"),
    ("python -m swebench.harness.run_evaluation --predictions_path gold --run_id validate-gold-modal --instance_ids sympy__sympy-20590 --modal true",
     "eval SWE-bench/SWE-bench_Lite ids=sympy__sympy-20590 p=gold run=validate-gold-modal by-default refused"),
    // All options of 4.1's help, long and short.
    ("python -m swebench.harness.run_evaluation -d SWE-bench/SWE-bench -s dev -i a__a-1 b__b-2 -p p.json --max_workers 4 --open_file_limit 4096 -t 900 --force_rebuild True --cache_level instance --clean False -id x -n none --instance_image_tag latest --env_image_tag latest --rewrite_reports False --report_dir out --modal False",
     "eval SWE-bench/SWE-bench split=dev ids=a__a-1,b__b-2 p=p.json run=x j=4 t=900 ns=none force dir=out note:--open_file_limit"),
    ("python -m swebench.harness.run_evaluation -d SWE-bench/SWE-bench -p p.json -id x --rewrite_reports true --env_image_tag v2 --instance_image_tag v3",
     "eval SWE-bench/SWE-bench p=p.json run=x rewrite tag=v3 note:--env_image_tag"),
    ("python -m swebench.harness.prepare_images --dataset_name princeton-nlp/SWE-bench_Verified --split test --instance_ids a__a-1 --max_workers 6 --force_rebuild yes --open_file_limit 8192 --namespace none --tag latest --env_image_tag latest",
     "build princeton-nlp/SWE-bench_Verified ids=a__a-1 j=6 ns=none force note:--open_file_limit"),
    ("python -m swebench.harness.prepare_images --dataset_name data.jsonl --max_workers 2 --tag v1 --namespace me --dry_run true",
     "build data.jsonl j=2 ns=me tag=v1 dry"),
    // The command of 5.0.2: its README and its help.
    ("swebench eval verified --gold -i sympy__sympy-20590 --run-id validate-gold",
     "eval verified ids=sympy__sympy-20590 p=gold run=validate-gold"),
    ("swebench eval verified -p preds.jsonl --run-id gpt5 -j 16", "eval verified p=preds.jsonl run=gpt5 j=16"),
    ("swebench eval verified --gold", "eval verified p=gold"),
    ("swebench eval multimodal --gold -i carbon-design-system__carbon-10188",
     "eval multimodal ids=carbon-design-system__carbon-10188 p=gold"),
    ("swebench eval full --gold --modal", "eval full p=gold refused"),
    ("swebench eval --gold --modal full", "eval full p=gold refused"),
    ("swebench eval lite --predictions p.jsonl --instance a__a-1 --instance b__b-2 --split dev --workers 3 --timeout 60 --report-dir r --open-file-limit 100",
     "eval lite split=dev ids=a__a-1,b__b-2 p=p.jsonl j=3 t=60 dir=r note:--open_file_limit"),
    ("swebench eval -i a__a-1 -i b__b-2 verified --gold", "eval verified ids=a__a-1,b__b-2 p=gold"),
    ("swebench eval -i a__a-1 b__b-2 ./rows.jsonl --gold", "eval ./rows.jsonl ids=a__a-1,b__b-2 p=gold"),
    ("swebench eval verified -p p.jsonl --task-repo ~/tasks", "eval verified p=p.jsonl refused"),
    ("swebench report my-run -d verified", "report my-run d=verified"),
    ("swebench report my-run -d multimodal -s dev -i grommet__grommet-6282 --report-dir out",
     "report my-run d=multimodal split=dev ids=grommet__grommet-6282 dir=out"),
    // OpenHands, the script that grades its output.
    ("python -m swebench.harness.run_evaluation --dataset_name princeton-nlp/SWE-bench_Lite --split test --predictions_path out/output.swebench.jsonl --timeout 3600 --cache_level instance --max_workers 4 --run_id 20250101_120000",
     "eval princeton-nlp/SWE-bench_Lite p=out/output.swebench.jsonl run=20250101_120000 j=4 t=3600"),
    ("python -m swebench.harness.run_evaluation --dataset_name princeton-nlp/SWE-bench_Verified --split test --predictions_path out/output.jsonl --timeout 3600 --instance_ids django__django-11099 --cache_level instance --max_workers 4 --run_id r",
     "eval princeton-nlp/SWE-bench_Verified ids=django__django-11099 p=out/output.jsonl run=r j=4 t=3600"),
    // SWE-agent's folder of trajectories, and mini-swe-agent's.
    ("python -m swebench.harness.run_evaluation --predictions_path trajectories/me/run/preds.json --dataset_name princeton-nlp/SWE-bench_Verified --max_workers 32 --run_id eval-swe-smith",
     "eval princeton-nlp/SWE-bench_Verified p=trajectories/me/run/preds.json run=eval-swe-smith j=32"),
    ("python -m swebench.harness.run_evaluation --dataset_name princeton-nlp/SWE-Bench_Verified --predictions_path preds.json --max_workers 8 --run_id mini",
     "eval princeton-nlp/SWE-Bench_Verified p=preds.json run=mini j=8"),
    ("python -m swebench.harness.run_evaluation -d princeton-nlp/SWE-bench_Lite -s test -p runs/a/preds.json -i a__a-1 b__b-2 c__c-3 -id r1 --max_workers 4 --cache_level instance",
     "eval princeton-nlp/SWE-bench_Lite ids=a__a-1,b__b-2,c__c-3 p=runs/a/preds.json run=r1 j=4"),
    // Agentless and those who compare with it.
    ("python -m swebench.harness.run_evaluation --dataset_name princeton-nlp/SWE-bench_Lite --predictions_path all_preds.jsonl --max_workers 10 --run_id agentless",
     "eval princeton-nlp/SWE-bench_Lite p=all_preds.jsonl run=agentless j=10"),
    ("python -m swebench.harness.run_evaluation --dataset_name princeton-nlp/SWE-bench_Lite --predictions_path all_preds.jsonl --max_workers 8 --cache_level instance --run_id test_basic",
     "eval princeton-nlp/SWE-bench_Lite p=all_preds.jsonl run=test_basic j=8"),
    // NeMo: one instance each, in its own folder.
    ("python -m swebench.harness.run_evaluation --predictions_path p.jsonl --instance_ids a__a-1 --timeout 1800 --dataset_name /data/rows.jsonl --run_id a__a-1 --report_dir /tmp/r",
     "eval /data/rows.jsonl ids=a__a-1 p=p.jsonl run=a__a-1 t=1800 dir=/tmp/r"),
    // moatless: a folder of predictions, everything kept.
    ("python -m swebench.harness.run_evaluation --dataset_name princeton-nlp/SWE-bench_Verified --predictions_path evals/x/predictions.jsonl --max_workers 5 --force_rebuild False --cache_level instance --clean False --run_id moatless",
     "eval princeton-nlp/SWE-bench_Verified p=evals/x/predictions.jsonl run=moatless j=5"),
    // Scripts of other people.
    ("python -m swebench.harness.run_evaluation --dataset_name princeton-nlp/SWE-bench_Lite --predictions_path preds.jsonl --max_workers 8 --run_id x --cache_level env --clean True --namespace ''",
     "eval princeton-nlp/SWE-bench_Lite p=preds.jsonl run=x j=8 ns= note:images-are-kept"),
    ("python -m swebench.harness.run_evaluation --dataset_name ScaleAI/SWE-bench_Pro --split test --predictions_path preds.json --max_workers 4 --run_id s --namespace none --force_rebuild true",
     "eval ScaleAI/SWE-bench_Pro p=preds.json run=s j=4 ns=none force"),
    ("python -m swebench.harness.run_evaluation --dataset_name nebius/SWE-rebench-leaderboard --split 2026_03 --predictions_path gold --instance_ids pgmpy__pgmpy-3137 --cache_level instance --run_id g --namespace swerebench",
     "eval nebius/SWE-rebench-leaderboard split=2026_03 ids=pgmpy__pgmpy-3137 p=gold run=g ns=swerebench"),
    ("python -m swebench.harness.run_evaluation --dataset_name rows.jsonl --split test --predictions_path one.json --max_workers 1 --timeout 1800 --force_rebuild false --cache_level instance --clean false --namespace swebench --run_id c",
     "eval rows.jsonl p=one.json run=c j=1 t=1800 ns=swebench"),
    ("python -m swebench.harness.run_evaluation --dataset_name swe-bench-lite --split dev --predictions_path ./p.json --max_workers 2 --namespace '' --run_id my_run_001",
     "eval swe-bench-lite split=dev p=./p.json run=my_run_001 j=2 ns="),
    ("python -m swebench.harness.run_evaluation --dataset_name rows.json --predictions_path p.json --instance_ids a__a-1 --run_id r --max_workers 1 --cache_level none --report_dir=out --clean=1",
     "eval rows.json ids=a__a-1 p=p.json run=r j=1 dir=out note:images-are-kept"),
    ("python -m swebench.harness.run_evaluation --dataset_name d.jsonl --predictions_path p.jsonl --max_workers 0 --run_id c",
     "eval d.jsonl p=p.jsonl run=c j=1"),
    ("python -m swebench.harness.run_evaluation --dataset_name princeton-nlp/SWE-bench_Lite --num_workers 4 --predictions_path ./tmp",
     "eval princeton-nlp/SWE-bench_Lite p=./tmp j=4"),
    ("python -m swebench.harness.run_evaluation --dataset_name d.jsonl --predictions_path p.jsonl -id=c --modal f --instance_ids @ids.txt",
     "eval d.jsonl ids=@ids.txt p=p.jsonl run=c"),
    ("python -m swebench.harness.remove_containers --run_id x", "clean run=x"),
];

/// Parses the words of a line as the shell would give them.
fn parse(line: &str) -> Result<Cli, clap::Error> {
    let heads = [
        ("python -m swebench.harness.run_evaluation", "imgforge eval"),
        ("python -m swebench.harness.prepare_images", "imgforge build"),
        ("python -m swebench.harness.remove_containers", "imgforge clean"),
        ("swebench", "imgforge"),
    ];
    let rest = |(head, own): &(&str, &str)| Some(format!("{own}{}", line.strip_prefix(head)?));
    let line = heads.iter().find_map(rest).unwrap_or_else(|| line.to_owned());
    let words = line.split_whitespace().map(|word| if word == "''" { "" } else { word });
    Cli::try_parse_from(translate(words.map(OsString::from).collect()))
}

fn add_chosen(parts: &mut Vec<String>, chosen: &Chosen) {
    parts.push(chosen.dataset.clone());
    add(parts, "split", (chosen.split != "test").then_some(&chosen.split));
    add_ids(parts, &chosen.instance_ids);
}

fn add_ids(parts: &mut Vec<String>, ids: &[String]) {
    let ids = crate::forge::rows::ids(ids, |text| text.starts_with('@')).unwrap();
    add(parts, "ids", (!ids.is_empty()).then(|| ids.join(",")));
}

fn add(parts: &mut Vec<String>, name: &str, value: Option<impl ToString>) {
    parts.extend(value.map(|value| format!("{name}={}", value.to_string())));
}

fn add_sources(parts: &mut Vec<String>, sources: &Sources) {
    add(parts, "ns", sources.namespace.as_ref());
}

fn add_end(parts: &mut Vec<String>, sources: &Sources, by_default: bool, swebench: &SwebenchArgs) {
    add(parts, "tag", sources.options().image_tag.as_deref());
    parts.extend(by_default.then(|| "by-default".to_owned()));
    for note in swebench.notes() {
        let words: Vec<&str> = note.split(' ').take(3).collect();
        let subject =
            if words[0].starts_with("--") { words[0].to_owned() } else { words.join("-") };
        parts.push(format!("note:{subject}"));
    }
    parts.extend(swebench.is_refused().then(|| "refused".to_owned()));
}

/// Says what a line means.
fn meaning(line: &str) -> String {
    let cli = parse(line).unwrap_or_else(|error| panic!("{line}\n{error}"));
    let mut parts = Vec::new();
    let flag = |is: bool, name: &str| is.then(|| name.to_owned());
    match &cli.command {
        Command::Eval(args) => {
            parts.push("eval".to_owned());
            add_chosen(&mut parts, &args.chosen);
            add(&mut parts, "p", Some(args.predictions().join(",")));
            add(&mut parts, "run", args.run_id.as_ref());
            add(&mut parts, "j", args.exec.max_workers);
            add(&mut parts, "t", args.run.timeout);
            add_sources(&mut parts, &args.sources);
            parts.extend(flag(args.force_rebuild, "force"));
            parts.extend(flag(args.rewrite_reports, "rewrite"));
            let dir = args.outputs.report_dir.as_ref().map(|dir| dir.display().to_string());
            add(&mut parts, "dir", dir.filter(|dir| dir != "."));
            add_end(&mut parts, &args.sources, args.chosen.by_default, &args.swebench);
        }
        Command::Build(args) => {
            parts.push("build".to_owned());
            add_chosen(&mut parts, &args.chosen);
            add(&mut parts, "j", args.exec.max_workers);
            add_sources(&mut parts, &args.sources);
            parts.extend(flag(args.force_rebuild, "force"));
            add_end(&mut parts, &args.sources, args.chosen.by_default, &args.swebench);
            parts.extend(flag(args.dry_run, "dry"));
        }
        Command::Report(args) => {
            parts.push(format!("report {}", args.run_id));
            add(&mut parts, "d", args.dataset.as_ref());
            add(&mut parts, "split", args.split.as_ref());
            add_ids(&mut parts, &args.instance_ids);
            let dir = args.outputs.report_dir.as_ref().map(|dir| dir.display().to_string());
            add(&mut parts, "dir", dir.filter(|dir| dir != "."));
        }
        Command::Clean(args) => {
            parts.push("clean".to_owned());
            add(&mut parts, "run", args.run_id.as_ref());
        }
        other => panic!("{other:?}"),
    }
    parts.join(" ")
}

#[test]
fn published_command_lines_of_the_harness_mean_what_they_mean_there() {
    assert!(LINES.len() >= 40, "{}", LINES.len());
    for (line, wanted) in LINES {
        assert_eq!(meaning(line), *wanted, "{line}");
    }
}

#[test]
fn words_that_are_no_ids_end_a_list_of_ids() {
    for (line, wanted) in [
        ("imgforge plan -i a__a-1 b__b-1 demo", "demo"),
        ("imgforge plan -i a__a-1 SWE-bench/SWE-bench", "SWE-bench/SWE-bench"),
        ("imgforge plan --exclude a__a-1 b__b-1 rows.parquet", "rows.parquet"),
        ("imgforge --engine docker plan -i a__a-1 b__b-1 -d demo", "demo"),
    ] {
        let Command::Plan(args) = parse(line).unwrap().command else { panic!("{line}") };
        assert_eq!(args.chosen.dataset, wanted, "{line}");
        let listed = args.chosen.instance_ids.len() + args.chosen.exclude.len();
        assert!(args.chosen.instance_ids.len() <= 2 && listed >= 1, "{line}");
    }
    let Command::Plan(args) = parse("imgforge plan -d demo -i a__a-1 b__b-1").unwrap().command
    else {
        panic!()
    };
    assert_eq!(args.chosen.instance_ids, ["a__a-1", "b__b-1"]);
}

#[test]
fn a_dataset_is_named_once_and_patches_come_from_one_place() {
    for (line, said) in [
        ("swebench eval lite -d verified --gold", "named twice: `lite` and `-d verified`"),
        ("swebench eval lite --gold -p x.jsonl", "cannot be used with"),
        ("swebench eval lite", "--predictions <PATH>"),
        ("swebench eval --gold", "<DATASET>"),
        (
            "swebench eval lite --gold --cache_level all",
            "possible values: none, base, env, instance",
        ),
    ] {
        let error = parse(line).unwrap_err().to_string();
        assert!(error.contains(said), "{line}: {error}");
    }
}

#[test]
fn words_of_other_commands_and_after_two_dashes_stay_as_they_are() {
    let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
    for line in
        ["imgforge lock -id a_b --x_y", "imgforge --version", "imgforge", "imgforge eval -- -id"]
    {
        assert_eq!(translate(words(line)), words(line), "{line}");
    }
    let said = translate(words("imgforge eval --clean Maybe --dry_run=no -i"));
    assert_eq!(said, words("imgforge eval --clean Maybe --instance-ids"));
}
