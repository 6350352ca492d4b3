# What the names of a Python file mean: where it imports `collections`, and where it uses an
# abstract base class of it. Positions are those of `ast`; nothing is changed here.
import ast

NAMES = frozenset(
    """
    AsyncGenerator AsyncIterable AsyncIterator Awaitable ByteString Callable Collection Container
    Coroutine Generator Hashable ItemsView Iterable Iterator KeysView Mapping MappingView
    MutableMapping MutableSequence MutableSet Reversible Sequence Set Sized ValuesView
    """.split()
)

# What a name can stand for: the module `collections`, or anything else.
COLLECTIONS, OTHER = "collections", "other"
# Why a use by `getattr` is left.
CALL = "the name is a value here"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
TRIES = (ast.Try,) + ((ast.TryStar,) if hasattr(ast, "TryStar") else ())
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Scope:
    def __init__(self, kind, parent=None):
        self.kind = kind
        self.parent = parent
        self.bound = {}
        self.globals = set()
        self.imports = []

    def module(self):
        return self.parent.module() if self.parent else self

    def owner(self, name):
        """The scope whose name it is: where the name is bound, seen from here."""
        if name in self.globals:
            return self.module()
        scope = self
        while scope is not None:
            if name in scope.bound and (scope is self or scope.kind != "class"):
                return scope
            scope = scope.parent
        return None


class Import:
    """`import collections`, under a name."""

    def __init__(self, node, name, block, guarded):
        self.node = node
        self.name = name
        self.block = block
        self.guarded = guarded


class Use:
    """A place that needs `collections` to have an abstract base class."""

    def __init__(self, node, line, text, module, scope, guarded=False, why=None):
        self.node = node
        self.line = line
        self.text = text
        # The name that may stand for `collections`; None where it is no name.
        self.module = module
        self.scope = scope
        self.guarded = guarded
        # Why a person has to look at it; None where it can be changed.
        self.why = why


class Reader(ast.NodeVisitor):
    """Walks through a file once. Scopes are whole only at the end: resolve names then."""

    def __init__(self, tree):
        self.scope = Scope("module")
        self.blocks = [[]]
        self.import_guards = 0
        self.attribute_guards = 0
        self.f_strings = []
        self.froms = []
        self.uses = []
        self.all_names = set()
        self.visit(tree)

    # Names and scopes.

    def bind(self, name, what=OTHER):
        self.all_names.add(name)
        scope = self.scope.module() if name in self.scope.globals else self.scope
        scope.bound.setdefault(name, set()).add(what)
        return scope

    def inside(self, kind, visit):
        """Visits what has a scope of its own. It runs later: no `try` around it guards it."""
        outer, guards = self.scope, (self.import_guards, self.attribute_guards)
        self.scope = Scope(kind, outer)
        if kind == "function":
            self.import_guards = self.attribute_guards = 0
        visit()
        self.scope = outer
        self.import_guards, self.attribute_guards = guards

    def visit_all(self, nodes):
        for node in nodes:
            if node is not None:
                self.visit(node)

    def visit_block(self, statements):
        self.blocks.append(statements)
        self.visit_all(statements)
        self.blocks.pop()

    def generic_visit(self, node):
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                self.visit_block(value)
            elif isinstance(value, list):
                self.visit_all(item for item in value if isinstance(item, ast.AST))
            elif isinstance(value, ast.AST):
                self.visit(value)
        # What else gives a name to something: `except … as`, patterns, parameters of types.
        for field in ["name", "rest"]:
            name = getattr(node, field, None)
            if isinstance(name, str) and not isinstance(node, ast.alias):
                self.bind(name)

    def visit_Name(self, node):
        self.all_names.add(node.id)
        if not isinstance(node.ctx, ast.Load):
            self.bind(node.id)

    def visit_NamedExpr(self, node):
        self.visit(node.value)
        outer = self.scope
        while self.scope.kind == "comprehension":
            self.scope = self.scope.parent
        self.visit(node.target)
        self.scope = outer

    def visit_Global(self, node):
        self.scope.globals.update(node.names)
        self.all_names.update(node.names)

    def visit_Nonlocal(self, node):
        for name in node.names:
            # Whatever is bound here is bound further out as well: that is not followed.
            self.bind(name)

    def visit_arguments(self, node):
        # Defaults and annotations belong to the scope around the function.
        self.visit_all(node.defaults + node.kw_defaults)
        self.visit_all(arg.annotation for arg in arguments(node))

    def visit_function(self, node):
        self.bind(node.name)
        self.visit_all(node.decorator_list + [node.args, node.returns])

        def body():
            for arg in arguments(node.args):
                self.bind(arg.arg)
            self.visit_all(getattr(node, "type_params", []))
            self.visit_block(node.body)

        self.inside("function", body)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_function

    def visit_Lambda(self, node):
        self.visit(node.args)

        def body():
            for arg in arguments(node.args):
                self.bind(arg.arg)
            self.visit(node.body)

        self.inside("function", body)

    def visit_ClassDef(self, node):
        self.bind(node.name)
        self.visit_all(node.decorator_list + node.bases + node.keywords)

        def body():
            self.visit_all(getattr(node, "type_params", []))
            self.visit_block(node.body)

        self.inside("class", body)

    def visit_comprehension_of(self, node):
        first = node.generators[0]
        self.visit(first.iter)

        def body():
            for generator in node.generators:
                self.visit(generator.target)
                self.visit_all(generator.ifs)
                if generator is not first:
                    self.visit(generator.iter)
            fields = [getattr(node, name, None) for name in ["elt", "key", "value"]]
            self.visit_all(fields)

        self.inside("comprehension", body)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_comprehension_of

    # Guards: what is tried, with another way where it fails.

    def visit_Try(self, node):
        caught = set()
        for handler in node.handlers:
            types = [handler.type]
            if isinstance(handler.type, ast.Tuple):
                types = handler.type.elts
            for kind in types:
                caught.add(getattr(kind, "id", None) or getattr(kind, "attr", None))
        explicit = bool(caught & {"ImportError", "ModuleNotFoundError"})
        imports = explicit or bool(caught & {None, "Exception", "BaseException"})
        attributes = "AttributeError" in caught
        self.import_guards += imports
        self.attribute_guards += attributes
        self.visit_block(node.body)
        self.attribute_guards += explicit
        self.visit_all(node.handlers)
        self.attribute_guards -= attributes + explicit
        self.import_guards -= imports
        self.visit_block(node.orelse)
        self.visit_block(node.finalbody)

    visit_TryStar = visit_Try

    # Imports and uses.

    def visit_Import(self, node):
        for alias in node.names:
            top = alias.name.split(".")[0]
            plain = alias.name == "collections"
            is_module = plain or (top == "collections" and alias.asname is None)
            name = alias.asname or top
            scope = self.bind(name, COLLECTIONS if is_module else OTHER)
            if plain:
                guarded = self.import_guards > 0
                scope.imports.append(Import(node, name, self.blocks[-1], guarded))

    def visit_ImportFrom(self, node):
        if node.module == "collections" and node.level == 0:
            self.froms.append((node, self.import_guards > 0))
        for alias in node.names:
            self.bind(alias.asname or alias.name)

    def visit_JoinedStr(self, node):
        self.f_strings.append(node)
        self.generic_visit(node)
        self.f_strings.pop()

    def visit_Attribute(self, node):
        value, text = node.value, None
        if node.attr in NAMES and isinstance(value, ast.Name):
            text = "{}.{}".format(value.id, node.attr)
            why = None
            if not isinstance(node.ctx, ast.Load):
                why = "it is set or deleted here"
            elif self.f_strings:
                why = "it is in an f-string"
            self.use(node, text, guarded=self.attribute_guards > 0, why=why)
        elif node.attr in NAMES and getattr(value, "attr", None) == "collections":
            text = "….collections.{}".format(node.attr)
            self.use(node, text, why="`collections` is reached through another module")
        self.generic_visit(node)

    def visit_Call(self, node):
        function = getattr(node.func, "id", None)
        if function in ("getattr", "hasattr") and len(node.args) > 1:
            first, second = node.args[:2]
            # `Str` until Python 3.7.
            asked = getattr(second, "value", getattr(second, "s", None))
            dynamic = not isinstance(asked, str)
            if isinstance(first, ast.Name) and (asked in NAMES if not dynamic else True):
                shown = "a computed name" if dynamic else repr(asked)
                text = "{}({}, {})".format(function, first.id, shown)
                self.use(node, text, why=CALL, module=first.id)
        self.generic_visit(node)

    def use(self, node, text, module=None, **more):
        # Until Python 3.7 what is in an f-string has positions of its own.
        line = (self.f_strings[0] if self.f_strings else node).lineno
        module = module or getattr(getattr(node, "value", None), "id", None)
        self.uses.append(Use(node, line, text, module, self.scope, **more))


def arguments(node):
    every = getattr(node, "posonlyargs", []) + node.args + node.kwonlyargs
    return every + [arg for arg in (node.vararg, node.kwarg) if arg is not None]
