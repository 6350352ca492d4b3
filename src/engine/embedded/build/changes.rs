//! Changes of a config by single instructions, as `docker commit --change` has them.

use std::collections::BTreeMap;

use crate::engine::{ImageConfig, Result};

use super::stage::Action;
use super::{Built, refused, stages};

/// Does what instructions do to a config.
pub(crate) fn change_config(config: &ImageConfig, text: &str) -> Result<ImageConfig> {
    let text = format!("FROM scratch\n{text}\n");
    let stages = stages(&text, &BTreeMap::new()).map_err(refused)?;
    let [stage] = stages.as_slice() else { return Err(refused("a change is no stage")) };
    let mut built = Built { layers: Vec::new(), config: config.clone() };
    let mut variables = stage.variables(&built.config.env);
    for step in &stage.steps {
        let at = |reason: String| refused(format!("`{}`: {reason}", step.text));
        match step.action(&mut variables, &mut built).map_err(at)? {
            Action::Config => {}
            // A directory is made when a container starts in it.
            Action::Copy(copy) if copy.sources.is_empty() => {}
            Action::Copy(_) | Action::Run(_) => {
                return Err(at("it is not a change of a config".to_owned()));
            }
        }
    }
    Ok(built.config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_a_config_and_what_runs_does_not() {
        let config = ImageConfig { env: vec!["A=0".to_owned()], ..ImageConfig::default() };
        let text = "ENV A=1 B=$A\nCMD [\"bash\"]\nWORKDIR /w\nLABEL x=y\nUSER me";
        let changed = change_config(&config, text).unwrap();
        assert_eq!(changed.env, ["A=1", "B=0"]);
        assert_eq!((changed.cmd, changed.working_dir), (vec!["bash".to_owned()], "/w".to_owned()));
        assert_eq!((changed.user.as_str(), changed.labels["x"].as_str()), ("me", "y"));
        for text in ["RUN x", "COPY a b", "FROM b", "NOSUCH"] {
            assert!(change_config(&config, text).is_err(), "{text}");
        }
    }
}
