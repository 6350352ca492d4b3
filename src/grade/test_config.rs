//! Files that reach for the run of the tests itself.
//!
//! Five lines of `conftest.py` turn a failing suite into `2 passed` with exit status 0, so a patch
//! that changes what configures a test runner, an interpreter or the tests is named in the report,
//! and under the strict rules undone. What a file does is told by the parts of its path: each
//! [`Rule`] has patterns for one part. The same rules as a function of `bash`, for what only a
//! container sees, are [`shell_function`].

use std::sync::LazyLock;

use glob::Pattern;

use crate::tree::{Change, Happened};

/// Files of a kind.
struct Rule {
    /// Patterns of a part of a path, in which `*` stands for anything.
    parts: &'static [&'static str],
    /// What such a file does to a run.
    what: &'static str,
    /// Whether it is undone under the strict rules. What only says how the code is built stays: it
    /// runs as a user without rights, and patches that add a source file must change it.
    undone: bool,
}

/// The rules; the first that fits a path says what it does.
const RULES: [Rule; 16] = [
    Rule {
        parts: &["conftest.py"],
        what: "changes how pytest collects and reports tests",
        undone: true,
    },
    Rule {
        parts: &["pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml"],
        what: "configures pytest",
        undone: true,
    },
    Rule {
        parts: &["setup.cfg", "pyproject.toml", "tox.ini", "tox.toml", "noxfile.py"],
        what: "may configure pytest, tox or nox",
        undone: true,
    },
    Rule {
        parts: &[
            "sitecustomize*",
            "usercustomize*",
            "*.pth",
            "*._pth",
            "pyvenv.cfg",
            "__editable__*",
            "*.egg-link",
        ],
        what: "runs at every start of Python",
        undone: true,
    },
    Rule {
        parts: &["__pycache__", "*.pyc", "*.pyo"],
        what: "is loaded in place of a source file",
        undone: true,
    },
    Rule {
        parts: &["pytest_*.py", "_pytest*.py", "*.dist-info", "*.egg-info", "entry_points.txt"],
        what: "may be a plugin of pytest",
        undone: true,
    },
    Rule {
        parts: &[
            "nose.cfg",
            ".noserc",
            "unittest.cfg",
            ".testr.conf",
            ".stestr.conf",
            ".coveragerc",
            "runtests*",
            "run_tests*",
            "doctest",
        ],
        what: "runs or configures tests of Python",
        undone: true,
    },
    Rule {
        parts: &[
            "package.json",
            "node_modules",
            ".npmrc",
            ".yarnrc*",
            ".yarn",
            ".pnp.*",
            ".pnpmfile.*",
            "jest.config*",
            "jest.setup*",
            "setupTests.*",
            "vitest.*",
            "vite.config*",
            ".mocharc*",
            "mocha.opts",
            "karma.*",
            "testem.*",
            "ava.config*",
            ".taprc",
            ".nycrc*",
            "babel.config*",
            ".babelrc*",
            ".swcrc",
            "tsconfig*",
            "playwright.config*",
            "cypress.config*",
            "wdio.*",
            "gulpfile*",
            "Gruntfile*",
            "nx.json",
            "turbo.json",
            "lerna.json",
        ],
        what: "runs or configures tests of JavaScript",
        undone: true,
    },
    Rule {
        parts: &["Cargo.toml", ".cargo", "nextest.toml", "rust-toolchain*"],
        what: "configures cargo",
        undone: true,
    },
    Rule { parts: &["go.mod", "go.work", "vendor"], what: "configures go", undone: true },
    Rule {
        parts: &[
            "pom.xml",
            ".mvn",
            "mvnw*",
            "build.gradle*",
            "settings.gradle*",
            "gradle.properties",
            "gradlew*",
            "gradle-wrapper*",
            "buildSrc",
            "build-logic",
            "build.xml",
            "build.sbt",
            "junit-platform.properties",
            "testng*.xml",
            "META-INF",
        ],
        what: "configures gradle, maven or their runners",
        undone: true,
    },
    Rule {
        parts: &[
            ".rspec*",
            "spec_helper*",
            "rails_helper*",
            "test_helper*",
            "Rakefile",
            "*.rake",
            "Gemfile*",
            ".bundle",
        ],
        what: "runs or configures tests of Ruby",
        undone: true,
    },
    Rule {
        parts: &["phpunit*", ".phpunit*", "composer.json", "pest.php", "Pest.php"],
        what: "runs or configures tests of PHP",
        undone: true,
    },
    Rule {
        parts: &[
            "Makefile",
            "makefile",
            "GNUmakefile",
            "Makefile.in",
            "Makefile.am",
            "*.mk",
            "justfile",
            "Justfile",
            "Taskfile*",
            "SConstruct",
            "CTest*",
        ],
        what: "says what a command that builds or tests does",
        undone: true,
    },
    Rule {
        parts: &[
            "test",
            "tests",
            "testing",
            "Test",
            "Tests",
            "test_*",
            "tests_*",
            "test-*",
            "*_test",
            "*_tests",
            "*-tests",
            "*Tests",
            "unittest",
            "unittests",
            "spec",
            "specs",
            "e2e",
            "__tests__",
            "__mocks__",
            "__snapshots__",
            "testdata",
            "test.*",
            "tests.*",
            "*_test.*",
            "*_tests.*",
            "*-test.*",
            "*.test.*",
            "*.spec.*",
            "*_spec.*",
            "*-spec.*",
            "*Test.*",
            "*Tests.*",
            "*IT.java",
            "*TestCase.*",
        ],
        what: "is a test, or beside tests",
        undone: true,
    },
    Rule {
        parts: &[
            "setup.py",
            "build.rs",
            "CMakeLists.txt",
            "*.cmake",
            "meson.build",
            "configure",
            "configure.ac",
            "hatch_build.py",
            "_build_backend*",
        ],
        what: "runs when the code is built or installed",
        undone: false,
    },
];

/// Where Python looks for modules in a repository.
const ROOTS: [&str; 2] = ["src/", "lib/"];

/// Modules of Python and of its test runners, which a new file of that name would hide.
const MODULES: &str = "
    __future__ __init__ _abc _ast _asyncio _bisect _blake2 _bz2 _codecs _collections _collections_abc
    _compression _contextvars _crypt _csv _ctypes _curses _curses_panel _datetime _dbm _decimal
    _elementtree _frozen_importlib _frozen_importlib_external _functools _gdbm _hashlib _heapq
    _imp _io _json _locale _lsprof _lzma _markupbase _md5 _multibytecodec _multiprocessing
    _opcode _operator _pickle _posixshmem _posixsubprocess _py_abc _pydecimal _pyio _pytest
    _queue _random _sha1 _sha256 _sha3 _sha512 _signal _sitebuiltins _socket _sqlite3 _sre _ssl
    _stat _statistics _string _strptime _struct _symtable _thread _threading_local _tokenize
    _tracemalloc _typing _uuid _warnings _weakref _weakrefset _zoneinfo abc aifc argparse array
    ast asynchat asyncio asyncore atexit attr attrs audioop base64 bdb binascii bisect builtins
    bz2 cProfile calendar cgi cgitb chunk cmath cmd code codecs codeop collections colorsys
    compileall concurrent configparser contextlib contextvars copy copyreg crypt csv ctypes
    curses dataclasses datetime dbm decimal difflib dis distutils doctest email encodings enum
    errno exceptiongroup execnet faulthandler fcntl filecmp fileinput fnmatch fractions ftplib
    functools gc genericpath getopt getpass gettext glob graphlib grp gzip hashlib heapq hmac
    html http imaplib imghdr imp importlib iniconfig inspect io ipaddress itertools json keyword
    linecache locale logging lzma mailbox mailcap marshal math mimetypes mmap modulefinder
    multiprocessing netrc nis nntplib nose nose2 numbers opcode operator optparse os ossaudiodev
    packaging pathlib pdb pickle pickletools pip pipes pkg_resources pkgutil platform plistlib
    pluggy poplib posix posixpath pprint profile pstats pty pwd py py_compile pyclbr pydoc
    pydoc_data pyexpat pytest queue quopri random re readline reprlib resource rlcompleter runpy
    sched secrets select selectors setuptools shelve shlex shutil signal site smtpd smtplib
    sndhdr socket socketserver spwd sqlite3 sre_compile sre_constants sre_parse ssl stat
    statistics string stringprep struct subprocess sunau symtable sys sysconfig syslog tabnanny
    tarfile telnetlib tempfile termios textwrap threading time timeit token tokenize tomllib tox
    trace traceback tracemalloc tty types typing unicodedata unittest urllib uu uuid warnings
    wave weakref webbrowser wsgiref xdist xdrlib xml xmlrpc zipapp zipfile zipimport zlib
    zoneinfo
";

static PATTERNS: LazyLock<Vec<(Vec<Pattern>, &'static Rule)>> = LazyLock::new(|| {
    let compile = |part: &&str| Pattern::new(part).expect("the patterns are constant");
    RULES.iter().map(|rule| (rule.parts.iter().map(compile).collect(), rule)).collect()
});

/// Returns the module of Python that the file at `path` would be, where it is one.
fn module(path: &str) -> Option<&str> {
    let below = ROOTS.iter().find_map(|root| path.strip_prefix(root)).unwrap_or(path);
    let (first, rest) = below.split_once('/').unwrap_or((below, ""));
    match rest {
        "" => first.split_once('.').map(|(name, _)| name),
        rest => rest.starts_with("__init__.").then_some(first),
    }
}

/// What a changed file does to a run of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// In words.
    pub what: &'static str,
    /// Whether the strict rules undo the change.
    pub undone: bool,
}

/// Returns what a change does to a run of tests, when it does something.
pub fn reach(change: &Change) -> Option<Reach> {
    let path = String::from_utf8_lossy(&change.path);
    let fits = |patterns: &[Pattern]| {
        path.split('/').any(|part| patterns.iter().any(|pattern| pattern.matches(part)))
    };
    if let Some((_, rule)) = PATTERNS.iter().find(|(patterns, _)| fits(patterns)) {
        return Some(Reach { what: rule.what, undone: rule.undone });
    }
    let hides = change.happened == Happened::Added
        && module(&path).is_some_and(|name| MODULES.split_whitespace().any(|other| other == name));
    hides.then_some(Reach { what: "hides a module of Python or of its test runner", undone: true })
}

/// Lists what changes reach for, for people.
pub fn reaches(changes: &[Change]) -> Vec<String> {
    let named = changes.iter().filter_map(|change| Some((change, reach(change)?)));
    named
        .map(|(change, reach)| {
            let path = String::from_utf8_lossy(&change.path);
            format!("`{}` {}", path.escape_debug(), reach.what)
        })
        .collect()
}

/// Renders the function `imgforge_reaches LETTER PATH` of `bash`, which succeeds where [`reach`] of
/// the change has something that is undone; the letter is that of [`Change`].
pub fn shell_function() -> String {
    let undone = RULES.iter().filter(|rule| rule.undone).flat_map(|rule| rule.parts);
    let built = RULES.iter().filter(|rule| !rule.undone).flat_map(|rule| rule.parts);
    let either = |parts: Vec<&&str>| parts.into_iter().copied().collect::<Vec<_>>().join("|");
    let modules: Vec<&str> = MODULES.split_whitespace().collect();
    let roots = ROOTS.map(|root| format!("{root}*")).join("|");
    format!(
        "imgforge_reaches() {{\n\
         local IFS=/ part below first built=\nset -f\n\
         for part in $2; do case \"$part\" in\n{}) set +f; return 0;;\n{}) built=1;;\nesac; done\n\
         set +f\n[ -z \"$built\" ] && [ \"$1\" = A ] || return 1\n\
         below=$2; case \"$2\" in {roots}) below=${{2#*/}};; esac\n\
         first=${{below%%/*}}\n\
         case \"$below\" in\n\"$first\"/__init__.*) ;;\n*/*) return 1;;\n\
         *.*) first=${{first%%.*}};;\n*) return 1;;\nesac\n\
         case \"$first\" in\n{}) return 0;;\nesac\nreturn 1\n}}\n",
        either(undone.collect()),
        either(built.collect()),
        modules.join("|")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change(text: &str) -> Change {
        Change::parse(text).unwrap()
    }

    #[test]
    fn what_configures_a_run_is_named_and_ordinary_files_are_not() {
        let changes = ["M src/a.py", "A tests/conftest.py", "A evil.pth", "M setup.py"].map(change);
        assert_eq!(
            reaches(&changes),
            [
                "`tests/conftest.py` changes how pytest collects and reports tests",
                "`evil.pth` runs at every start of Python",
                "`setup.py` runs when the code is built or installed",
            ]
        );
    }

    #[test]
    fn files_of_every_runner_are_undone_and_source_files_are_not() {
        for undone in [
            "A tests/__init__.py",
            "A src/evil-1.dist-info/entry_points.txt",
            "A src/evil.egg-info/entry_points.txt",
            "M bin/test",
            "M tests/runtests.py",
            "M package.json",
            "A jest.config.mjs",
            "A packages/a/vitest.config.cts",
            "A .mocharc.cjs",
            "M karma.conf.js",
            "M Cargo.toml",
            "A .cargo/config.toml",
            "M go.mod",
            "A pkg/a_test.go",
            "M build.gradle.kts",
            "M gradle/wrapper/gradle-wrapper.properties",
            "M pom.xml",
            "A .rspec",
            "M spec/spec_helper.rb",
            "A phpunit.xml.dist",
            "M Makefile",
            "A pytest.py",
            "A src/_pytest/__init__.py",
            "A unittest/__init__.py",
            "A __init__.py",
            "A src/__init__.py",
            "A lib/pluggy.abi3.so",
            "A src/pkg/__pycache__/a.cpython-311.pyc",
            "D tests/test_a.py",
        ] {
            assert!(reach(&change(undone)).is_some_and(|reach| reach.undone), "{undone}");
        }
        for other in [
            "M src/_pytest/runner.py",
            "A src/_pytest/timing.py",
            "A src/pkg/types.py",
            "M django/forms/models.py",
            "M lib/matplotlib/axes/_base.py",
            "M sympy/core/basic.py",
            "A docs/latest.txt",
            "M src/unittest/__init__.pyx.txt.md/a",
            "M types.py",
        ] {
            let found = reach(&change(other));
            let wrong = other.contains("unittest");
            assert_eq!(found.is_some(), wrong, "{other}: {found:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn the_function_of_the_shell_says_the_same(
            paths in prop::collection::vec(
                prop::collection::vec(
                    prop_oneof![
                        "[a-zA-Z_.*? -]{1,6}",
                        Just("src".to_owned()),
                        Just("lib".to_owned()),
                        Just("pytest".to_owned()),
                        Just("types.py".to_owned()),
                        Just("__init__.py".to_owned()),
                        Just("setup.py".to_owned()),
                        "(test|jest|a|b)[._-]?(config|spec|test|py)?[.]?(js|py|java)?",
                        Just("x.pth".to_owned()),
                    ],
                    1..4,
                ),
                30,
            ),
            added in any::<bool>(),
        ) {
            let letter = if added { "A" } else { "M" };
            let mut script = shell_function();
            let mut wanted = String::new();
            for parts in &paths {
                let path = parts.join("/");
                script.push_str(&format!(
                    "imgforge_reaches {letter} {} && echo 1 || echo 0\n",
                    crate::quote::shell_quote(&path)
                ));
                let happened = if added { Happened::Added } else { Happened::Modified };
                let found = reach(&Change { path: path.into_bytes(), happened });
                wanted.push_str(if found.is_some_and(|found| found.undone) { "1\n" } else { "0\n" });
            }
            let output = std::process::Command::new("bash").args(["-uc", &script]).output().unwrap();
            prop_assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{:?}", paths);
        }
    }
}
