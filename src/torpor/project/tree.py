"""Which files of a directory are taken along.

What `.gitignore` files name stays where it is, in git's own grammar and order: nested ones, those
of the directories above up to the repository's, negation. `.torporignore` is the same for what
only torpor is to leave out, and has the last word of the two. Beyond that, what no agent needs
(`_NEVER`) and what no machine may have (`is_secret`) is always left out.

A link is followed as what it points to, if that is in the project; one that leads out of it is
left out, and so is what is no file: sockets, pipes, devices.
"""

from __future__ import annotations

import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from torpor.core.agentfile import FILES_BYTES_MAX, FILES_MAX
from torpor.core.errors import Invalid

IGNORE_FILES = (".gitignore", ".torporignore")
# A walk ends here: somebody who names the root of a disk need not wait for its end.
WALK_MAX = 50_000
_CULPRITS = 5
_NEVER = frozenset(
    {
        *(".git", ".hg", ".svn", ".jj", ".bzr", "__pycache__", "node_modules", ".venv", ".torpor"),
        *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".tox", ".nox", ".eggs"),
        *(".ipynb_checkpoints", ".direnv", ".DS_Store", "Thumbs.db"),
    }
)
_NEVER_ENDING = (".pyc", ".pyo", ".egg-info")
_SAMPLES = re.compile(r"\.env(\..+)?\.(example|sample|template|dist)")


@dataclass
class Taken:
    """Files by their path below `root`, and in words what was left out that one may miss."""

    root: Path
    files: dict[str, Path] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def notes(self) -> Iterator[str]:
        if self.secrets:
            yield (
                f"left out: {_few(self.secrets)}; secrets do not belong in "
                "machines. What is not secret can be in [tool.torpor] env"
            )
        if self.outside:
            yield (
                f"left out: {_few(self.outside)}; these links are broken, or lead "
                f"out of {self.root}"
            )

    def read(self) -> dict[str, bytes]:
        """Their content. Raises Invalid, before anything is read, if it is too much."""
        sizes = {name: _size(name, path) for name, path in self.files.items()}
        if len(sizes) > FILES_MAX or sum(sizes.values()) > FILES_BYTES_MAX:
            raise _too_much(sizes)
        return {name: read_bytes(name, path) for name, path in self.files.items()}

    def executable(self) -> frozenset[str]:
        return frozenset(
            name for name, path in self.files.items() if path.stat().st_mode & stat.S_IXUSR
        )


def is_secret(name: str) -> bool:
    """Whether a file of this name is where secrets are kept: .env, .env.production, .envrc."""
    if _SAMPLES.fullmatch(name):
        return False
    return name in (".env", ".envrc") or name.startswith(".env.")


def is_never_taken(directory: Path, name: str) -> bool:
    return (
        name in _NEVER
        or name.endswith(_NEVER_ENDING)
        or (directory / name / "pyvenv.cfg").is_file()
    )


class Tree:
    """The directory `root`, whose ignore files hold; and `exclude`, lines in their grammar."""

    def __init__(self, root: Path, exclude: Iterable[str] = (), where: str = "") -> None:
        self.root = root
        self._real = root.resolve()
        self._specs: dict[str, GitIgnoreSpec | None] = {}  # of each directory below
        self._above = list(_specs_above(root))
        try:
            self._exclude = GitIgnoreSpec.from_lines(exclude)
        except ValueError as error:
            raise Invalid(f"{where}: exclude has an invalid pattern: {error}") from error

    def walk(self, taken: Taken, below: str = "") -> None:
        """Take along what is in the directory `below` (ending with a slash, or "")."""
        self._walk(taken, below, frozenset({(self.root / below).resolve()}))

    def include(self, taken: Taken, pattern: str, where: str) -> None:
        """Take along what the glob `pattern` names, though it be ignored. Raises Invalid."""
        try:
            if any("**" in part and part != "**" for part in pattern.split("/")):
                raise ValueError("'**' must be an entire path component")  # as Python 3.11 has it
            matched = sorted(self.root.glob(pattern))
        except (ValueError, NotImplementedError) as error:
            raise Invalid(
                f"{where}: include = [{pattern!r}] is not a valid pattern: {error}"
            ) from error
        found: Taken = Taken(self.root)
        for path in matched:
            name = path.relative_to(self.root).as_posix()
            if path.is_dir():
                self._walk(found, f"{name}/", frozenset({path.resolve()}), ignoring=False)
            elif self._is_wanted(found, path, name, ignoring=False):
                found.files[name] = path
        if not found.files:
            if found.secrets:
                raise Invalid(
                    f"{where}: include = [{pattern!r}] names {_few(found.secrets)}, "
                    "which is always left out: secrets do not belong in machines"
                )
            raise Invalid(
                f"{where}: include = [{pattern!r}] matches no file"
                + (" that is not left out" if matched else "")
            )
        taken.files.update(found.files)
        taken.outside += found.outside

    def add(self, taken: Taken, path: Path) -> None:
        """Take this file along, though it be ignored, if nothing else speaks against it."""
        name = path.relative_to(self.root).as_posix()
        if self._is_wanted(taken, path, name, ignoring=False):
            taken.files[name] = path

    def _walk(
        self, taken: Taken, below: str, inside: frozenset[Path], *, ignoring: bool = True
    ) -> None:
        directory = self.root / below
        try:
            entries = sorted(directory.iterdir())
        except OSError as error:
            raise _unreadable(below, error) from error
        for path in entries:
            if len(taken.files) > WALK_MAX:
                return
            name = f"{below}{path.name}"
            if path.is_dir() and not is_never_taken(directory, path.name):
                real = path.resolve()
                if path.is_symlink() and not self._leads_inside(real):
                    taken.outside.append(name)
                elif real not in inside and not self._is_left(f"{name}/", ignoring):
                    self._walk(taken, f"{name}/", inside | {real}, ignoring=ignoring)
            elif self._is_wanted(taken, path, name, ignoring=ignoring):
                taken.files[name] = path

    def _is_wanted(self, taken: Taken, path: Path, name: str, *, ignoring: bool) -> bool:
        at = self.root
        for part in name.split("/"):
            if is_never_taken(at, part):
                return False
            at /= part
        if is_secret(path.name):
            taken.secrets.append(name)
            return False
        if self._is_left(name, ignoring):
            return False
        if path.is_symlink() and not self._leads_inside(path.resolve()):
            taken.outside.append(name)
            return False
        try:
            return stat.S_ISREG(path.stat().st_mode)
        except OSError as error:
            raise _unreadable(name, error) from error

    def _is_left(self, name: str, ignoring: bool) -> bool:
        if self._exclude.check_file(name).include:
            return True
        return ignoring and self._is_named(name)

    def _is_named(self, name: str) -> bool:
        """By the ignore file that is nearest to it and says anything of it, as git has it."""
        if (excluded := self._exclude.check_file(name).include) is not None:
            return excluded
        below = name.rstrip("/")
        while below:
            below = below.rpartition("/")[0]
            spec = self._spec_of(below)
            shown = name[len(below) + 1 :] if below else name
            if spec is not None and (included := spec.check_file(shown).include) is not None:
                return included
        for prefix, spec in self._above:
            if (included := spec.check_file(f"{prefix}{name}").include) is not None:
                return included
        return False

    def _spec_of(self, below: str) -> GitIgnoreSpec | None:
        if below not in self._specs:
            self._specs[below] = _spec_in(self.root / below)
        return self._specs[below]

    def _leads_inside(self, real: Path) -> bool:
        return real.is_relative_to(self._real) and real.exists()


def _specs_above(root: Path) -> Iterator[tuple[str, GitIgnoreSpec]]:
    """Those of the directories above in the same repository, the nearest first, each with the way
    from there to `root`. None, if they ignore `root` itself: it was named all the same."""
    found: list[tuple[str, GitIgnoreSpec]] = []
    at = root.resolve()
    if (at / ".git").exists():
        return
    for directory in at.parents:
        if (spec := _spec_in(directory)) is not None:
            found.append((f"{at.relative_to(directory).as_posix()}/", spec))
        if (directory / ".git").exists():
            if not any(spec.check_file(prefix).include for prefix, spec in found):
                yield from found
            return


def _spec_in(directory: Path) -> GitIgnoreSpec | None:
    lines: list[str] = []
    for name in IGNORE_FILES:
        path = directory / name
        if path.is_file():
            try:
                lines += path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            except OSError as error:
                raise _unreadable(name, error) from error
    if not lines:
        return None
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError:  # a line that git would pass over, too
        return GitIgnoreSpec.from_lines(filter(_is_pattern, lines))


def _is_pattern(line: str) -> bool:
    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True


def read_bytes(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(name, error) from error


def _size(name: str, path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: OSError) -> Invalid:
    return Invalid(
        f"{name or 'the directory'} cannot be read: {error.strerror}",
        hint=(f'If the agent does not need it, exclude it: [tool.torpor] exclude = ["{name}"]')
        if name
        else "",
    )


def _too_much(sizes: Mapping[str, int]) -> Invalid:
    """Names what is largest: files, or the directories at the top that have the most of them."""
    count, total = len(sizes), sum(sizes.values())
    directories: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for name, size in sizes.items():
        top = f"{name.partition('/')[0]}/" if "/" in name else name
        directories[top] += size
        numbers[top] += 1
    by_size = total > FILES_BYTES_MAX
    largest = (directories if by_size else numbers).most_common(_CULPRITS)
    shown = [
        f"{name} ({directories[name]:,} bytes)"
        if numbers[name] == 1
        else f"{name} ({numbers[name]:,} files, {directories[name]:,} bytes)"
        for name, _ in largest
    ]
    if by_size:
        files = sorted(sizes, key=lambda name: -sizes[name])[:_CULPRITS]
        shown += [f"{name} ({sizes[name]:,} bytes)" for name in files if "/" in name]
    culprit = largest[0][0]
    return Invalid(
        f"the agent has {count:,} files{' or more' if count > WALK_MAX else ''} of "
        f"{total:,} bytes together; the limit is {FILES_MAX:,} files and "
        f"{FILES_BYTES_MAX:,} bytes. Largest: {', '.join(shown)}",
        hint="Leave out what the agent does not need, with a line in .torporignore or "
        f'[tool.torpor] exclude = ["{culprit}"]. Give large data to the run instead '
        "(torpor run --file).",
    )


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:_CULPRITS])
    return shown if len(names) <= _CULPRITS else f"{shown} and {len(names) - _CULPRITS} more"
