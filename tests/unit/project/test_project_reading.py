"""What is read of an agent without running it."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.agentfile import AgentSource
from torpor.core.errors import Invalid, NotFound, TorporError
from torpor.core.rules import parse_rules
from torpor.core.sizes import size_mib
from torpor.project import tree
from torpor.project.facts import pep723
from torpor.project.reading import read_agent

LINES = st.text(
    st.characters(exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", codec="utf-8")
)


def block(toml: str) -> str:
    lines = [f"# {line}" if line else "#" for line in toml.splitlines()]
    return "\n".join(["# /// script", *lines, "# ///", ""])


def write(directory: Path, name: str, text: str | bytes) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(directory: Path, toml: str, files: Mapping[str, str] = {}) -> AgentSource:
    for name, text in files.items():
        write(directory, name, text)
    return read_agent(write(directory, "agent.py", block(toml)))


def listed(source: AgentSource) -> set[str]:
    """Its project's own files."""
    return {name for name in source.files if not name.startswith(".torpor/")}


# The block.


@given(st.lists(st.text("abc é=\"'", max_size=20), max_size=5), LINES)
def test_a_block_gives_its_dependencies_wherever_it_stands(names: list[str], other: str) -> None:
    listed = ", ".join(f"{tomlstring(name)}" for name in names)
    text = f"import os\n{block(f'dependencies = [{listed}]')}print({other!r})\n"
    assert pep723(text, "a.py") == {"dependencies": names}


def tomlstring(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(st.text())
def test_any_text_has_a_block_or_none_or_is_refused(text: str) -> None:
    for each in (text, f"# /// script\n{text}\n# ///\n", block(text)):
        try:
            assert isinstance(pep723(each, "a.py"), dict | None)
        except Invalid as error:
            assert error.message.startswith("a.py")


@given(st.text('# /script\n=[]"a', max_size=60))
def test_a_block_is_the_toml_behind_the_signs(toml: str) -> None:
    try:
        expected = tomllib.loads(toml)
    except tomllib.TOMLDecodeError:
        return
    if toml.strip("\n") and not any(line.startswith("///") for line in toml.splitlines()):
        assert pep723(block(toml), "a.py") == expected


def test_no_block() -> None:
    assert pep723("# /// other\n# x = 1\n# ///\n", "a.py") is None


def test_two_blocks() -> None:
    with pytest.raises(Invalid, match=r"a\.py: more than one `# /// script` block"):
        pep723(block("x = 1") + "\n" + block("y = 1"), "a.py")


@pytest.mark.parametrize("text", ["# /// script\n# x = 1\n", "# /// script\nx = 1\n# ///\n"])
def test_a_block_that_is_not_closed(text: str) -> None:
    with pytest.raises(Invalid, match="not closed, or a line of it lacks"):
        pep723(text, "a.py")


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("x = ", r"a\.py, line 4, column 7: the `# /// script` block is not valid TOML: Invalid"),
        ("x = 1\nx = 2", r"a\.py, line 5, column 8: .* Cannot overwrite a value$"),
        ("a = " + "[" * 5000, r"a\.py, from line 4 on: .* nested too deeply"),
    ],
    ids=["wrong", "twice", "deep"],
)
def test_a_block_that_is_no_toml_is_told_by_the_files_own_lines(toml: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        pep723("import os\n\n" + block(toml), "a.py")


# One file.


def test_defaults(tmp_path: Path) -> None:
    source = read_agent(write(tmp_path, "agent.py", "x = 1\n"))
    assert source == AgentSource("agent.py", {"agent.py": b"x = 1\n"})


def test_all_facts(tmp_path: Path) -> None:
    source = read(
        tmp_path,
        'requires-python = ">=3.11"\ndependencies = ["b", "a>=1"]\n[tool.torpor]\n'
        'memory = "1G"\ndisk = "512MiB"\ninclude = ["data/*.txt"]\nkeep = "last 3"',
        {"data/one.txt": "1"},
    )
    assert source.requires_python == ">=3.11"
    assert source.dependencies == ("a>=1", "b")
    assert (source.memory_mib, source.disk_mib) == (1024, 512)
    assert set(source.files) == {"agent.py", "data/one.txt"}
    assert source.keep == "last 3"


@pytest.mark.parametrize("begin", ["\ufeff", ""], ids=["marked", "plain"])
@pytest.mark.parametrize("end", ["\r\n", "\n"], ids=["crlf", "lf"])
def test_editors_habits(tmp_path: Path, begin: str, end: str) -> None:
    text = begin + block('[tool.torpor]\nmemory = "256M"').replace("\n", end)
    source = read_agent(write(tmp_path, "agent.py", text))
    assert source.memory_mib == 256


def test_included_files(tmp_path: Path) -> None:
    for name in ("data/one.txt", "data/deep/two.txt", "data/three.bin", "other.py"):
        write(tmp_path, name, name)
    write(tmp_path, "other.py", "y = 1")
    toml = '[tool.torpor]\ninclude = ["./data/**/*.txt", "other.py", "data/one.txt"]'
    source = read(tmp_path, toml)
    assert set(source.files) == {"agent.py", "data/one.txt", "data/deep/two.txt", "other.py"}
    assert source.files["data/one.txt"] == b"data/one.txt"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("tool = 1", "agent.py: tool must be a table"),
        ("tool.torpor = 1", "agent.py: tool.torpor must be a table"),
        ("[tool.torpor]\nmemroy = '1G'", r"\[tool.torpor\] does not know memroy"),
        ("requires-python = 3.11", "requires-python must be a string"),
        ("dependencies = 'a'", "dependencies must be a list of strings"),
        ("dependencies = ['a', 1]", "dependencies must be a list of strings"),
        ("dependencies = [' ']", "dependencies must be a list of strings"),
        ("[tool.torpor]\ninclude = 'a'", "include must be a list of strings"),
        ("[tool.torpor]\ninclude = ['/etc/passwd']", "must stay below the agent's own directory"),
        ("[tool.torpor]\ninclude = ['a/../../b']", "must stay below the agent's own directory"),
        ("[tool.torpor]\ninclude = ['.']", "'.' is the directory itself"),
        ("[tool.torpor]\ninclude = ['**a']", r"include = \['\*\*a'\] is not a valid pattern"),
        ("[tool.torpor]\ninclude = ['*.txt']", r"include = \['\*.txt'\] matches no file"),
        ("[tool.torpor]\nentry = 1", "1 is not a path"),
        ("[tool.torpor]\nmemory = 512", "memory = 512 is not a size"),
        ("[tool.torpor]\nmemory = '190M'", "an even number of MiB from 192M to 16384M"),
        ("[tool.torpor]\nmemory = '193M'", "an even number of MiB from 192M to 16384M"),
        ("[tool.torpor]\ndisk = '65G'", "an even number of MiB from 64M to 65536M"),
        (f"[tool.torpor]\ndisk = '{'9' * 5000}M'", "is not a size"),
    ],
)
def test_what_is_refused(tmp_path: Path, toml: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        read(tmp_path, toml)


def test_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no agent file at"):
        read_agent(tmp_path / "absent.py")


def test_what_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"agent\.py: not UTF-8 text"):
        read_agent(write(tmp_path, "agent.py", b"\xff\xfe"))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = 1\ndef f(:\n", r"agent.py, line 2: .*\n    def f\(:"),
        ("x\0", "null bytes"),
        ("-" * 100_000 + "1", "nested too deeply"),
        ("a" + ".b" * 100_000, "nested too deeply"),
    ],
    ids=["wrong", "nul", "signs", "names"],
)
def test_what_is_no_python(tmp_path: Path, code: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        read_agent(write(tmp_path, "agent.py", code))


def test_an_included_module_that_is_no_python(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"lib/m\.py, line 1"):
        read(tmp_path, '[tool.torpor]\ninclude = ["lib/*"]', {"lib/m.py": "def"})


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "FILES_MAX", 3)
    monkeypatch.setattr(tree, "FILES_BYTES_MAX", 1000)
    toml = '[tool.torpor]\ninclude = ["*.txt"]'
    files = {"a.txt": "", "b.txt": ""}
    assert len(read(tmp_path, toml, files).files) == 3
    with pytest.raises(Invalid, match=r"has 4 files of .* the limit is 3 files") as refused:
        read(tmp_path, toml, files | {"c.txt": ""})
    assert "exclude" in refused.value.hint
    (tmp_path / "c.txt").unlink()
    # It is refused by its size, before it is read.
    with (tmp_path / "b.txt").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Invalid, match=r"1,099,511,6.* together; .* 1,000 bytes\. Largest: b\.txt"):
        read(tmp_path, toml)


# Directories.


def project(directory: Path, toml: str = "") -> Path:
    write(directory, "pyproject.toml", toml)
    return directory


def test_a_directory(tmp_path: Path) -> None:
    project(tmp_path, '[project]\nrequires-python = ">=3.11"\ndependencies = ["b", "a"]\n')
    for name in ("agent.py", "lib/m.py", ".git/config", "__pycache__/x.pyc", "lib/.hidden"):
        write(tmp_path, name, "")
    source = read_agent(tmp_path)
    assert source.entry == "agent.py"
    assert listed(source) == {"agent.py", "lib/m.py", "lib/.hidden", "pyproject.toml"}
    assert (source.requires_python, source.dependencies) == (">=3.11", ("a", "b"))


def test_what_an_agent_is_called(tmp_path: Path) -> None:
    alone = read_agent(write(tmp_path, "mail.py", ""))
    assert (alone.called, alone.origin) == ("mail", str(tmp_path / "mail.py"))
    named = read_agent(write(tmp_path, "mail.py", block('[tool.torpor]\nname = "post office"')))
    assert named.called == "post office"
    write(tmp_path, "agent.py", "")
    assert read_agent(project(tmp_path)).called == tmp_path.name
    assert read_agent(project(tmp_path, '[project]\nname = "billing"')).called == "billing"
    own = '[project]\nname = "billing"\n[tool.torpor]\nname = "bills"'
    assert read_agent(project(tmp_path, own)).called == "bills"
    with pytest.raises(Invalid, match="name: 3 is not a name"):
        read_agent(project(tmp_path, "[tool.torpor]\nname = 3"))


def test_an_engine_is_one_there_is(tmp_path: Path) -> None:
    told = read_agent(write(tmp_path, "a.py", block('[tool.torpor]\nengine = "process"')))
    assert told.rules.engine == "process"
    with pytest.raises(Invalid, match="there is no such engine"):
        read_agent(write(tmp_path, "a.py", block('[tool.torpor]\nengine = "docker"')))


@pytest.mark.parametrize("entry", ["lib/m.py", "./lib/m.py"])
def test_a_directory_names_its_entry_and_files(tmp_path: Path, entry: str) -> None:
    project(tmp_path, f'[tool.torpor]\nentry = "{entry}"\ninclude = ["lib/*.py"]\n')
    for name in ("main.py", "lib/m.py", "lib/n.txt"):
        write(tmp_path, name, "")
    source = read_agent(tmp_path)
    assert (source.entry, listed(source)) == (
        "lib/m.py",
        {"main.py", "lib/m.py", "lib/n.txt", "pyproject.toml"},
    )


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        (None, "is a directory without a pyproject.toml"),
        ("x = ", "pyproject.toml, line 1, at its end: it is not valid TOML"),
        ("", r"no entry file \(agent.py or main.py\)"),
        ("[tool.torpor]\nentry = 'x.py'", "no entry file 'x.py'"),
        ("project = 1", "project must be a table"),
    ],
)
def test_directories_that_are_refused(tmp_path: Path, toml: str | None, words: str) -> None:
    if toml is not None:
        project(tmp_path, toml)
    with pytest.raises(Invalid, match=words) as refused:
        read_agent(tmp_path)
    assert refused.value.hint or "TOML" in words or "table" in words


# Versions.

SOURCE = AgentSource("a.py", {"a.py": b"x", "b": b"y"}, dependencies=("d",))
CHANGES: list[dict[str, Any]] = [
    {"entry": "b"},
    {"files": {"a.py": b"x", "b": b"z"}},
    {"files": {"a.py": b"x", "c": b"y"}},
    {"files": {"a.py": b"x"}},
    {"dependencies": ()},
    {"dependencies": ("d", "e")},
    {"memory_mib": 514},
    {"disk_mib": 2050},
]


def test_each_fact_makes_another_version() -> None:
    versions = [dataclasses.replace(SOURCE, **change).version("i") for change in CHANGES]
    versions += [SOURCE.version("i"), SOURCE.version("j")]
    assert len(set(versions)) == len(versions)
    assert all(len(version) == 32 for version in versions)


def test_order_makes_no_other_version() -> None:
    turned = dataclasses.replace(SOURCE, files=dict(reversed(list(SOURCE.files.items()))))
    assert turned.version("i") == SOURCE.version("i")


def test_how_long_snapshots_are_kept_makes_no_other_version() -> None:
    assert dataclasses.replace(SOURCE, keep="all").version("i") == SOURCE.version("i")


# Sizes.


@given(st.text(max_size=30))
def test_any_size_is_taken_or_refused(text: str) -> None:
    try:
        mib = size_mib(text, 64, 4096, "memory")
    except TorporError as error:
        assert isinstance(error, Invalid) and error.message.startswith("memory")
    else:
        assert 64 <= mib <= 4096 and mib % 2 == 0


@given(st.integers(32, 2048).map(lambda half: half * 2), st.sampled_from(["", "B", "iB"]))
def test_sizes(mib: int, unit: str) -> None:
    assert size_mib(f"{mib}M{unit}", 64, 4096, "m") == mib
    assert size_mib(f" {mib * 1024} k{unit} ", 64, 4096, "m") == mib


def test_webhooks_are_names_and_urls(tmp_path: Path) -> None:
    def read(toml: str) -> AgentSource:
        path = tmp_path / "a.py"
        path.write_text(block(toml))
        return read_agent(path)

    told = read('[tool.torpor.webhooks]\noffice = "https://example.com:8443/x?y=z"')
    assert told.webhooks == {"office": "https://example.com:8443/x?y=z"}
    source = dataclasses.replace(told, webhooks={})
    assert told.version("i") == source.version("i")
    for wrong in (
        'webhooks = "https://example.com"',
        "webhooks = { a = 1 }",
        'webhooks = { a = "file:///etc/passwd" }',
        'webhooks = { a = "https://" }',
        'webhooks = { a = "https://example.com:port" }',
        'webhooks = { "" = "https://example.com" }',
        'webhooks = { a = "https://user:word@example.com" }',
    ):
        with pytest.raises(Invalid, match="webhooks"):
            read(f"[tool.torpor]\n{wrong}")


def test_a_file_of_a_project_that_only_poetry_knows(tmp_path: Path) -> None:
    write(
        tmp_path,
        "pyproject.toml",
        "[tool.poetry]\nname = 'b'\n[tool.poetry.dependencies]\na = '^1'",
    )
    source = read_agent(write(tmp_path, "b/mail.py", "import torpor\n"))
    assert source.dependencies == ("a>=1,<2",) and listed(source) == {"pyproject.toml", "b/mail.py"}


def test_what_is_no_python_file_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, "pyproject.toml", "[project]\nname = 'b'\n")
    with pytest.raises(Invalid, match="not a Python file") as said:
        read_agent(path)
    assert said.value.hint == f"For a project, give its directory: torpor run {tmp_path}"


EGRESS = """
[[tool.torpor.egress]]
preset = "openai"
[[tool.torpor.egress]]
host = "api.github.com"
methods = ["POST"]
ask = true
[tool.torpor.budget]
cost = "2 USD"
requests = 1000
"""


def test_what_an_agent_may_reach_stands_in_its_file_or_its_project(tmp_path: Path) -> None:
    alone, project = tmp_path / "alone", tmp_path / "project"
    for directory in (alone, project):
        directory.mkdir()
    (alone / "agent.py").write_text(block(EGRESS))
    (project / "agent.py").write_text("x = 1\n")
    (project / "pyproject.toml").write_text(EGRESS)
    for source in (read_agent(alone / "agent.py"), read_agent(project)):
        asked = {"host": "api.github.com", "methods": ["POST"], "ask": True}
        assert source.egress == ({"preset": "openai"}, asked)
        assert (source.rules.budget.cost, source.rules.budget.requests) == (2.0, 1000)
        assert source.rules.given == {"budget": {"cost": "2 USD", "requests": 1000}}


def test_other_rules_are_another_version_and_another_budget_is_not() -> None:
    files = {"agent.py": b"x"}
    plain = AgentSource("agent.py", files)
    reaching = AgentSource("agent.py", files, egress=({"host": "a.example.com"},))
    limited = AgentSource("agent.py", files, rules=parse_rules({"budget": {"requests": 1}}, ""))
    assert plain.version("i") == limited.version("i") != reaching.version("i")


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('[tool.torpor]\negress = "api.github.com"', "agent.py: egress must be a list"),
        ("[[tool.torpor.egress]]\nport = 1", r"agent.py: egress\[0\] names no host"),
        ('[[tool.torpor.egress]]\npreset = "x"', r"agent.py: egress\[0\].*no preset 'x'"),
        ("[tool.torpor.budget]\nmoney = 1", "agent.py: budget does not know 'money'"),
        ("[tool.torpor.budget]\ncost = 1", "agent.py: budget.cost is not an amount of money"),
        ('[tool.torpor]\nfreeze_on_model_wait = "no"', "freeze_on_model_wait must be true, fal"),
    ],
)
def test_wrong_rules_name_the_file_and_the_entry(tmp_path: Path, toml: str, words: str) -> None:
    (tmp_path / "agent.py").write_text(block(toml))
    with pytest.raises(Invalid, match=words):
        read_agent(tmp_path / "agent.py")
