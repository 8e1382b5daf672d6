"""An agent's project where its author has it: which files it is, and what stands in them.

reading        from a path to an `AgentSource`: what is a project, and what stands alone
facts          what a `# /// script` block or [tool.torpor] says
pyproject      what [project] and a build backend's settings say; what is installed of it
poetry         the same, in Poetry's own words
requirements   requirements.txt
tree           which files of a directory are taken along
imports        which files an agent's own imports name
missing        what a module or file that an agent lacks may be

Nothing of a project is ever run here.
"""
