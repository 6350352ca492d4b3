//! Reading logs: megabytes a second by format, on the logs of `tests/logs` repeated.

use std::io::Cursor;
use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use imgforge::grade::{Context, parser, parsers, read_log};

/// How large each log is made.
const BYTES: usize = 4 << 20;

fn log_of(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs").join(name);
    let text = std::fs::read_to_string(path.join("case.log")).expect("every format has a log");
    let (head, rest) = text.split_once('\n').expect("a log begins with its marker");
    let (tests, tail) = rest.split_once("+ : '>>>>> End").expect("a log ends with its marker");
    let repeated = tests.repeat(BYTES / tests.len() + 1);
    format!("{head}\n{repeated}+ : '>>>>> End{tail}").into_bytes()
}

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("logs");
    group.sample_size(10);
    for (name, first) in parsers() {
        // The first two are one document and cannot be repeated; the others need a known instance.
        let alone = ["parse_log_prismjs", "parse_log_doctest", "parse_log_jekyll"];
        if name != first || alone.contains(&name) || name == "parse_log_immutable_js" {
            continue;
        }
        let log = log_of(name);
        let context = Context { instance_id: "a__b-1", version: "10.0", strict: false, runs: None };
        let parser = parser(name).expect("it is listed");
        group.throughput(Throughput::Bytes(log.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), &log, |bencher, log| {
            bencher.iter(|| read_log(&mut Cursor::new(log), parser, &context).expect("it is read"));
        });
    }
    group.finish();
}

criterion_group!(benches, reading);
criterion_main!(benches);
