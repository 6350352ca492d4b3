//! From a log to a verdict: the rules that an instance is graded by, and what they come to.

use std::io::{BufRead, Seek, SeekFrom};

use crate::dataset::Instance;
use crate::nearest::nearest;

use super::closing::runs;
use super::infra::TREE_VANISHED;
use super::{
    Context, EvalType, Expected, Family, InfraFailure, NoResult, Parser, ReadError, Resolution,
    Suspicion, TestsStatus, Tier, classify, family, parser, parsers, read_log, sentinel,
    tests_status,
};

/// The parser of each repository, for rows that do not name theirs.
const PARSERS: [(&str, &str); 18] = [
    ("astropy/astropy", "parse_log_astropy"),
    ("django/django", "parse_log_django"),
    ("marshmallow-code/marshmallow", "parse_log_marshmallow"),
    ("matplotlib/matplotlib", "parse_log_matplotlib"),
    ("mwaskom/seaborn", "parse_log_seaborn"),
    ("pallets/flask", "parse_log_flask"),
    ("psf/requests", "parse_log_requests"),
    ("pvlib/pvlib-python", "parse_log_pvlib"),
    ("pydata/xarray", "parse_log_xarray"),
    ("pydicom/pydicom", "parse_log_pydicom"),
    ("pylint-dev/astroid", "parse_log_astroid"),
    ("pylint-dev/pylint", "parse_log_pylint"),
    ("pytest-dev/pytest", "parse_log_pytest"),
    ("pyvista/pyvista", "parse_log_pyvista"),
    ("scikit-learn/scikit-learn", "parse_log_scikit"),
    ("sphinx-doc/sphinx", "parse_log_sphinx"),
    ("sqlfluff/sqlfluff", "parse_log_sqlfluff"),
    ("sympy/sympy", "parse_log_sympy"),
];

/// The rules by which an instance is graded.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The parser of the log.
    pub parser: &'static Parser,
    /// Which results count.
    pub eval_type: EvalType,
    /// Whose comparison holds.
    pub family: Family,
    /// Whether the stricter rules hold.
    pub strict: bool,
}

/// A row that cannot be graded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// There is no parser of that name.
    #[error("`log_parser` of `{instance_id}` is `{name}`, which no parser is called")]
    UnknownParser {
        /// The row.
        instance_id: String,
        /// The name.
        name: String,
    },
    /// The row names no parser, and its repository has none.
    #[error("`{instance_id}` has no `log_parser`, and none is known for `{repo}`")]
    NoParser {
        /// The row.
        instance_id: String,
        /// The repository.
        repo: String,
    },
    /// `eval_type` is neither of the two.
    #[error("`eval_type` of `{instance_id}` is `{name}`, not `pass_and_fail` or `fail_only`")]
    UnknownEvalType {
        /// The row.
        instance_id: String,
        /// The name.
        name: String,
    },
    /// No test decides.
    #[error("`{instance_id}` expects no test: neither `FAIL_TO_PASS` nor `PASS_TO_PASS` names one")]
    NoTests {
        /// The row.
        instance_id: String,
    },
    /// The row lacks what R2E compares with.
    #[error("`{instance_id}` has no `expected_output_json`, which `--grading r2e` compares with")]
    NoExpectedOutput {
        /// The row.
        instance_id: String,
    },
}

impl RulesError {
    /// Returns what would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            RulesError::UnknownParser { name, .. } => {
                let near = nearest(name, parsers().map(|(name, _)| name));
                let near = near.map_or(String::new(), |near| format!("the nearest is `{near}`; "));
                Some(format!("{near}docs/grading.md says how logs are read"))
            }
            RulesError::NoParser { .. } => {
                Some("name one of the harness's parsers in the row, as `log_parser`".to_owned())
            }
            RulesError::NoTests { .. } => {
                Some("with nothing expected every patch would be right; docs/grading.md has the names of the columns".to_owned())
            }
            RulesError::UnknownEvalType { .. } | RulesError::NoExpectedOutput { .. } => None,
        }
    }
}

impl Rules {
    /// Reads a log that is of no row: there is nothing to compare it with.
    pub fn of_parser(name: &str) -> Result<Rules, RulesError> {
        let unknown =
            || RulesError::UnknownParser { instance_id: String::new(), name: name.to_owned() };
        let parser = parser(name).ok_or_else(unknown)?;
        let family = Family::Swebench;
        Ok(Rules { parser, eval_type: EvalType::PassAndFail, family, strict: false })
    }

    /// Reads how a row is graded, by the rules of the harness.
    pub fn of(instance: &Instance) -> Result<Rules, RulesError> {
        Rules::with(instance, Family::Swebench, false)
    }

    /// Makes sure that a row names the tests that decide: a row that expects nothing would be
    /// resolved by every patch.
    pub fn expects_tests(instance: &Instance, family: Family) -> Result<(), RulesError> {
        let instance_id = || instance.instance_id.clone();
        let lists = [&instance.FAIL_TO_PASS, &instance.PASS_TO_PASS];
        match (family, &instance.expected_output_json) {
            (Family::R2e, None) => Err(RulesError::NoExpectedOutput { instance_id: instance_id() }),
            (Family::R2e, Some(expected)) if expected.is_empty() => {
                Err(RulesError::NoTests { instance_id: instance_id() })
            }
            (Family::R2e, Some(_)) => Ok(()),
            _ if lists.iter().all(|list| list.is_empty()) => {
                Err(RulesError::NoTests { instance_id: instance_id() })
            }
            _ => Ok(()),
        }
    }

    /// Reads how a row is graded.
    pub fn with(instance: &Instance, family: Family, strict: bool) -> Result<Rules, RulesError> {
        let instance_id = || instance.instance_id.clone();
        let known = |repo: &str| PARSERS.iter().find(|(of, _)| *of == repo).map(|(_, name)| *name);
        let name = instance.log_parser.as_deref().or_else(|| known(&instance.repo));
        let Some(name) = name else {
            let repo = instance.repo.clone();
            return Err(RulesError::NoParser { instance_id: instance_id(), repo });
        };
        let Some(parser) = parser(name) else {
            let name = name.to_owned();
            return Err(RulesError::UnknownParser { instance_id: instance_id(), name });
        };
        let eval_type = match instance.eval_type.as_deref() {
            None => EvalType::PassAndFail,
            Some(name) => name.parse().map_err(|_| {
                let name = name.to_owned();
                RulesError::UnknownEvalType { instance_id: instance_id(), name }
            })?,
        };
        Rules::expects_tests(instance, family)?;
        Ok(Rules { parser, eval_type, family, strict })
    }
}

/// A log with the results of the expected tests.
#[derive(Debug, Clone)]
pub struct Graded {
    /// Why the log shows no results; the other fields say nothing of tests then.
    pub not_found: Option<NoResult>,
    /// The recorded exit status of the test command.
    pub exit_code: Option<i64>,
    /// The expected tests by their success; absent where the log shows no results.
    pub tests: Option<TestsStatus>,
    /// The share of the expected tests that did as expected.
    pub resolution: Option<Resolution>,
    /// Under the strict rules: markers that the tests printed themselves.
    pub forged: usize,
    /// Under the strict rules: whether the default rules would call the log resolved.
    pub lenient: bool,
    /// Parts of the log that an honest run does not have.
    pub suspicions: Vec<Suspicion>,
    /// What may be at fault, when the instance is not resolved.
    pub infra: Option<InfraFailure>,
}

impl Graded {
    /// Tells whether all expected tests did what they should.
    pub fn resolved(&self) -> bool {
        self.resolution == Some(Resolution::Full)
    }

    /// Returns how many of the expected tests did what they should, and how many there are.
    pub fn counts(&self) -> Option<(usize, usize)> {
        let tests = self.tests.as_ref()?;
        let both = [&tests.fail_to_pass, &tests.pass_to_pass];
        let good: usize = both.iter().map(|list| list.success.len()).sum();
        let bad: usize = both.iter().map(|list| list.failure.len()).sum();
        Some((good, good + bad))
    }

    /// Tells whether there are no results and the environment, not the patch, is the likely cause.
    pub fn environment_at_fault(&self) -> bool {
        self.not_found.is_some()
            && self.infra.as_ref().is_some_and(|infra| infra.tier == Tier::Environment)
    }
}

impl Graded {
    /// Tells whether the tests never began because the tree of the repository was gone: then the log
    /// is none of theirs, and says nothing of the patch.
    pub fn tree_vanished(&self) -> bool {
        self.environment_at_fault()
            && self.infra.as_ref().is_some_and(|infra| infra.reason == TREE_VANISHED)
    }
}

/// Counts expected tests that are in neither list as failures.
fn strictly(mut tests: TestsStatus, expected: &Expected<'_>) -> TestsStatus {
    for (outcome, all) in [
        (&mut tests.fail_to_pass, expected.fail_to_pass),
        (&mut tests.pass_to_pass, expected.pass_to_pass),
    ] {
        let known: std::collections::HashSet<&String> =
            outcome.success.iter().chain(&outcome.failure).collect();
        let lost: Vec<String> = all.iter().filter(|test| !known.contains(test)).cloned().collect();
        outcome.failure.extend(lost);
    }
    tests
}

/// Grades the log of an instance.
///
/// # Errors
/// When the log cannot be read, or the parser does not take the instance.
pub fn grade(
    log: &mut (impl BufRead + Seek),
    rules: &Rules,
    instance: &Instance,
) -> Result<Graded, ReadError> {
    let (instance_id, version) = (&instance.instance_id, &instance.version);
    let context = Context { instance_id, version, strict: rules.strict, runs: runs::of(instance) };
    let reading = read_log(log, rules.parser, &context)?;
    let mut graded = Graded {
        not_found: reading.not_found,
        exit_code: reading.exit_code,
        tests: None,
        resolution: None,
        forged: 0,
        lenient: false,
        suspicions: reading.suspicions,
        infra: None,
    };
    if reading.found {
        let expected = Expected {
            eval_type: rules.eval_type,
            fail_to_pass: &instance.FAIL_TO_PASS,
            pass_to_pass: &instance.PASS_TO_PASS,
        };
        let map = &reading.status_map;
        let tests = match (rules.family, &instance.expected_output_json) {
            (Family::R2e, Some(wanted)) => family::r2e(map, wanted),
            (Family::Swesmith, _) => family::swesmith(map, &expected),
            _ if rules.strict => strictly(tests_status(map, &expected), &expected),
            _ => tests_status(map, &expected),
        };
        graded.resolution = Some(tests.resolution());
        graded.tests = Some(tests);
    }
    if rules.strict {
        log.seek(SeekFrom::Start(0))?;
        graded.forged = sentinel::forged(log)?;
        log.seek(SeekFrom::Start(0))?;
        let lenient = Rules { strict: false, ..*rules };
        graded.lenient = grade(log, &lenient, instance)?.resolved();
    }
    if !graded.resolved() {
        log.seek(SeekFrom::Start(0))?;
        graded.infra = classify(log)?;
    }
    Ok(graded)
}
