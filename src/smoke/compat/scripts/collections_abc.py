# The fix `collections-abc`: a `.pth` file, which Python reads at every start, lets `collections`
# give the abstract base classes, as it did until Python 3.9. With `python -S` nothing is read.
MODULE = "_imgforge_collections_abc"
SHIM = '''\
"""Lets `collections` give the abstract base classes, as it did until Python 3.9.

Written by imgforge's fix `collections-abc`; imgforge_collections_abc.pth imports it.
"""
import collections
import collections.abc

NAMES = frozenset(
    """
    AsyncGenerator AsyncIterable AsyncIterator Awaitable ByteString Callable Collection Container
    Coroutine Generator Hashable ItemsView Iterable Iterator KeysView Mapping MappingView
    MutableMapping MutableSequence MutableSet Reversible Sequence Set Sized ValuesView
    """.split()
)


def find(name, otherwise=getattr(collections, "__getattr__", None)):
    if name in NAMES and hasattr(collections.abc, name):
        value = getattr(collections.abc, name)
        setattr(collections, name, value)
        return value
    if otherwise is not None:
        return otherwise(name)
    message = "module 'collections' has no attribute {!r}".format(name)
    raise AttributeError(message, name=name, obj=collections)


collections.__getattr__ = find
'''
FILES = {MODULE + ".py": SHIM, "imgforge_collections_abc.pth": "import {}\n".format(MODULE)}

# The interpreter as the tests start it: this script itself has no directories of the user.
LOOK = """
import json, site, sys, sysconfig
places = [sysconfig.get_paths()["purelib"]]
places += getattr(site, "getsitepackages", list)()
if site.ENABLE_USER_SITE:
    places.append(site.getusersitepackages())
print(json.dumps([places, sys.path]))
"""
CHECK = "import collections; from collections import Mapping; collections.Callable"


def works():
    return run(sys.executable, "-W", "ignore", "-c", CHECK)


def place():
    """The first directory that has `.pth` files read, and can be written to."""
    status, out, error = run(sys.executable, "-c", LOOK)
    if status != 0:
        fail("cannot ask {} for its directories: {}".format(sys.executable, last_lines(error)))
    places, path = json.loads(out)
    # A directory of the user is made where it is not there yet; then it is read.
    read = [p for p in places if p in path] + places[-1:]
    for directory in read:
        if can_write(directory):
            return directory
    fail("none of the directories of packages can be written to: {}".format(", ".join(places)))


def main():
    if sys.version_info < (3, 10):
        report(
            "nothing to do", "nothing to do: Python {} has the aliases".format(VERSION), files=[]
        )
    directory = place()
    paths = {os.path.join(directory, name): text for name, text in FILES.items()}
    stale = [path for path, text in paths.items() if content(path) != text]
    if works()[0] == 0 and (not stale or not any(map(os.path.exists, stale))):
        report("nothing to do", "nothing to do: `collections` has the aliases", files=[])
    if not DRY_RUN:
        # The module first: a `.pth` file without it would be an error at every start of Python.
        for name in FILES:
            write(os.path.join(directory, name), FILES[name])
        status, _, error = works()
        if status != 0:
            fail("the aliases are not there after all: {}".format(last_lines(error)))
    verb = "would get" if DRY_RUN else "got"
    summary = "`collections` {} the aliases by files in {}".format(verb, readable(directory))
    report("done", summary, files=[readable(path) for path in sorted(paths)])


try:
    main()
except OSError as error:
    fail("cannot write the files: {}".format(error))
