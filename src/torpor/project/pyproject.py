"""What a project's pyproject.toml says: dependencies, importable directories, what is installed.

An agent's project is there as an editable installation would have it: its files where they are,
the directories that hold its modules on the path, and a `.dist-info` from which
`importlib.metadata` reads its version and its entry points, all written by `installed` into
`SITE`, which travels with the files. See
https://packaging.python.org/en/latest/specifications/core-metadata/ and …/entry-points/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from torpor.core.errors import Invalid
from torpor.core.layout import PATHS, PROGRAMS, SITE
from torpor.project.facts import strings, table, without_torpor
from torpor.project.poetry import as_project
from torpor.project.requirements import read_requirements

_WHEELS = "Dependencies are wheels from PyPI: put the code into the project, or name a release."
_VERSION = re.compile(
    r"""(?m)^(?:__version__|VERSION|version)\s*(?::[^=\n]*)?=\s*["']([^"']+)["']"""
)
_OBJECT = re.compile(r"\s*([\w.]+)\s*(?::\s*([\w.]+)\s*)?(\[[^\]]*\]\s*)?")


class Pyproject:
    """A pyproject.toml as it was read, of the project in `root`. `where` is its name in errors."""

    def __init__(self, root: Path, meta: Mapping[str, Any], where: str) -> None:
        self.root, self.where = root, where
        self.project = table(meta, "project", where)
        self.tool = table(meta, "tool", where)
        if poetry := self._table("poetry"):
            self._add_poetry(poetry)
        self.torpor: Any = self.tool.get("torpor", {})
        self.backend = str(table(meta, "build-system", where).get("build-backend", ""))

    def _add_poetry(self, poetry: Mapping[str, Any]) -> None:
        """What [project] leaves to Poetry's own table. Raises Invalid."""
        if "dependencies" in self.project:
            return
        given = as_project(poetry, self.where)
        left = [each for each in self.dynamic if each not in given]
        self.project = {**given, **self.project, "dynamic": left}

    @property
    def name(self) -> str:
        name = self.project.get("name", "")
        return name if isinstance(name, str) else ""

    @property
    def dynamic(self) -> list[str]:
        return strings(self.project, "dynamic", self.where)

    # ---- dependencies ----

    def dependencies(self) -> list[str]:
        """With those of the extras that [tool.torpor] names. Raises Invalid for what is not
        known, or is not on PyPI."""
        extras = self.torpor.get("extras", []) if isinstance(self.torpor, dict) else []
        if "dependencies" in self.dynamic:
            found = self._dynamic_dependencies()
        else:
            found = strings(self.project, "dependencies", self.where)
        wanted = strings({"extras": extras}, "extras", self.where)
        found = [*found, *self._of_extras(wanted, frozenset())]
        self._refuse_sources(found)
        return without_torpor(list(dict.fromkeys(found)))

    def _of_extras(self, extras: list[str], within: frozenset[str]) -> Iterator[str]:
        offered = table(self.project, "optional-dependencies", self.where)
        known = {canonicalize_name(name): name for name in offered}
        for extra in extras:
            name = canonicalize_name(extra)
            if name not in known:
                raise Invalid(
                    f"{self.where}: extras = [{extra!r}] is not in [project.optional-dependencies]",
                    hint=f"It has: {', '.join(known.values()) or 'none'}.",
                )
            if name in within:
                continue
            for each in strings(offered, known[name], self.where):
                own = _parsed(each)
                if own is not None and canonicalize_name(own.name) == canonicalize_name(self.name):
                    yield from self._of_extras(sorted(own.extras), within | {name})
                else:
                    yield each

    def _dynamic_dependencies(self) -> list[str]:
        settings = self._setuptools("dynamic")
        named = settings.get("dependencies")
        files = named.get("file") if isinstance(named, dict) else None
        files = [files] if isinstance(files, str) else files
        if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
            raise Invalid(
                f'{self.where}: dynamic = ["dependencies"]: they are computed when '
                "the project is built, and torpor does not run a build to find out",
                hint="Write them into [project] dependencies, or into a requirements.txt that "
                "[tool.setuptools.dynamic] names: dependencies = { file = ["
                '"requirements.txt"] }',
            )
        return [line for file in files for line in read_requirements(self.root / file, self.root)]

    def _refuse_sources(self, dependencies: list[str]) -> None:
        """Nothing from PyPI takes the place of what is to come from elsewhere."""
        sources = table(self.tool, "uv", self.where).get("sources", {})
        elsewhere = {
            canonicalize_name(name): source
            for name, source in (sources.items() if isinstance(sources, dict) else ())
        }
        for each in dependencies:
            if (requirement := _parsed(each)) is None:
                continue  # the installer says what is wrong with it
            source = elsewhere.get(canonicalize_name(requirement.name))
            if source is not None:
                raise Invalid(
                    f"{self.where}: {requirement.name} comes from [tool.uv.sources] "
                    f"({_shown(source)}), which torpor does not support",
                    hint=_WHEELS,
                )
            if requirement.url:
                raise Invalid(
                    f"{self.where}: {requirement.name} comes from "
                    f"{requirement.url}, which torpor does not support",
                    hint=_WHEELS,
                )

    # ---- directories ----

    def roots(self) -> list[str]:
        """The directories, below the project's, whose modules and packages can be imported, the
        first first; "." is the project's own."""
        named = [each for each in self._named_roots() if (self.root / each).is_dir()]
        if not named and _holds_modules(self.root / "src"):
            named = ["src"]
        return list(dict.fromkeys([*named, "."]))

    def _named_roots(self) -> Iterator[str]:
        find = self._setuptools("packages", "find").get("where", [])
        yield from _directories(find)
        package_dir = self._setuptools("package-dir")
        for package, directory in package_dir.items():
            path = PurePosixPath(str(directory))
            if not package:
                yield from _directories([str(path)])
            elif path.parts[-1:] == (str(package).rpartition(".")[2],):
                yield from _directories([str(path.parent)])
        for hatch in (("build",), ("build", "targets", "wheel")):
            settings = self._table("hatch", *hatch)
            packages, sources = settings.get("packages", []), settings.get("sources", [])
            yield from _directories(_parents(packages))
            yield from _directories(sources if isinstance(sources, list) else list(sources))
            yield from _directories(settings.get("dev-mode-dirs", []))
        for package in _list(self._table("poetry").get("packages", [])):
            if isinstance(package, dict):
                yield from _directories([package.get("from", "")])
        if self.backend == "uv_build":
            yield from _directories([self._table("uv", "build-backend").get("module-root", "src")])
        yield from _directories([self._table("pdm", "build").get("package-dir", "")])
        yield from _directories([self._table("maturin").get("python-source", "")])

    def _setuptools(self, *keys: str) -> dict[str, Any]:
        return self._table("setuptools", *keys)

    def _table(self, *keys: str) -> dict[str, Any]:
        """A tool's settings; none, if they are not what the tool takes: it is the one to say so."""
        at: Any = self.tool
        for key in keys:
            at = at.get(key, {}) if isinstance(at, dict) else {}
        return at if isinstance(at, dict) else {}

    # ---- what is installed ----

    def installed(self, roots: list[str]) -> tuple[dict[str, bytes], frozenset[str]]:
        """Files to go along with the project's, and which of them are programs. Raises Invalid."""
        up = PurePosixPath(*[".."] * len(PurePosixPath(SITE).parts))
        lines = [str(up / root) for root in roots]
        files = {PATHS: "\n".join([*lines, ""]).encode()}
        if not self.name:
            return files, frozenset()
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", self.name):
            raise Invalid(f"{self.where}: [project] name = {self.name!r} is not a package name")
        version = self._version()
        stem = f"{re.sub(r'[-_.]+', '_', self.name).lower()}-{version.replace('-', '_')}"
        info = f"{SITE}/{stem}.dist-info"
        groups = self._entry_points()
        files[f"{info}/METADATA"] = self._metadata(version).encode()
        files[f"{info}/INSTALLER"] = b"torpor\n"
        if groups:
            files[f"{info}/entry_points.txt"] = _ini(groups).encode()
        programs = {
            f"{PROGRAMS}/{name}": body.encode()
            for name, target in groups.get("console_scripts", {}).items()
            if (body := _program(target)) and "/" not in name
        }
        names = sorted(f"{path}" for path in (*files, *programs) if path.startswith(info))
        shown = [*names, f"{info}/RECORD"]
        record = "".join(f"{name.removeprefix(f'{SITE}/')},,\n" for name in shown)
        files[f"{info}/RECORD"] = record.encode()
        return files | programs, frozenset(programs)

    def _metadata(self, version: str) -> str:
        lines = ["Metadata-Version: 2.1", f"Name: {self.name}", f"Version: {version}"]
        description = self.project.get("description", "")
        if isinstance(description, str) and description:
            lines.append(f"Summary: {' '.join(description.split())}")
        if requires := self.project.get("requires-python", ""):
            lines.append(f"Requires-Python: {requires}")
        declared = self.project.get("dependencies", [])
        lines += [f"Requires-Dist: {' '.join(str(each).split())}" for each in _list(declared)]
        return "\n".join([*lines, ""])

    def _version(self) -> str:
        """As it stands in pyproject.toml, or where the build backend reads it; else 0:
        nothing is built."""
        version = self.project.get("version", "")
        if isinstance(version, str) and version and "\n" not in version and "/" not in version:
            return version
        dynamic = self._setuptools("dynamic").get("version", {})
        dynamic = dynamic if isinstance(dynamic, dict) else {}
        files: list[str] = [str(each) for each in _list(dynamic.get("file", []))]
        for file in files:
            if text := self._text(file).strip():
                return text.split()[0]
        candidates: list[str] = []
        if isinstance(attr := dynamic.get("attr"), str):
            module = attr.rpartition(".")[0].replace(".", "/")
            ends = (".py", "/__init__.py")
            candidates += [f"{root}/{module}{end}" for root in self.roots() for end in ends]
        if isinstance(path := self._table("hatch", "version").get("path"), str):
            candidates.append(path)
        for candidate in candidates:
            if found := _VERSION.search(self._text(candidate)):
                return found[1]
        return "0"

    def _text(self, file: str) -> str:
        path = self.root / file
        if ".." in PurePosixPath(file).parts or not path.is_file():
            return ""
        return path.read_text(encoding="utf-8", errors="replace")

    def _entry_points(self) -> dict[str, dict[str, str]]:
        groups = {
            "console_scripts": table(self.project, "scripts", self.where),
            "gui_scripts": table(self.project, "gui-scripts", self.where),
        }
        groups |= table(self.project, "entry-points", self.where)
        for group, points in groups.items():
            if not isinstance(points, dict) or not all(
                isinstance(value, str) and _OBJECT.fullmatch(value) for value in points.values()
            ):
                raise Invalid(
                    f"{self.where}: entry points {group!r} must be names with "
                    '"module:function" for each'
                )
        return {group: points for group, points in groups.items() if points}


def _ini(groups: Mapping[str, Mapping[str, str]]) -> str:
    lines: list[str] = []
    for group, points in sorted(groups.items()):
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in sorted(points.items()))]
    return "\n".join([*lines, ""])


def _program(target: str) -> str:
    found = _OBJECT.fullmatch(target)
    if found is None or not found[2]:
        return ""
    top, _, rest = found[2].partition(".")
    call = f"{top}.{rest}" if rest else top
    return (
        "#!/usr/bin/env python3\nimport sys\n\n"
        f"from {found[1]} import {top}\n\nsys.exit({call}())\n"
    )


def _parsed(requirement: str) -> Requirement | None:
    try:
        return Requirement(requirement)
    except InvalidRequirement:
        return None


def _shown(source: Any) -> str:
    items = source.items() if isinstance(source, dict) else ()
    return ", ".join(f"{key} = {value}" for key, value in items) or str(source)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def _parents(packages: Any) -> list[str]:
    return [str(PurePosixPath(str(each)).parent) for each in _list(packages)]


def _directories(named: Any) -> Iterator[str]:
    """Those that are below the project's, as paths; globs and what leads elsewhere are not."""
    for each in _list(named):
        if not isinstance(each, str) or not each.strip():
            continue
        path = PurePosixPath(each)
        if not path.is_absolute() and ".." not in path.parts and "*" not in each:
            yield str(path)


def _holds_modules(directory: Path) -> bool:
    """Whether it is a `src` as the layout of that name has it, and no package called src."""
    if not directory.is_dir() or (directory / "__init__.py").exists():
        return False
    return any(
        path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))
        for path in directory.iterdir()
    )
