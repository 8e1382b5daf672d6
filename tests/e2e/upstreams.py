"""Servers with TLS on this host's loopback, which the host's file lets agents reach."""

from __future__ import annotations

import ssl
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.e2e.stage import Stage

from torpor.egress.authority import Authority


@contextmanager
def reachable(
    stage: Stage, server: ThreadingHTTPServer, names: Sequence[str], more: str = ""
) -> Iterator[None]:
    """`server` serves, under these names; `more` is said in the host's file."""
    authority, home = Authority.new(), stage.home
    leaf = authority.leaf(names)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "leaf.pem").write_text(leaf.key + leaf.chain)
        tls.load_cert_chain(Path(directory) / "leaf.pem")
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (home.root / "upstream.pem").write_text(authority.certificate)
    known = (
        f'[[host]]\nname = "{name}"\naddresses = ["127.0.0.1"]\n'
        f'ports = [{server.server_port}]\nca = "upstream.pem"\n'
        for name in names
    )
    home.egress.write_text("".join(known) + more)
    try:
        yield
    finally:
        home.egress.unlink()
        server.shutdown()
        server.server_close()
