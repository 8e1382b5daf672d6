"""Which files are taken along, of a project and of a file that stands alone."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from torpor.core.agentfile import AgentSource
from torpor.core.errors import Invalid
from torpor.project.missing import missing_file, missing_module
from torpor.project.reading import read_agent

PYPROJECT = '[project]\nname = "hr"\nversion = "1"\n'
BLOCK = "# /// script\n# requires-python = '>=3.11'\n# ///\n"


def lay(root: Path, *names: str) -> Path:
    """Files of these names, and `pyproject.toml`, if nothing else is said."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (root / "pyproject.toml").write_text(PYPROJECT)
    return root


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def listed(source: AgentSource) -> set[str]:
    return {
        name
        for name in source.files
        if not name.startswith(".torpor/") and name not in ("pyproject.toml", "agent.py")
    }


def alone(root: Path, text: str) -> AgentSource:
    return read_agent(write(root, "agent.py", text))


# What is left out.


def test_what_no_agent_needs_is_left_out(tmp_path: Path) -> None:
    lay(
        tmp_path,
        *("agent.py", "a.txt", ".hidden", "sub/b.txt", ".python-version"),
        *(".git/config", ".hg/x", "my-env/pyvenv.cfg", "my-env/lib/x.py", ".venv/x"),
        *("__pycache__/a.pyc", "sub/__pycache__/b.pyc", "sub/c.pyc", "node_modules/x/y.js"),
        *(".mypy_cache/x", ".ruff_cache/x", "sub/.pytest_cache/x", "src/hr.egg-info/PKG-INFO"),
    )
    assert listed(read_agent(tmp_path)) == {"a.txt", ".hidden", "sub/b.txt", ".python-version"}


def test_secrets_are_left_out_and_said(tmp_path: Path) -> None:
    lay(tmp_path, "agent.py", ".env", "sub/.env.local", ".env.example")
    source = read_agent(tmp_path)
    assert listed(source) == {".env.example"}
    assert "left out: .env, sub/.env.local; secrets do not belong in machines" in source.notes[0]
    write(tmp_path, "pyproject.toml", PYPROJECT + '[tool.torpor]\ninclude = [".env"]')
    with pytest.raises(Invalid, match=r"names \.env, which is always left out: secrets"):
        read_agent(tmp_path)


def test_ignore_files_hold_as_git_has_them(tmp_path: Path) -> None:
    lay(
        tmp_path,
        *("agent.py", "a.log", "sub/a.log", "sub/kept.log", "out/x", "sub/out/y", "data/big"),
        *("data/small", "build/x", "build/kept"),
    )
    write(tmp_path, ".gitignore", "*.log\n/out/\ndata/*\n!data/small\nbuild/\n!build/kept\n")
    write(tmp_path, "sub/.gitignore", "!kept.log\n")
    assert listed(read_agent(tmp_path)) == {
        *(".gitignore", "sub/.gitignore", "sub/kept.log", "sub/out/y", "data/small"),
    }
    write(tmp_path, ".torporignore", "data/\n!a.log\n")
    assert listed(read_agent(tmp_path)) == {
        *(".gitignore", ".torporignore", "sub/.gitignore", "sub/kept.log", "sub/out/y", "a.log"),
        "sub/a.log",
    }


def test_ignore_files_above_hold_as_far_as_the_repository_goes(tmp_path: Path) -> None:
    write(tmp_path, ".gitignore", "*.txt\n")
    repository = tmp_path / "repository"
    write(repository, ".git/config", "")
    write(repository, ".gitignore", "*.csv\nagents/hr/drafts/\n")
    root = lay(repository / "agents/hr", "agent.py", "a.txt", "a.csv", "drafts/a", "b")
    assert listed(read_agent(root)) == {"a.txt", "b"}
    # One that is ignored itself was named all the same.
    write(repository, ".gitignore", "agents/\n")
    assert listed(read_agent(root)) == {"a.txt", "a.csv", "drafts/a", "b"}


def test_include_and_exclude(tmp_path: Path) -> None:
    lay(tmp_path, "agent.py", "data/a.csv", "data/b.csv", "docs/x.md", "docs/deep/y.md", "z")
    write(tmp_path, ".gitignore", "data/\n")
    settings = '[tool.torpor]\ninclude = ["data"]\nexclude = ["docs/*", "data/b.csv"]'
    write(tmp_path, "pyproject.toml", PYPROJECT + settings)
    assert listed(read_agent(tmp_path)) == {".gitignore", "data/a.csv", "z"}


def test_what_an_agent_imports_is_needed_though_it_be_ignored(tmp_path: Path) -> None:
    lay(tmp_path, "src/hr/__init__.py", "src/hr/other.py")
    write(tmp_path, "src/hr/main.py", "from ._version import v\n")
    write(tmp_path, "src/hr/_version.py", "v = 1\n")
    write(tmp_path, ".gitignore", "_version.py\nother.py\n")
    write(tmp_path, "pyproject.toml", PYPROJECT + '[tool.torpor]\nentry = "src/hr/main.py"')
    assert {"src/hr/_version.py"} == listed(read_agent(tmp_path)) - {
        *(".gitignore", "src/hr/__init__.py", "src/hr/main.py"),
    }


def test_links_and_what_is_no_file(tmp_path: Path) -> None:
    root = lay(tmp_path / "p", "agent.py", "data/a.txt")
    (tmp_path / "secret").write_text("elsewhere")
    (root / "inside").symlink_to("data/a.txt")
    (root / "folder").symlink_to("data")
    (root / "data/loop").symlink_to("..")
    (root / "outside").symlink_to("../secret")
    (root / "up").symlink_to("..")
    (root / "broken").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
    source = read_agent(root)
    assert listed(source) == {"data/a.txt", "inside", "folder/a.txt"}
    assert (
        "left out: broken, outside, up; these links are broken, or lead out of" in source.notes[0]
    )


def test_programs_stay_programs_and_are_another_version(tmp_path: Path) -> None:
    lay(tmp_path, "agent.py", "run.sh")
    before = read_agent(tmp_path)
    (tmp_path / "run.sh").chmod(0o755)
    after = read_agent(tmp_path)
    assert not before.executable
    assert after.executable == {"run.sh"}
    assert before.version("i") != after.version("i")


def test_the_same_files_elsewhere_are_the_same_version(tmp_path: Path) -> None:
    versions = set()
    for where in ("here", "there/deep"):
        root = lay(tmp_path / where, "agent.py", "a/b.py", "x.txt")
        (root / "x.txt").touch()
        versions.add(read_agent(root).version("i"))
    assert len(versions) == 1
    write(root, "pyproject.toml", PYPROJECT.replace('"1"', '"2"'))
    assert read_agent(root).version("i") not in versions


def test_what_is_too_much_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, "agent.py", "data/small")
    with (tmp_path / "data/big.bin").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Invalid, match=r"Largest: data/ \(2 files, 1,099.*, data/big\.bin") as said:
        read_agent(tmp_path)
    assert 'exclude = ["data/"]' in said.value.hint
    monkeypatch.setattr("torpor.project.tree.FILES_MAX", 3)
    (tmp_path / "data/big.bin").write_text("")
    with pytest.raises(Invalid, match=r"4 files of .* Largest: data/ \(2 files"):
        read_agent(tmp_path)


# Neighbours.


def test_a_file_takes_along_what_it_imports_and_nothing_else(tmp_path: Path) -> None:
    for name, text in {
        "helper.py": "import deeper\n",
        "deeper.py": "try:\n    import space.tool\nexcept ImportError:\n    pass\n",
        "space/tool.py": "from . import near\n",
        "space/near.py": "",
        "space/other.py": "",
        "pkg/__init__.py": "",
        "pkg/sub/mod.py": "import only_inside\n",
        "pkg/data/table.csv": "1",
        "pkg/__pycache__/x.pyc": "",
        "pkg/broken.py": "def",
        "only_inside.py": "",
        "lazily.py": "",
        "unused.py": "",
        "random.py": "",
        "notes.txt": "",
        "httpx/readme.txt": "",
    }.items():
        write(tmp_path, name, text)
    source = alone(
        tmp_path,
        "import helper, pkg.sub.mod, random, httpx, absent\ndef f():\n    from lazily import x\n",
    )
    assert listed(source) == {
        *("helper.py", "deeper.py", "space/tool.py", "space/near.py", "pkg/__init__.py"),
        *("pkg/sub/mod.py", "pkg/data/table.csv", "pkg/broken.py", "only_inside.py", "lazily.py"),
    }


def test_a_neighbour_that_is_no_python(tmp_path: Path) -> None:
    write(tmp_path, "helper.py", "def")
    with pytest.raises(Invalid, match=r"helper\.py, line 1"):
        alone(tmp_path, "import helper")


def test_a_file_in_a_package_brings_its_package(tmp_path: Path) -> None:
    for name in ("tools/__init__.py", "tools/words.py", "tools/sub/__init__.py", "beside.py"):
        write(tmp_path, name, "")
    file = write(tmp_path, "tools/sub/agent.py", "from ..words import x\n")
    source = read_agent(file)
    assert (source.entry, source.called) == ("tools/sub/agent.py", "agent")
    assert set(source.files) == {
        *("tools/__init__.py", "tools/words.py", "tools/sub/__init__.py", "tools/sub/agent.py"),
    }


# What is a project.


def test_a_file_without_a_block_belongs_to_the_project_it_is_in(tmp_path: Path) -> None:
    lay(tmp_path, "agent.py", "x.txt", "scripts/mail.py", "src/hr/__init__.py")
    settings = 'dependencies = ["httpx", "torpor>=0.1"]\n[tool.torpor]\nmemory = "1G"'
    write(tmp_path, "pyproject.toml", PYPROJECT + settings)
    whole, own, mail = (read_agent(tmp_path / name) for name in ("", "agent.py", "scripts/mail.py"))
    assert whole == own and whole.origin == own.origin == str(tmp_path)
    assert (mail.entry, mail.called) == ("scripts/mail.py", "mail")
    assert mail.origin == str(tmp_path / "scripts/mail.py")
    assert mail.dependencies == ("httpx",) and mail.memory_mib == 1024
    assert mail.files == whole.files
    write(tmp_path, "scripts/mail.py", BLOCK)
    stands_alone = read_agent(tmp_path / "scripts/mail.py")
    assert set(stands_alone.files) == {"mail.py"} and not stands_alone.dependencies


def test_a_project_is_looked_for_as_far_as_the_repository_goes(tmp_path: Path) -> None:
    lay(tmp_path, "x.txt")
    file = write(tmp_path, "inner/agent.py", "")
    assert read_agent(file).entry == "inner/agent.py"
    assert read_agent(file.parent).entry == "inner/agent.py"
    write(tmp_path, "inner/pyproject.toml", "[tool.ruff]")
    assert read_agent(file).entry == "inner/agent.py"
    write(tmp_path, "inner/.git/config", "")
    assert read_agent(file).entry == "agent.py"


def test_a_directory_with_requirements(tmp_path: Path) -> None:
    write(
        tmp_path, "requirements.txt", "-r more.txt\nhttpx>=0.27 \\\n  --hash=sha256:0\n# no\n-e ."
    )
    write(tmp_path, "more.txt", "torpor\npydantic[email] ; python_version > '3'  # yes\n")
    write(tmp_path, "main.py", "")
    write(tmp_path, "x.csv", "")
    for path in (tmp_path, tmp_path / "main.py"):
        source = read_agent(path)
        assert source.dependencies == ("httpx>=0.27", "pydantic[email] ; python_version > '3'")
        assert "x.csv" in source.files and source.entry == "main.py"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("git+https://example.com/x", "is not on PyPI"),
        ("./lib", "is not on PyPI"),
        ("x @ https://example.com/x.whl", "x comes from https"),
        ("--index-url https://example.com", "an option that torpor does not know"),
        ("-r requirements.txt", "includes itself"),
        ("-r absent.txt", "absent.txt cannot be read"),
        ("a b c", "is not a requirement"),
    ],
)
def test_requirements_that_are_refused(tmp_path: Path, line: str, words: str) -> None:
    write(tmp_path, "requirements.txt", f"# one\n{line}\n")
    write(tmp_path, "main.py", "")
    with pytest.raises(Invalid, match=words):
        read_agent(tmp_path)


def test_an_entry_that_is_not_named_is_looked_for(tmp_path: Path) -> None:
    lay(tmp_path, "lib.py")
    write(tmp_path, "src/hr/bot.py", "import torpor\n@torpor.agent\ndef a(): ...\n")
    with pytest.raises(Invalid, match=r"no entry file \(agent.py or main.py\)") as said:
        read_agent(tmp_path)
    assert 'entry = "src/hr/bot.py"' in said.value.hint


# What is missing.


def test_a_module_that_was_not_taken_along_is_found(tmp_path: Path) -> None:
    write(tmp_path, "plugin.py", "")
    write(tmp_path, "lib/deep.py", "")
    source = alone(tmp_path, "import importlib\n")
    said = missing_module("ModuleNotFoundError: No module named 'plugin'; a", source)
    assert 'include = ["plugin.py"]' in said
    assert "lib/deep.py is in" in missing_module("No module named 'deep'", source)
    assert missing_module("No module named 'httpx'", source) == ""
    assert missing_module("another error", source) == ""


def test_a_file_that_was_not_taken_along_is_found(tmp_path: Path) -> None:
    for name in ("prompts/intro.md", "data.csv", ".env", "work/x.txt", "venv/pyvenv.cfg"):
        write(tmp_path, name, "")
    source = alone(tmp_path, "import importlib\n")

    def said(path: str) -> str:
        return missing_file(f"[Errno 2] No such file or directory: '{path}'", source)

    assert 'include = ["prompts/*.md"], or give it to a run: --file prompts/intro.md' in said(
        "prompts/intro.md"
    )
    assert said("/home/agent/work/prompts/intro.md") == said("prompts/intro.md")
    assert 'include = ["data.csv"]' in said("./data.csv")
    assert 'include = ["prompts/**/*"]' in said("prompts")
    assert 'include = ["work/*.txt"]' in said("/tmp/work/run_1/work/work/x.txt")
    assert "never included" in said(".env")
    for other in ("out/report.html", "agent.py", "/etc/nothing", "../data.csv", "venv/pyvenv.cfg"):
        assert said(other) == "", other
    assert missing_file("another error", source) == ""
