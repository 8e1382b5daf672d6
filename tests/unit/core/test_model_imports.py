"""What an agent imports before anything else happens: read, compared with what Python does."""

from __future__ import annotations

import textwrap

import pytest

from torpor.core.imports import Import, leading_imports


def read(source: str, entry: str = "agent.py", **own: str) -> list[tuple[str, ...]]:
    files = {entry: source} | {f"{name.replace('__', '/')}.py": text for name, text in own.items()}
    encoded = {name: textwrap.dedent(text).encode() for name, text in files.items()}
    return [(each.module, *each.names) for each in leading_imports(encoded, entry)]


@pytest.mark.parametrize(
    "stop",
    [
        "print('effect')",
        "os.environ['A'] = '1'",
        "X = os.environ",
        "x: int = f()",
        "X = [f()]",
        "X.y = 1",
        "a, b = 1, 2",
        "__path__ = ['elsewhere']",
        "try:\n    import yaml\nexcept ImportError:\n    pass",
        "if os.name == 'nt':\n    import winreg",
        "if TYPE_CHECKING:\n    import b",  # of nobody knows where
        "with open('x'):\n    pass",
        "for x in ():\n    pass",
        "@decorated\ndef f(): ...",
        "def f(x=g()): ...",
        "def f(x=os.sep): ...",
        "def f(x: os.PathLike): ...",
        "def f() -> list[int]: ...",
        "def f(*args: os.PathLike): ...",
        "def __getattr__(name): ...",
        "class C(Base): ...",
        "class C(metaclass=M): ...",
        "@decorated\nclass C: ...",
        "class C:\n    x = f()",
        "X = f'{os}'",
        "X = 1 if os else 2",
        "(x := 1)",
        "x += 1",
        "assert os",
        "del os",
        "import own",  # not there as a module
        "from .own import x",  # the entry is in no package
    ],
)
def test_the_first_statement_that_might_have_an_effect_ends_it(stop: str) -> None:
    source = f"import os\n{stop}\nimport after"
    assert read(source, own__data="x = 1") == [("os",)]


@pytest.mark.parametrize(
    "idle",
    [
        '"""Text."""',
        "...",
        "pass",
        "from __future__ import annotations",
        "X = 1",
        "X = Y = {'a': [1, -2.5, (None, True)], 'b': {1}}",
        "X: int = 1",
        "X: int",
        "__version__ = '1'",
        "__all__ = ['a']",
        "def f(x, *y, z=None, w=X, **k): return g()",
        "def f(x: int = 1, *, y: Text) -> None: ...",
        "async def f(): await g()",
        "class C:\n    '''Text.'''\n    x = 1\n    y: int\n    def f(self): g()",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import never",
        "from typing import TYPE_CHECKING as T\nif T:\n    import never\nelse:\n    pass",
    ],
)
def test_what_has_no_effect_is_passed(idle: str) -> None:
    found = read(f"{idle}\nimport after")
    assert found[-1] == ("after",)
    assert ("never",) not in found


def test_annotations_that_are_not_evaluated_have_no_effect() -> None:
    late = "def f(x: a.B[int]) -> c.D | None: ...\nx: a.B = 1\nimport after"
    assert read(late) == []
    assert read(f"from __future__ import annotations\n{late}") == [("after",)]


def test_what_is_imported_and_in_which_order() -> None:
    source = """
        import a, b.c as d
        from e import f, g as h
        from i.j import *
        """
    assert read(source) == [("a",), ("b.c",), ("e", "f", "g"), ("i.j", "*")]
    assert leading_imports({"x.py": b"import a"}, "x.py") == [Import("a")]


@pytest.mark.parametrize(
    "again", ["TYPE_CHECKING = 1", "def TYPE_CHECKING(): ...", "import x as TYPE_CHECKING"]
)
def test_type_checking_by_another_meaning(again: str) -> None:
    source = f"from typing import TYPE_CHECKING\n{again}\nif TYPE_CHECKING:\n    import a\nimport b"
    assert ("b",) not in read(source)


def test_what_is_under_type_checking_alone_is_not_imported() -> None:
    source = """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            import a
        else:
            import b
        import c
        """
    assert read(source) == [("typing", "TYPE_CHECKING"), ("b",), ("c",)]


def test_own_modules_are_read_in_their_place() -> None:
    helpers = "import b\nX = 1\ndef f(): ...\n"
    source = "import a\nfrom helpers import X, f\nimport helpers\nimport c"
    assert read(source, helpers=helpers) == [("a",), ("b",), ("c",)]


def test_where_an_own_module_has_an_effect_all_ends() -> None:
    helpers = "import b\nprint('effect')\nimport late"
    assert read("import a\nimport helpers\nimport c", helpers=helpers) == [("a",), ("b",)]
    # What is missing is the agent's to find out.
    assert read("import a\nfrom helpers import y\nimport c", helpers="x = 1") == [("a",)]
    assert read("import a\nfrom helpers import *\nimport c", helpers="x = 1") == [("a",)]
    assert read("import a\nimport helpers\nimport c", helpers="no python") == [("a",)]


def test_own_packages() -> None:
    files = {
        "agent.py": "from pkg import deep, name\nimport e",
        "pkg/__init__.py": "import a\nfrom .deep import tool\nname = 1",
        "pkg/deep/__init__.py": "import b",
        "pkg/deep/tool.py": "import c\nfrom .. import other",
        "pkg/other.py": "import d\nfrom . import name",
    }
    found = leading_imports({name: text.encode() for name, text in files.items()}, "agent.py")
    # `other` asks for what the package, which is not through yet, does not have.
    assert [each.module for each in found] == ["a", "b", "c", "d"]
    files["pkg/other.py"] = "import d"
    found = leading_imports({name: text.encode() for name, text in files.items()}, "agent.py")
    assert [each.module for each in found] == ["a", "b", "c", "d", "e"]


def test_modules_beside_the_entry_come_before_those_of_the_root() -> None:
    files = {"src/main.py": b"import x\nimport y", "src/x.py": b"import a", "x.py": b"import b"}
    files["y.py"] = b"import c"
    assert [each.module for each in leading_imports(files, "src/main.py")] == ["a", "c"]


def test_modules_that_import_each_other() -> None:
    assert read("import a\nimport helpers\nimport b", helpers="import agent\nimport c") == [
        ("a",),
        ("c",),
        ("b",),
    ]


def test_a_module_that_might_be_the_agents_own_or_not() -> None:
    """Of the standard library, but also among the files; a directory of that name without code is
    none."""
    assert read("import a\nimport json\nimport b", json="x = 1") == [("a",)]
    files = {"agent.py": b"import json", "prompts/json/x.txt": b"import never"}
    assert leading_imports(files, "agent.py") == [Import("json")]


def test_what_is_no_python() -> None:
    assert read("import a\nthis is no python") == []
    assert leading_imports({}, "agent.py") == []


PROJECT = {
    ".torpor/site/project.pth": b"../../src\n",
    "src/pkg/__init__.py": b"import a",
    "src/pkg/main.py": b"import b\nfrom .tool import x\nimport late",
    "src/pkg/tool.py": b"import c\nx = 1",
    "src/late.py": b"import d",
    "late.py": b"import never",
}


def test_an_installed_project_is_read_as_it_is_imported() -> None:
    found = leading_imports(PROJECT, "src/pkg/main.py")
    assert [each.module for each in found] == ["a", "b", "c", "d"]


def test_a_package_that_has_an_effect_comes_before_the_entry_in_it() -> None:
    found = leading_imports(PROJECT | {"src/pkg/__init__.py": b"print()"}, "src/pkg/main.py")
    assert found == []


def test_what_is_only_beside_an_entry_in_a_package_may_be_a_dependency() -> None:
    beside = {"src/pkg/main.py": b"import b\nimport tool\nimport e"}
    found = leading_imports(PROJECT | beside, "src/pkg/main.py")
    assert [each.module for each in found] == ["a", "b"]
