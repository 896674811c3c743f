"""Alerts: to a real HTTP server, and what becomes of one that fails, hangs or is not there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from codex_ray.config.common import Alerts as Settings
from codex_ray.config.compose import compose
from codex_ray.config.fields import to_dict
from codex_ray.config.saved import dumps
from codex_ray.errors import CodexRayError, Interrupted
from codex_ray.track import alerts, write_environment
from codex_ray.track.alerts import URL_VARIABLE, Alerts
from codex_ray.train.alarms import Alarms

EVERYTHING = ["failure", "stall", "spike", "end"]


@dataclass
class Webhook:
    """A server that keeps what it is sent; it answers with the statuses it is given, then with 200."""

    statuses: list[int] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    tries: int = 0
    silence: float = 0.0
    url: str = ""


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.tries += 1
            time.sleep(hook.silence)
            status = hook.statuses.pop(0) if hook.statuses else 200
            if status == 200 and self.headers["Content-Type"] == "application/json":
                hook.bodies.append(json.loads(body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hook.url = f"http://127.0.0.1:{server.server_port}/services/T0/s3cret"
    yield hook
    server.shutdown()
    server.server_close()


def test_an_alert_arrives_whole(webhook: Webhook) -> None:
    with Alerts(Settings(url=webhook.url), "mine") as sender:
        sender.send("spike", "the loss at step 7 is 9", 7)
        sender.send("end", "not asked for")
    (body,) = webhook.bodies
    assert body["run"] == "mine" and body["kind"] == "spike" and body["step"] == 7
    assert body["sentence"] == "the loss at step 7 is 9"
    assert abs(body["time"] - time.time()) < 120
    assert body["text"] == "mine, spike at step 7: the loss at step 7 is 9"


@pytest.mark.parametrize(
    ("error", "kind"),
    [(CodexRayError("out of luck"), "failure"), (Interrupted("stopped at step 3"), "end")],
)
def test_what_ends_a_run_is_told(error: Exception, kind: str, webhook: Webhook) -> None:
    with pytest.raises(type(error)), Alerts(Settings(url=webhook.url, on=EVERYTHING), "mine") as sender:
        sender.step = 3
        raise error
    (body,) = webhook.bodies
    assert (body["kind"], body["step"], body["sentence"]) == (kind, 3, str(error))


def test_a_second_try_is_enough(webhook: Webhook, caplog: pytest.LogCaptureFixture) -> None:
    webhook.statuses = [503]
    with Alerts(Settings(url=webhook.url), "mine") as sender:
        sender.send("failure", "one")
    assert [body["sentence"] for body in webhook.bodies] == ["one"] and webhook.tries == 2
    assert caplog.records == []


@pytest.mark.parametrize("status", [404, 302])
def test_a_webhook_that_refuses_is_one_warning_without_its_secret(
    status: int, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.statuses = [status] * 4
    with Alerts(Settings(url=webhook.url), "mine") as sender:
        for sentence in ("one", "two", "three"):
            sender.send("failure", sentence)
    assert [body["sentence"] for body in webhook.bodies] == ["three"]
    (record,) = caplog.records
    assert f"status {status}" in record.message and "127.0.0.1" in record.message
    assert "s3cret" not in caplog.text


def test_a_webhook_that_hangs_or_is_gone_holds_nothing_up(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(alerts, "TRY_SECONDS", 0.3)
    webhook.silence = 3.0
    sender = Alerts(Settings(url=webhook.url), "mine")
    began = time.monotonic()
    sender.send("failure", "one")
    assert time.monotonic() - began < 0.5
    sender.close()
    assert time.monotonic() - began < 10 and webhook.tries == 2
    gone = Alerts(Settings(url="http://127.0.0.1:9/s3cret"), "mine")
    gone.send("failure", "two")
    gone.close()
    assert len(caplog.records) == 2 and "s3cret" not in caplog.text


def test_the_address_is_a_secret_everywhere(
    webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = compose("pretrain", [f"track.alerts.url={webhook.url}", "train.steps=2"])
    assert settings.track.alerts.url == webhook.url
    assert "s3cret" not in dumps(settings) and "s3cret" not in json.dumps(to_dict(settings))
    (tmp_path / "config.yaml").write_text(dumps(settings))
    monkeypatch.setenv(URL_VARIABLE, webhook.url)
    monkeypatch.setattr("sys.argv", ["codex-ray", "pretrain", f"track.alerts.url={webhook.url}"])
    write_environment(tmp_path, to_dict(settings), mlflow_uri=None)
    assert "s3cret" not in (tmp_path / "environment.json").read_text()
    again = compose("pretrain", [], tmp_path / "config.yaml")
    assert again.track.alerts.url == "***"
    with Alerts(again.track.alerts, "again") as sender:
        sender.send("failure", "from the variable")
    assert [body["sentence"] for body in webhook.bodies] == ["from the variable"]
    monkeypatch.setenv(URL_VARIABLE, "")  # no address
    with Alerts(again.track.alerts, "again") as sender:
        sender.send("failure", "nowhere")
    assert len(webhook.bodies) == 1
    assert [record.message.split(",")[0] for record in caplog.records] == ["no alerts are sent"]


class Kept(Alerts):
    """Alerts that are kept here."""

    def __init__(self) -> None:
        super().__init__(Settings(), "kept")
        self.sent: list[tuple[str, str, int | None]] = []

    def send(self, kind: str, sentence: str, step: int | None = None) -> None:
        self.sent.append((kind, sentence, step))


def row(step: int, loss: float | None = 2.0, applied: int = 1) -> dict[str, Any]:
    return {"step": step, "loss": loss, "applied": applied}


def test_a_stall_is_told_once_until_steps_go_on() -> None:
    kept = Kept()
    alarms = Alarms(Settings(stall_factor=20), kept)
    for now in range(1000):  # no step yet: the start has deadlines of its own
        alarms.look(float(now))
    for step in range(1, 31):
        alarms.rows([row(step)], 1000 + 10.0 * step)
    for now in range(1300, 2000):
        alarms.look(float(now))
    assert kept.sent == [("stall", "no step was done for 201 s, and one usually takes 10 s", 30)]
    alarms.rows([row(31)], 2000.0)
    alarms.look(2100.0)
    assert len(kept.sent) == 1
    alarms.look(2300.0)
    assert len(kept.sent) == 2


def test_a_stall_is_measured_in_steps_where_not_each_has_a_row() -> None:
    kept = Kept()
    alarms = Alarms(Settings(stall_factor=20), kept)
    for step in range(10, 310, 10):
        alarms.rows([row(step)], 10.0 * step)
    alarms.rows([row(290)], 3010.0)  # the run went back
    alarms.look(3010.0 + 20 * 100.0)
    assert kept.sent == []
    alarms.look(3010.0 + 20 * 100.0 + 1.0)
    assert kept.sent == [("stall", "no step was done for 2001 s, and one usually takes 10 s", 290)]


def test_jumps_are_told_once() -> None:
    kept = Kept()
    alarms = Alarms(Settings(spike_factor=3.0), kept)
    alarms.rows([row(step) for step in range(1, 40)], 1.0)
    alarms.rows([row(40, 7.0), row(41, 9.0)], 2.0)
    alarms.rows([row(step) for step in range(42, 120)], 3.0)
    alarms.rows([row(120, None, applied=0)], 4.0)
    assert [(kind, step) for kind, _, step in kept.sent] == [("spike", 40), ("spike", 120)]
    assert kept.sent[0][1] == "the loss at step 40 is 7.000 and was about 2.000"
    assert "was not finite" in kept.sent[1][1] and kept.step == 120


def test_overflows_of_a_loss_scale_are_no_spikes() -> None:
    kept = Kept()
    alarms = Alarms(Settings(), kept, scaled=True)
    alarms.rows([row(1, applied=0), row(2, applied=0), row(3)], 1.0)
    assert kept.sent == []
    alarms.rows([row(4, None, applied=0)], 2.0)
    assert [step for _, _, step in kept.sent] == [4]
