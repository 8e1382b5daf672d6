"""`python -m torpor.egress.llama WEIGHTS SOCKET`: the local model's own process.

llama.cpp's server, loaded from a wheel, listening on a Unix socket that only this user can open.
It is a process of its own because native code that crashes takes its process with it. It prints
one line when it listens, and ends when its standard input does, that is, with its broker.
"""

from __future__ import annotations

import os
import sys

import xllamacpp

ALIAS = "SmolLM2-135M-Instruct"
CONTEXT_TOKENS = 4096
# More threads wait for each other by spinning. Beside busy machines two were 8 times slower than
# one, for 2 cores: 240 ms a token, not 30.
THREADS = 1
# llama.cpp then frees weights and cache (245 MB become 58) and loads them at the next request.
MODEL_IDLE_S = 600


def main() -> None:
    weights, socket = sys.argv[1:]
    os.umask(0o177)
    params = xllamacpp.CommonParams()
    params.model.path = weights
    params.model_alias = {ALIAS}
    params.hostnames = [socket]  # a name that ends in .sock is a Unix socket
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = 1
    params.n_threads_http = 4
    params.cpuparams.n_threads = THREADS
    params.cpuparams_batch.n_threads = THREADS
    params.cache_ram_mib = 0
    params.sleep_idle_seconds = MODEL_IDLE_S
    params.warmup = False
    params.ui = False
    params.verbosity = 1  # errors only: prompts stay out of the log
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads the pipe any more
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
