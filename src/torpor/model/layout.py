"""Where things are in an agent's directory that its author did not put there.

A project is installed: what of it Python looks up, and is no file of the project, is in `SITE`,
below the directory that has the project's files. One file that stands alone has none of that.
"""

from __future__ import annotations

OURS = ".torpor"  # what is in it is the same for all versions whose project is installed alike
SITE = ".torpor/site"  # a directory of modules, with .pth files, as a virtual environment has one
PROGRAMS = ".torpor/bin"
