"""An agent's project where its author has it: which files it is, and what stands in them.

reading.py       from a path to an `AgentSource`: what is a project, and what stands alone
facts.py         what a `# /// script` block or [tool.torpor] says
pyproject.py     what [project] and a build backend's settings say; what is installed of it
poetry.py        the same, in Poetry's own words
requirements.py  requirements.txt
tree.py          which files of a directory are taken along, and which are not
imports.py       which files an agent's own imports name
missing.py       what a module that an agent lacks may be

Nothing of a project is ever run here.
"""
