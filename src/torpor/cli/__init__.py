"""The command line. It decides nothing: it asks the server and shows the answer.

stdout carries what was asked for (data, the agent's output, its result), stderr all that is said
about it. How commands end is in `exits`.

`main` is the program, and shows errors; `commands` lists what there is, and `lazy` loads what of it
is used, from `host`, `agents`, `runs`, `waits` and more; `attach` follows a run in a terminal,
with `question` to answer its waits; `timeline` reads the log into what `trace` draws; `words` and
`screen` say and show things.
"""
