"""The broker: the only process that holds secrets, and a machine's only way out (rules 9, 10).

    client.py ──Unix socket──► app.py ──► calls.py ──► upstream.py a real API, with our key
                               allow-list each once       local.py   a small model (llama.cpp)
                               limits                     standin.py a script, which says so
                                      choice.py picks one of the three, once, at start

Every part of torpor that wants a language model asks here, over `run/broker.sock`, with a
placeholder where the key would stand; the real one is put in on the way out and taken out of
whatever comes back. `launch.py` starts the process, at most one per data directory.

A call has an identity and is made once, whoever dies meanwhile but this process (`calls.py`).
A reply is read whole before it is handed on, because its other end may be a machine that is
frozen by then, and because the context log records replies, not streams.
"""
