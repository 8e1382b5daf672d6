"""What an agent reaches from a real machine, before and after a sleep: what its rules name, over
TLS with a real server, and nothing else; and the log says what it tried."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.e2e.conftest import Start
from tests.e2e.stage import Stage

from torpor.egress.authority import Authority

PORT = 18443
HOST = "upstream.example"


class Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(b"data: 1\n" + b"data: %b, %b\n" % (self.headers["host"].encode(), body))

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def upstream(stage: Stage, tmp_path: Path) -> Iterator[None]:
    """A server with TLS on this host's loopback, which the host's file lets agents reach."""
    authority = Authority.new()
    leaf = authority.leaf([HOST])
    (tmp_path / "leaf.pem").write_text(leaf.key + leaf.chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "leaf.pem")
    server = ThreadingHTTPServer(("127.0.0.1", PORT), Upstream)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (stage.home.root / "upstream.pem").write_text(authority.certificate)
    file = stage.home.root / "egress.toml"
    file.write_text(
        f'[[host]]\nname = "{HOST}"\naddresses = ["127.0.0.1"]\nports = [{PORT}]\n'
        'ca = "upstream.pem"\n'
    )
    yield
    file.unlink()
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("upstream")
def test_an_unmodified_client_reaches_what_a_rule_names(stage: Stage, start: Start) -> None:
    watch = start("reaching")
    watch.until("run.suspended")
    stage.client.complete(stage.open_wait(watch.run)["id"], approved=True)
    ended = watch.ended()
    assert ended["state"] == "completed", watch
    assert ended["result"] == [["data: 1", f"data: {HOST}:{PORT}, hello"]] * 2
    requests = [each["data"] for each in watch.entries if each["kind"] == "egress.request"]
    assert [each["url"] for each in requests] == [f"https://{HOST}:{PORT}/events"] * 2


def test_1_18_19_and_24_nothing_is_reached_before_and_after_a_sleep(
    stage: Stage, start: Start
) -> None:
    watch = start("confined")
    watch.until("run.suspended")
    stage.client.complete(stage.open_wait(watch.run)["id"], approved=True)
    ended = watch.ended()
    assert ended["state"] == "completed", watch
    for found in ended["result"]:
        name, plain, secure, port, datagram = found
        assert name == "gaierror"
        assert plain == "HTTP/1.1 400 Bad Request"  # no host's name
        assert secure == "ConnectionResetError"
        assert (port, datagram) == ("ConnectionRefusedError",) * 2
    refused = [each["data"] for each in watch.entries if each["kind"] == "egress.refused"]
    named = {each.get("name") for each in refused}
    assert {"before.example.com", "after.example.com", "169.254.169.254"} <= named
    assert any("93.184.216.34" in each.get("url", "") for each in refused)
