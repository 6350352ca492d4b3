//! Real base and environment images, built twice. That takes minutes and the package indexes of
//! Debian and Python: it is done where `IMGFORGE_TEST_INDEXES` is set.

use imgforge::catalog::Catalog;
use imgforge::config::host_access;
use imgforge::engine::Image;
use imgforge::key::KeyDocument;
use imgforge::key::Kind;
use imgforge::recipe::EnvRecipe;

use crate::common::{Bench, Log, on_every_engine};
use crate::needs::{NotHere, not_here};

/// Builds the base and the environment of flask 2.3, no step of which may come from a cache.
async fn build(bench: &Bench, run: &str) -> [Image; 2] {
    let catalog = Catalog::embedded().unwrap();
    let environment = catalog.environment("pallets/flask", "2.3", None).unwrap();
    let network = std::env::var("IMGFORGE_TEST_NETWORK").ok();
    let mut host = host_access(|name| std::env::var(name).ok(), None, network).unwrap();
    host.variables.insert("IMGFORGE_TEST_RUN".to_owned(), format!("{} {run}", bench.owner));
    let mut request = bench.build(&environment.base.dockerfile, &format!("base-{run}"));
    request.context.clone_from(&environment.base.context);
    request.args.clone_from(&environment.base.args);
    request.host = host.clone();
    let log = Log::default();
    let base = bench.engine.build(&request, &log).await;
    let base = base.unwrap_or_else(|error| panic!("{error}: {}", log.text()));
    let key = KeyDocument::new(Kind::Base).key();
    let recipe = EnvRecipe::new(&environment, key, "", &bench.base.platform);
    let name = bench.name(&format!("base-{run}"));
    let mut request = bench.build(&recipe.dockerfile(&name), &format!("env-{run}"));
    request.context = recipe.context(&[]);
    request.host = host;
    let log = Log::default();
    let env = bench.engine.build(&request, &log).await;
    let env = env.unwrap_or_else(|error| panic!("{error}: {}", log.text()));
    [base, env]
}

#[test]
#[ignore = "needs to be asked for"]
fn a_base_and_an_environment_have_the_same_layers_when_they_are_built_again() {
    if std::env::var_os("IMGFORGE_TEST_INDEXES").is_none() {
        return not_here(NotHere::Unasked("IMGFORGE_TEST_INDEXES"));
    }
    on_every_engine(|bench| async move {
        let one = build(&bench, "one").await;
        let two = build(&bench, "two").await;
        assert_eq!(one[0].diff_ids, two[0].diff_ids);
        assert_eq!(one[1].diff_ids, two[1].diff_ids);
        let (_, output) = bench
            .shell(&bench.name("env-one"), "python -c 'import click; print(click.__name__)'")
            .await;
        assert_eq!(output, "click\n");
    });
}
