"""What a new project may be called."""

import ast
import builtins
import json
import keyword
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

LONGEST = 24  # letters of a package; its name stands in lines of code and of texts
TAKEN = Path(__file__).with_name("taken.txt")  # names by the reason why not


def check_package(name: str, sources: Mapping[str, str]) -> None:
    """Checks the name of a package, which is that of the command, too.

    Args:
        name: The name.
        sources: The text of each file that is to be renamed, by its path in the repository.

    Raises:
        ValueError: If it can't be imported, or already means something else.
    """
    what = f"--package {name}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", name) or len(name) > LONGEST:
        plain = re.sub(r"[\W_]+", "_", name.lower(), flags=re.ASCII).strip("_0123456789")[:LONGEST].rstrip("_")
        hint = f": {plain} would be one" if len(plain) > 1 and plain != name else ""
        raise ValueError(
            f"{what}: a package is called by small letters, digits and underscores, 2 to {LONGEST} of them{hint}"
        )
    if reason := taken(name, sources):
        raise ValueError(f"{what}: {reason}, choose another name")
    for path, text in sources.items():
        if has_another(name, path, text):
            raise ValueError(f"{what}: {path} uses that name for something else, choose another")


def taken(name: str, sources: Mapping[str, str]) -> str:
    """Why a name can't be given, whatever stands in the programs; nothing where it can."""
    required = re.findall(r"^[\w.-]+", sources.get("constraints.txt", ""), re.MULTILINE)
    tests = [PurePosixPath(path) for path in sources if path.startswith(("tests/", "scripts/"))]
    if keyword.iskeyword(name):
        return "that is a keyword of Python"
    if "kindling" in name:
        return "that is the name of the template"
    if name in sys.stdlib_module_names or name == "test":
        return "Python has a module of that name"
    if hasattr(builtins, name):
        return "Python has a function of that name"
    if name in {re.sub(r"\W", "_", requirement).lower() for requirement in required}:
        return "it needs a package of that name"
    if name in {path.split("/")[0] for path in sources} | {"data", "runs"}:
        return "a folder of the project has that name"
    if name in {path.stem for path in tests if path.suffix == ".py"}:
        return "a program in tests or scripts has that name"
    for reason, names in re.findall(r"^= (.*)\n([^=]*)", TAKEN.read_text(encoding="utf-8"), re.MULTILINE):
        if name in names.split():
            return str(reason)
    found = shutil.which(name)
    # A project of that name may be installed already, and be written anew.
    if found and f"from {name}.cli import program".encode() not in Path(found).read_bytes():
        return f"its command would hide {found}"
    return ""


def has_another(name: str, path: str, text: str) -> bool:
    """Whether a program uses a name for itself where the package's own would come to stand.

    That is where the template's stands by itself, as in `kindling.load` or as an argument, not in
    `from kindling import load`: in the whole program, or in one function or class.
    """
    if not re.search(rf"\b{name}\b", text):
        return False
    for program in programs(path, text):
        tree = ast.parse(program)
        scopes = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        whole = {scope.name for scope in scopes}.union(*(names_in(node) for node in tree.body if node not in scopes))
        ours = [names_in(tree)] if "kindling" in whole else [names_in(scope) for scope in scopes]
        if any({name, "kindling"} <= names for names in ours):
            return True
        if path.startswith("tests/") and name in fixtures(tree):
            return True
    return False


def names_in(tree: ast.AST) -> set[str]:
    """What a piece of a program calls by a name of its own: not attributes, options and modules."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=renamed):
                names.add(renamed or name.split(".")[0])
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.add(name)
    return names


def fixtures(tree: ast.AST) -> set[str]:
    """What pytest may take for a fixture: the command is one, also for tests that ask for it by way of another."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    asking = [function for function in functions if function.decorator_list or function.name.startswith("test_")]
    return {name for function in asking for name in (function.name, *(argument.arg for argument in function.args.args))}


def programs(path: str, text: str) -> Iterator[str]:
    """The Python in a file: a program, the cells of a notebook, the examples in a text."""
    if path.endswith(".py"):
        yield text
    elif path.endswith(".ipynb"):
        cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        code = "\n".join("".join(cell) for cell in cells)
        yield re.sub(r"^([ \t]*)[%!][a-z].*", r"\1pass", code, flags=re.MULTILINE)  # what is for IPython
    elif path.endswith(".md"):
        yield from re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def title(package: str) -> str:
    """The name of the project in texts and in the names of classes: LeafNet of leaf_net."""
    return "".join(word.capitalize() for word in package.split("_"))
