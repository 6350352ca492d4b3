# The fix `setuptools-cap=N`: pip takes no setuptools N or later. The cap is a constraints file that
# the configuration of pip names, so that it holds for every later pip, in environments that are
# made later, and in isolated builds: these read the configuration too, or get build constraints.
import configparser
import io

CAP = "setuptools<" + VALUE
TEXT = "# Written by imgforge's fix `setuptools-cap`.\n{}\n".format(CAP)
# Until pip 26.1 isolated builds take `constraint`, from 26.2 on only `build-constraint`, which pip
# knows since 25.3. Older ones ignore a key that they do not know.
KEYS = ["constraint", "build-constraint"]
SEPARATE_SINCE = (25, 3)


def configurations():
    """The files of pip's configuration; a later one wins. The last of a kind is the usual one."""
    home = os.path.expanduser("~")
    above = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    beside = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    everybody = [os.path.join(directory, "pip", "pip.conf") for directory in above.split(":")]
    user = [os.path.join(home, ".pip", "pip.conf"), os.path.join(beside, "pip", "pip.conf")]
    named = os.environ.get("PIP_CONFIG_FILE")
    places = everybody + ["/etc/pip.conf"] + user + [os.path.join(sys.prefix, "pip.conf")]
    return places + ([named] if named else [])


def target():
    """The configuration to write where none has constraints, and the constraints file for it."""
    home = os.path.expanduser("~")
    beside = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    places = [
        ("/etc/pip.conf", "/etc/imgforge"),
        (os.path.join(beside, "pip", "pip.conf"), os.path.join(beside, "imgforge")),
        (os.path.join(sys.prefix, "pip.conf"), os.path.join(sys.prefix, "imgforge")),
    ]
    for configuration, directory in places:
        outside = not is_inside(configuration, TREE) and not is_inside(directory, TREE)
        named = " " not in directory
        if outside and named and can_write(os.path.dirname(configuration)) and can_write(directory):
            return configuration, os.path.join(directory, "setuptools-cap.txt")
    tried = ", ".join(configuration for configuration, _ in places)
    fail("no configuration of pip outside of the working tree can be written to: {}".format(tried))


def read(path):
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        fail("cannot read pip's configuration {}: {}".format(path, error))
    return parser


def with_cap(parser, constraints, fresh_keys):
    """Adds the constraints file to every list of constraints, and as a new list for `fresh_keys`.

    Returns whether something was added.
    """
    added = False
    for section in parser.sections():
        for option, value in parser.items(section):
            files = value.split()
            # An empty list is no list for pip.
            if option.replace("_", "-") in KEYS and files and constraints not in files:
                parser.set(section, option, "\n".join(files + [constraints]))
                added = True
    for key in fresh_keys:
        if not parser.has_section("global"):
            parser.add_section("global")
        parser.set("global", key, constraints)
        added = True
    return added


def keys_of(parser):
    """Which lists of constraints a configuration has for every command of pip."""
    options = parser.items("global") if parser.has_section("global") else []
    return {option.replace("_", "-") for option, value in options if value.split()}


def installed():
    """The version of setuptools, or None."""
    code = "import importlib.util as u; print(u.find_spec('setuptools') is not None)"
    if run(sys.executable, "-c", code)[1].strip() != "True":
        return None
    code = "import setuptools; print(setuptools.__version__)"
    status, out, error = run(sys.executable, "-W", "ignore", "-c", code)
    if status != 0:
        fail("setuptools does not start on Python {}: {}".format(VERSION, last_lines(error)))
    return out.strip()


def check_environment():
    """Refuses what makes pip ignore the configuration; returns the release of pip."""
    status, out, error = pip("--version")
    if status != 0:
        message = "{} has no pip, which this fix is for: {}"
        fail(message.format(sys.executable, last_lines(error, 1)))
    if os.environ.get("PIP_CONFIG_FILE") == os.devnull:
        fail("PIP_CONFIG_FILE is {}, so that pip reads no configuration".format(os.devnull))
    for name in ["PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"]:
        if os.environ.get(name):
            fail(
                "{0} is set to `{1}`, and wins over pip's configuration: write `{2}` into that "
                "file, and leave out this fix".format(name, os.environ[name], CAP)
            )
    return release_of(out.split()[1])


def main():
    pip_release = check_environment()
    parsers = {path: read(path) for path in configurations() if os.path.exists(path)}
    configuration, constraints = target()
    for path, parser in parsers.items():
        # A file of this fix that an earlier run wrote, perhaps as another user.
        for key in KEYS:
            for file in parser.get("global", key, fallback="").split():
                if os.path.basename(file) == "setuptools-cap.txt":
                    configuration, constraints = path, file
    missing = [key for key in KEYS if not any(key in keys_of(p) for p in parsers.values())]
    if missing and configuration not in parsers:
        parsers[configuration] = read(configuration)
    changed = []
    for path, parser in parsers.items():
        if with_cap(parser, constraints, missing if path == configuration else []):
            changed.append(path)
    version = installed()
    too_new = version is not None and release_of(version) >= release_of(VALUE)
    files = changed + ([constraints] if content(constraints) != TEXT else [])
    more = {"cap": CAP, "installed": version, "files": [readable(path) for path in files]}
    if pip_release >= SEPARATE_SINCE:
        more["note"] = (
            "this pip refuses `--no-build-isolation` where it has build constraints: "
            "set PIP_CONFIG_FILE=/dev/null for such a command"
        )
    if not files and not too_new:
        report("nothing to do", "nothing to do: pip has the cap `{}`".format(CAP), **more)
    if not DRY_RUN:
        write(constraints, TEXT)
        for path in changed:
            text = configparser_text(parsers[path])
            write(os.path.realpath(path), text)
        if too_new:
            more["installed"] = install()
    would = "would get" if DRY_RUN else "got"
    summary = "pip {} the cap `{}`".format(would, CAP)
    if too_new:
        verb = "would replace" if DRY_RUN else "replaced"
        summary += ", and a setuptools below it {} {}".format(verb, version)
    report("done", summary, replaced=version if too_new else None, **more)


def configparser_text(parser):
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def install():
    """Replaces setuptools by the newest below the cap; returns its version."""
    status, out, error = pip("install", CAP)
    if status != 0:
        fail("pip cannot install `{}`: {}".format(CAP, last_lines(out + error)))
    version = installed()
    if version is None or release_of(version) >= release_of(VALUE):
        fail("pip installed `{}`, but setuptools is {}".format(CAP, version))
    return version


try:
    main()
except OSError as error:
    fail("cannot write the cap: {}".format(error))
