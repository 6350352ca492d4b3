# The fix `collections-abc=rewrite`: the source takes abstract base classes from `collections.abc`.
# What cannot be told for sure is left and reported.
import io
import re
import warnings

LEFT_OUT = frozenset(
    """
    .bzr .git .hg .svn .eggs .nox .tox __pycache__ node_modules site-packages dist-packages
    _vendor _vendored vendor vendored third_party
    """.split()
)
# Files in which nothing like this stands are not parsed.
MODULE = re.compile(rb"\bcollections\b")
NAME = re.compile(rb"\b(?:%s)\b|\bimport[ \t(\\]*\*" % "|".join(sorted(NAMES)).encode())


class File:
    """What becomes of one file."""

    def __init__(self, text):
        self.names = self.uses = self.imports = 0
        self.left = []
        self.moved = []
        tree = ast.parse(text)
        self.reader = Reader(tree)
        self.text = text
        self.tokens = None
        for node, guarded in self.reader.froms:
            self.look_at_import(node, guarded)
        needing = []
        for use in self.reader.uses:
            if self.look_at_use(use):
                scope = use.scope.owner(use.module)
                needing += [found for found in scope.imports if found.name == use.module]
        for found in unique(needing):
            if not self.has_abc(found):
                self.imports += 1
                add_import(self.source(), found.node)
        if self.tokens:
            self.text = self.tokens.result()

    def source(self):
        """The tokens of the file. They are read where something is to be changed."""
        if self.tokens is None:
            self.tokens = Source(self.text)
        return self.tokens

    def leave(self, line, text, why):
        self.left.append({"line": line, "text": text, "why": why})

    def look_at_import(self, node, guarded):
        names = [alias.name for alias in node.names if alias.name in NAMES or alias.name == "*"]
        if not names:
            return
        text = "from collections import {}".format(", ".join(names))
        if "*" in names:
            self.leave(node.lineno, text, "nobody can tell which names it means")
        elif guarded:
            self.leave(node.lineno, text, "`try` has another way where it fails")
        else:
            self.names += change_import(self.source(), node)
            self.moved.append(node)

    def look_at_use(self, use):
        """Changes a use, or reports it; tells whether it was changed."""
        if use.module is None:
            self.leave(use.line, use.text, use.why)
            return False
        owner = use.scope.owner(use.module)
        meanings = owner.bound[use.module] if owner else set()
        if COLLECTIONS not in meanings:
            if use.module != "collections" or use.why == CALL:
                # It is about something else.
                return False
            use.why = use.why or "`collections` is not imported here as the module"
        elif use.why is None and meanings != {COLLECTIONS}:
            use.why = "`{}` is given another meaning as well".format(use.module)
        elif use.why is None and use.guarded:
            use.why = "`try` has another way where it fails"
        elif use.why is None and use.module != "collections" and not self.is_free(owner):
            use.why = "`import collections.abc` would change what `collections` means here"
        if use.why is not None:
            self.leave(use.line, use.text, use.why)
            return False
        self.uses += 1
        change_use(self.source(), use.node)
        return True

    def is_free(self, scope):
        """Whether `import collections.abc` in a scope changes the meaning of no name."""
        bound = scope.bound.get("collections")
        return bound == {COLLECTIONS} or "collections" not in self.reader.all_names

    def has_abc(self, found):
        """Whether what stands before an import, or right behind it, imports `collections.abc`."""
        for node in found.block[: found.block.index(found.node) + 2]:
            if node in self.moved:
                return True
            if isinstance(node, ast.Import):
                if any(alias.name == "collections.abc" for alias in node.names):
                    return True
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                if node.module == "collections.abc":
                    return True
                if node.module == "collections" and any(a.name == "abc" for a in node.names):
                    return True
        return False


def unique(imports):
    return list({id(found.node): found for found in imports}.values())


def decoded(data):
    """The text of a file and how to write it again."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    text = data.decode(encoding)
    if text.encode(encoding) != data:
        raise Unclear("its encoding {} does not give the same bytes again".format(encoding))
    if re.search("\r(?!\n)", text):
        raise Unclear("it has carriage returns within lines")
    return text, encoding


def look_at_file(path):
    """What becomes of a file, or None where it has nothing to do with this."""
    with open(path, "rb") as file:
        data = file.read()
    if not is_python(path, data) or not MODULE.search(data) or not NAME.search(data):
        return None
    text, encoding = decoded(data)
    outcome = File(text)
    if outcome.text == text:
        return outcome if outcome.left else None
    again = File(outcome.text)
    if again.text != outcome.text or len(again.left) != len(outcome.left):
        raise Unclear("the changed text would be changed once more")
    if not DRY_RUN:
        # The file stays the same one: its mode, its owner and its links.
        with open(path, "wb") as file:
            file.write(outcome.text.encode(encoding))
    return outcome


def is_python(path, data):
    if os.path.splitext(path)[1]:
        return path.endswith(".py")
    return re.match(rb"#![^\n]*python", data) is not None


def files():
    """The files of the tree, and the directories that are left out because others made them."""
    found, left_out = [], []

    def failed(error):
        raise error

    for directory, below, names in os.walk(TREE, onerror=failed):
        for name in sorted(below):
            path = os.path.join(directory, name)
            marks = [os.path.join(path, mark) for mark in ("pyvenv.cfg", ".git")]
            if name in LEFT_OUT or os.path.islink(path) or any(map(os.path.lexists, marks)):
                below.remove(name)
                if name not in (".git", "__pycache__") and not os.path.islink(path):
                    left_out.append(os.path.relpath(path, TREE))
        below.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                found.append(path)
    return found, left_out


def main():
    if not os.path.isdir(TREE):
        fail("the working tree {} is not there".format(TREE))
    warnings.simplefilter("ignore")
    found, left_out = files()
    changed, left, skipped = [], [], []
    for path in found:
        shown = readable(os.path.relpath(path, TREE))
        try:
            outcome = look_at_file(path)
        except (SyntaxError, ValueError, tokenize.TokenError) as error:
            why = "it is no Python {}.{}: {}".format(*(list(sys.version_info[:2]) + [error]))
            skipped.append({"path": shown, "why": readable(why)})
            continue
        except (Unclear, RecursionError) as error:
            skipped.append({"path": shown, "why": readable(str(error))})
            continue
        if outcome is None:
            continue
        left += [dict(entry, path=shown) for entry in outcome.left]
        counts = {"imports": outcome.names, "uses": outcome.uses, "added": outcome.imports}
        if outcome.names or outcome.uses:
            changed.append(dict(counts, path=shown))
    total = {key: sum(file[key] for file in changed) for key in ("imports", "uses", "added")}
    more = dict(total, files=changed, left=left, skipped=skipped)
    more["left_out"] = [readable(path) for path in left_out]
    if not changed:
        summary = "nothing to do: no file asks `collections` for an abstract base class"
        if left or skipped:
            summary = "nothing to do: what asks `collections` for abstract base classes is left"
        report("nothing to do", summary, **more)
    summary = "{} {} and {} in {}; {} left, {} skipped".format(
        "would change" if DRY_RUN else "changed",
        counted(total["imports"], "imported name"),
        counted(total["uses"], "use"),
        counted(len(changed), "file"),
        counted(len(left), "place"),
        counted(len(skipped), "file"),
    )
    report("done", summary, **more)


def counted(count, noun):
    return "{} {}{}".format(count, noun, "" if count == 1 else "s")


try:
    main()
except OSError as error:
    fail("cannot read or write the working tree: {}".format(error))
