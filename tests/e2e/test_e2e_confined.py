"""What an agent without rules reaches from a real machine: nothing, before and after a sleep; and
the log says what it tried."""

from __future__ import annotations

from tests.e2e.conftest import Start
from tests.e2e.stage import Stage


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
