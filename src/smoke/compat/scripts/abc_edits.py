# Changes the text of a Python file: `collections.Mapping` becomes `collections.abc.Mapping`, in
# imports and in uses. Every byte outside of the changed places stays as it is.
import tokenize

SPACES = " \t\x0c"
LAYOUT = (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT)


class Unclear(Exception):
    """The file is not what it was taken for: it is left as it is."""


class Source:
    """A text, its tokens, and the changes to make."""

    def __init__(self, text):
        self.text = text
        self.lines = split_lines(text)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        readline = iter(self.lines + [""]).__next__
        self.tokens = list(tokenize.generate_tokens(readline))
        words = (tokenize.NAME, tokenize.OP)
        self.index = {self.start(t): i for i, t in enumerate(self.tokens) if t.type in words}
        self.edits = []

    def start(self, token):
        return self.starts[token.start[0] - 1] + token.start[1]

    def end(self, token):
        return self.starts[token.end[0] - 1] + token.end[1]

    def line_start(self, offset):
        return self.text.rfind("\n", 0, offset) + 1

    def line_end(self, offset):
        """Where the next line begins, or the end of the text."""
        return self.text.find("\n", offset) + 1 or len(self.text)

    def at(self, node):
        """The number of the token where a node of the tree begins."""
        line = self.lines[node.lineno - 1]
        column = len(line.encode("utf-8")[: node.col_offset].decode("utf-8"))
        offset = self.starts[node.lineno - 1] + column
        if offset not in self.index:
            raise Unclear("line {}: no word begins where one is expected".format(node.lineno))
        return self.index[offset]

    def next(self, number):
        """The number of the token after one, without line breaks and comments."""
        number += 1
        while self.tokens[number].type in LAYOUT:
            number += 1
        return number

    def expect(self, number, *strings):
        token = self.tokens[number]
        offset = self.start(token)
        shown = self.text[offset : offset + len(token.string)]
        if token.string not in strings or shown != token.string:
            raise Unclear("line {}: `{}` is no {}".format(token.start[0], token.string, strings[0]))
        return number

    def replace(self, start, end, text):
        self.edits.append((start, end, text))

    def result(self):
        pieces, done = [], 0
        for start, end, new in sorted(self.edits, key=lambda edit: edit[:2]):
            if start < done:
                raise Unclear("two changes are at one place")
            pieces += [self.text[done:start], new]
            done = end
        return "".join(pieces + [self.text[done:]])

    def line_break(self, offset):
        """The line break of a line; where it has none, that of the first line."""
        for line in (self.text[self.line_start(offset) : self.line_end(offset)], self.lines[0]):
            if line.endswith("\n"):
                return "\r\n" if line.endswith("\r\n") else "\n"
        return "\n"

    def is_alone(self, first, last):
        """Whether a statement has its lines for itself, from its first token to its last."""
        before = first - 1
        while before >= 0 and self.tokens[before].type in LAYOUT:
            before -= 1
        begins = before < 0 or self.tokens[before].type in (tokenize.NEWLINE, tokenize.ENCODING)
        after = last + 1
        while self.tokens[after].type == tokenize.COMMENT:
            after += 1
        return begins and self.tokens[after].type in (tokenize.NEWLINE, tokenize.ENDMARKER)

    def add_statement(self, first, last, text):
        """Puts a statement behind another one: on lines of its own, or after a semicolon."""
        start, end = self.start(self.tokens[first]), self.end(self.tokens[last])
        if not self.is_alone(first, last):
            return self.replace(end, end, "; " + text)
        indent = self.text[self.line_start(start) : start]
        line_break, place = self.line_break(start), self.line_end(end)
        if self.text[place - 1] == "\n":
            return self.replace(place, place, indent + text + line_break)
        return self.replace(place, place, line_break + indent + text)


def split_lines(text):
    """The lines of a text, with their ends. Only a line feed ends a line."""
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


class Item:
    """One name in the list of an import: places in the text, and what moves."""

    def __init__(self, source, number, alias):
        source.expect(number, alias.name)
        self.alias = alias
        self.moves = alias.name in NAMES
        self.start = source.start(source.tokens[number])
        if alias.asname is not None:
            number = source.expect(source.next(number), "as")
            number = source.expect(source.next(number), alias.asname)
        self.last = number
        self.end = self.end_with_comma = source.end(source.tokens[number])
        self.whole_lines = None
        following = source.next(number)
        if source.tokens[following].string == ",":
            self.end_with_comma = source.end(source.tokens[following])
            self.last = following

    def text(self):
        name, other = self.alias.name, self.alias.asname
        return name if other is None else "{} as {}".format(name, other)

    def find_lines(self, source):
        """Finds the lines of the item where nothing else is on them but a comment."""
        begin, end = source.line_start(self.start), source.line_end(self.end_with_comma)
        rest = source.text[self.end_with_comma : end].strip(SPACES + "\r\n")
        before = source.text[begin : self.start].strip(SPACES)
        if not before and (not rest or rest.startswith("#")):
            self.whole_lines = (begin, end)

    def own_lines(self, source, indent, line_break):
        """The lines of the item for a list of its own."""
        if self.whole_lines is None:
            return "{}    {},{}".format(indent, self.text(), line_break)
        begin, end = self.whole_lines
        comma = "," if self.end_with_comma == self.end else ""
        return source.text[begin : self.end] + comma + source.text[self.end : end]


def change_import(source, node):
    """Changes `from collections import …`; returns how many names moved."""
    first = source.expect(source.at(node), "from")
    module = source.expect(source.next(first), "collections")
    number = source.next(source.expect(source.next(module), "import"))
    in_brackets = source.tokens[number].string == "("
    if in_brackets:
        number = source.next(number)
    items = []
    for alias in node.names:
        items.append(Item(source, number, alias))
        number = source.next(items[-1].last)
    last = source.expect(number, ")") if in_brackets else items[-1].last
    moved = [item for item in items if item.moves]
    if len(moved) == len(items):
        end = source.end(source.tokens[module])
        source.replace(end, end, ".abc")
        return len(moved)
    alone = source.is_alone(first, last)
    if in_brackets and alone:
        for item in moved:
            item.find_lines(source)
    for run in runs(items):
        remove = remove_in_brackets if in_brackets else remove_from_line
        remove(source, items, run)
    start = source.start(source.tokens[first])
    names = ", ".join(item.text() for item in moved)
    if any(item.whole_lines for item in moved):
        line_break = source.line_break(start)
        indent = source.text[source.line_start(start) : start]
        lines = [item.own_lines(source, indent, line_break) for item in moved]
        names = "({}{}{})".format(line_break, "".join(lines), indent)
    source.add_statement(first, last, "from collections.abc import " + names)
    return len(moved)


def runs(items):
    """The numbers of items that move and stand side by side in the same way."""
    found = []
    for number, item in enumerate(items):
        if not item.moves:
            continue
        joins = found and found[-1][-1] == number - 1 and not item.whole_lines
        if joins and not items[number - 1].whole_lines:
            found[-1].append(number)
        else:
            found.append([number])
    return found


def remove_from_line(source, items, run):
    """Removes items from a list without brackets, with the commas and line breaks between them."""
    after = run[-1] + 1
    if after < len(items):
        source.replace(items[run[0]].start, items[after].start, "")
    else:
        source.replace(items[run[0] - 1].end, items[run[-1]].end, "")


def remove_in_brackets(source, items, run):
    """Removes items from a list in brackets. Comments and line breaks of other items stay."""
    first, last = items[run[0]], items[run[-1]]
    if first.whole_lines:
        return source.replace(first.whole_lines[0], first.whole_lines[1], "")
    start, end, text = first.start, last.end_with_comma, source.text
    behind = end
    while text[behind] in SPACES:
        behind += 1
    has_comma = last.end_with_comma != last.end
    if has_comma and text[behind] not in "\r\n#)\\":
        return source.replace(start, behind, "")
    while text[start - 1] in SPACES:
        start -= 1
    before = items[run[0] - 1] if run[0] > 0 else None
    is_last = not has_comma and before is not None and not before.moves
    # The comma before it goes as well, unless a comment stands between them.
    if is_last and not text[before.end_with_comma : start].strip():
        start = before.end
    if text[start - 1] in "\r\n" and text[behind] in "\r\n":
        # The line would be empty: its own indentation was all that stood before it.
        start = source.line_start(start)
        end = source.line_end(behind)
    return source.replace(start, end, "")


def change_use(source, node):
    """Changes `collections.Mapping`."""
    number = source.expect(source.at(node.value), node.value.id)
    number = source.next(number)
    while source.tokens[number].string == ")":
        number = source.next(number)
    source.expect(number, ".")
    number = source.expect(source.next(number), node.attr)
    start = source.start(source.tokens[number])
    source.replace(start, start, "abc.")


def add_import(source, node):
    """Adds `import collections.abc` behind a statement that imports `collections`."""
    first = last = source.expect(source.at(node), "import")
    for _ in node.names:
        last = source.next(last)
        # The words of `a.b as c`; the next name comes after a comma.
        while source.tokens[source.next(last)].string in (".", "as"):
            last = source.next(source.next(last))
        if source.tokens[source.next(last)].string == ",":
            last = source.next(last)
    source.add_statement(first, last, "import collections.abc")
