//! Planning and keying: 300, 2,294 and 100,000 instances.

use std::collections::BTreeMap;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use imgforge::catalog::Catalog;
use imgforge::dataset::Instance;
use imgforge::key::{KeyDocument, Kind};
use imgforge::plan::{Inventory, PlanOptions, Planner, Work};
use imgforge::platform::Platform;

/// Instances over the whole catalog, each at a commit of its own.
fn work(catalog: &Catalog, count: usize) -> Vec<Work> {
    let versions: Vec<(String, String)> = catalog
        .versions()
        .flat_map(|(repo, versions)| {
            versions.map(move |version| (repo.to_owned(), version.to_owned()))
        })
        .collect();
    (0..count)
        .map(|number| {
            let (repo, version) = &versions[number % versions.len()];
            let instance = Instance {
                instance_id: format!("{}-{number}", repo.replace('/', "__")),
                repo: repo.clone(),
                version: version.clone(),
                base_commit: format!("{number:040x}"),
                environment_setup_commit: Some("0".repeat(40)),
                test_patch: "diff --git a/x b/x\n".repeat(40).into(),
                ..Instance::default()
            };
            Work { instance: Arc::new(instance), prediction: None }
        })
        .collect()
}

fn planning(criterion: &mut Criterion) {
    let catalog = Catalog::embedded().expect("the built-in catalog is right");
    let from = BTreeMap::new();
    let mut group = criterion.benchmark_group("plan");
    group.sample_size(10);
    for count in [300, 2_294, 100_000] {
        let work = work(&catalog, count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::from_parameter(count), &work, |bencher, work| {
            bencher.iter(|| {
                let options = PlanOptions {
                    platform: Platform::written("linux/amd64"),
                    namespace: None,
                    derive_images: false,
                    image_tag: None,
                    up_to: Kind::Instance,
                    evaluate: None,
                };
                let plan = Planner::new(&catalog, options, &from).plan(work);
                let mut plan = plan.expect("every version is in the catalog");
                plan.assess(&Inventory::default(), false);
                plan.graph.node_count()
            });
        });
    }
    group.finish();
}

fn keying(criterion: &mut Criterion) {
    let document = KeyDocument::new(Kind::Checkout)
        .with("base_commit", "a".repeat(40))
        .with("install", ["python -m pip install -e ."])
        .with("parent", "b".repeat(64))
        .with("repo", "pallets/flask");
    criterion.bench_function("key", |bencher| bencher.iter(|| document.key()));
}

criterion_group!(benches, planning, keying);
criterion_main!(benches);
