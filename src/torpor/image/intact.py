"""Whether what was built is as it was built: its files, by the digests that JSON beside them has.

Files are lost by hand, by a full or a dying disk. To read them whole takes a fraction of a second
when a server makes machines ready; a machine on damaged ones fails later, and does not say why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path


def digests(directory: Path, files: Iterable[Path]) -> dict[str, str]:
    """What the JSON has to hold as `content`: path in `directory` → digest."""
    return {path.relative_to(directory).as_posix(): _digest(path) for path in sorted(files)}


def damage(directory: Path, record: str) -> str:
    """What is absent or otherwise than it was, "" if nothing is. `record` names the JSON."""
    try:
        content = json.loads((directory / record).read_text())["content"]
        for name, digest in content.items():
            if not (directory / name).is_file():
                return f"{name} is absent"
            if _digest(directory / name) != digest:
                return f"{name} is damaged"
    except FileNotFoundError:
        return f"{record} is absent"
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"{record} is damaged"
    except OSError as error:
        return f"it cannot be read: {error}"
    return ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
