"""The ``serve`` verb: a model behind the OpenAI API until Ctrl-C, or the YAML that Ray deploys."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from codex_ray.cluster.addresses import is_loopback
from codex_ray.cluster.session import default_variables, is_embedded, open_session
from codex_ray.config.common import Cluster
from codex_ray.config.fields import to_dict
from codex_ray.config.serve import Serve
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.files import write_text
from codex_ray.serve.keys import KeyFile

APP = "codex_ray"

FRONT_SECONDS = 5.0
"""Longest wait for the front to say what is in work."""

QUIET = {"RAY_SERVE_LOG_TO_STDERR": "0"}

_NOTE = """\
# {name} behind the OpenAI API: `serve run FILE` here, `serve deploy FILE` on a running cluster.
# http_options.host and args.host belong together: anything but loopback needs API keys
# (`codex-ray serve keys add NAME`), in a file that every node sees.
"""


def serve_verb(settings: Serve) -> None:
    """Serve a model until SIGINT or SIGTERM; requests in work may then end, a second signal ends at once.

    Raises:
        ConfigError: settings that cannot be right.
        CodexRayError: the model cannot be loaded, or the server does not start.
    """
    settings = absolute(settings)
    check(settings)
    if settings.write_config is not None:
        write_config(settings, Path(settings.write_config).expanduser())
        return
    cluster = Cluster(
        address=settings.address,
        logical_cpus=max(os.cpu_count() or 1, math.ceil(settings.replicas.cpus * settings.replicas.max) + 1),
        dashboard=settings.dashboard,
    )
    # Ray takes SIGTERM for a crash as soon as it begins; the last handler counts.
    with default_variables(QUIET), open_session(cluster), _stopping() as stop:
        from ray import serve

        if is_embedded():
            _check_port(settings.host, settings.port)
        _refuse_a_second()  # before what ends the application again
        try:
            _start(settings, stop)
            print(_greeting(settings), flush=True)
            while not stop.wait(1.0):
                _check_alive()
            _drain(settings.drain_seconds, stop)
        finally:
            if not is_embedded():  # which ends with the session
                serve.delete(APP)
                _shut_unless_others_serve()


def absolute(settings: Serve) -> Serve:
    """Name files in full: replicas run elsewhere."""
    return replace(
        settings,
        model=absolute_model(settings.model),
        models={name: absolute_model(model) for name, model in settings.models.items()},
        adapters=_full(settings.adapters),
        feedback=_full(settings.feedback),
        tls=replace(settings.tls, certificate=_full(settings.tls.certificate), key=_full(settings.tls.key)),
        access=replace(settings.access, keys=_full(settings.access.keys)),
        guarding=replace(settings.guarding, audit=_full(settings.guarding.audit)),
    )


def absolute_model(model: str) -> str:
    """Name a model's folder in full; a Hub name stays."""
    return str(_full(model)) if Path(model).expanduser().exists() else model


def _full(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())


def check(settings: Serve) -> None:
    """Refuse before anything starts what cannot serve.

    Raises:
        ConfigError: settings that cannot be right.
        CodexRayError: there is no such model.
    """
    keys = KeyFile(settings.access.keys)
    if not is_loopback(settings.host):
        if settings.access.required == "never":
            raise ConfigError(
                f"host={settings.host} can be reached from elsewhere, and access.required=never would let "
                "anybody in; leave it out, or take host=127.0.0.1"
            )
        if not keys.read():
            raise ConfigError(
                f"host={settings.host} can be reached from elsewhere and {keys.path} names no API key; make "
                "one with `codex-ray serve keys add NAME`, or take host=127.0.0.1"
            )
    if settings.replicas.min > settings.replicas.max:
        raise ConfigError(
            f"replicas.min={settings.replicas.min} is above replicas.max={settings.replicas.max}; lower it"
        )
    tls = (settings.tls.certificate, settings.tls.key)
    for file in tls:
        if any(tls) and (file is None or not Path(file).is_file()):
            raise ConfigError(
                f"tls.certificate={tls[0]} and tls.key={tls[1]} must both name files that are there; correct "
                "them, or leave both out"
            )
    if settings.adapters is not None and not Path(settings.adapters).is_dir():
        raise ConfigError(f"adapters={settings.adapters} is no folder; name the one that holds the adapters")
    if settings.engine.sampler == "vllm":
        from codex_ray.serve.vllm import check_vllm

        check_vllm(settings)
    from codex_ray.model.load import load_config  # torch, which the checks above do without
    from codex_ray.serve.app import name_of
    from codex_ray.track.registered import is_registered

    if name_of(settings) in settings.models:
        raise ConfigError(
            f"models has {name_of(settings)}, which is the first model's name; give one of them another"
        )
    for model in (settings.model, *settings.models.values()):
        if not is_registered(model):
            load_config(model, settings.revision if model == settings.model else None)


def write_config(settings: Serve, path: Path) -> None:
    """Write what Ray's own commands deploy.

    Raises:
        CodexRayError: the file cannot be written.
    """
    import yaml

    from codex_ray.serve.app import name_of

    arguments = to_dict(replace(settings, write_config=None))
    config = {
        "proxy_location": "HeadOnly",
        "http_options": http_options(settings),
        "applications": [
            {
                "name": APP,
                "route_prefix": "/",
                "import_path": "codex_ray.serve.app:build_app",
                "args": arguments,
            }
        ],
    }
    write_text(path, _NOTE.format(name=name_of(settings)) + yaml.safe_dump(config, sort_keys=False))
    print(f"{path}: `serve run {path}` here, or `serve deploy {path}` on a running cluster")


def http_options(settings: Serve) -> dict[str, Any]:
    """What Ray Serve's proxy is told."""
    tls = settings.tls
    secure = {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key} if tls.certificate else {}
    return {"host": settings.host, "port": settings.port, **secure}


def _start(settings: Serve, stop: threading.Event) -> None:
    from ray import serve

    from codex_ray.serve.app import build_alone, build_app

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if is_embedded():
        serve.start(proxy_location="Disabled", logging_config=_logging())
        app = build_alone(to_dict(settings))
    else:
        _shut_unless_others_serve()  # what an earlier one left would keep its port
        serve.start(proxy_location="HeadOnly", http_options=http_options(settings), logging_config=_logging())
        _check_address(settings)
        app = build_app(to_dict(settings))
    target = serve.RunTarget(target=app, name=APP, route_prefix="/", logging_config=_logging())
    serve.run_many([target], wait_for_applications_running=False)
    deadline = time.monotonic() + settings.start_seconds
    while (state := serve.status().applications[APP]).status != "RUNNING":
        if state.status == "DEPLOY_FAILED":
            raise CodexRayError(f"the model did not start: {_reason(state)}")
        if time.monotonic() > deadline:
            raise CodexRayError(
                f"the model did not answer within start_seconds={settings.start_seconds:g}; raise it, or see "
                "Ray's logs (/tmp/ray/session_latest/logs/serve)"
            )
        if stop.wait(0.1):
            return


def _refuse_a_second() -> None:
    from ray import serve

    if APP in serve.status().applications:
        raise CodexRayError(
            "this cluster serves already; change its model with `codex-ray serve update MODEL`, or end "
            "the other server first"
        )


def _shut_unless_others_serve() -> None:
    from ray import serve

    if not serve.status().applications:
        serve.shutdown()


def _check_address(settings: Serve) -> None:
    """Ray Serve that runs already, for others, goes on listening where it does."""
    from ray.serve.context import _get_global_client

    found = _get_global_client().http_config
    if (found.host, found.port) != (settings.host, settings.port):
        raise CodexRayError(
            f"Ray Serve listens on {found.host}:{found.port} in this cluster, for other applications; take "
            f"host={found.host} port={found.port}, or end those first"
        )


def _logging() -> dict[str, Any]:
    return {"log_level": "WARNING", "enable_access_log": False}


def _reason(state: Any) -> str:
    """The sentence at the end of the traceback that Ray Serve tells."""
    texts = [one.message for one in state.deployments.values() if one.message] or [state.message]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("codex_ray.") or "CodexRayError" in line]
    return str((ours or lines or ["no reason was given"])[-1])[:500]


def _check_alive() -> None:
    from ray import serve

    state = serve.status().applications.get(APP)
    if state is None:
        raise CodexRayError("the application was removed from Ray Serve by somebody else")


def _drain(seconds: float, stop: threading.Event) -> None:
    """Take no more requests and let those in work end; a second signal ends the wait."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    stop.clear()
    front = serve.get_app_handle(APP)
    deadline = time.monotonic() + seconds
    told = False
    while not stop.is_set() and time.monotonic() < deadline:
        try:
            left = front.drain.remote().result(timeout_s=FRONT_SECONDS)
        except (RayError, RayServeException, TimeoutError) as error:
            print(f"the front does not say what is in work ({type(error).__name__}); ending now", flush=True)
            return
        if not left:
            serve.delete(APP)  # its replicas pass on what they still have
            return
        if not told:
            print(f"ending; {left} requests may take up to {seconds:g} s, Ctrl-C ends at once", flush=True)
            told = True
        stop.wait(0.1)


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, for the length of the block; elsewhere than in the main thread
    nobody sets it but the caller."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {
        number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise CodexRayError(
                f"port {port} of {host} cannot be listened on ({error.strerror}); give another with port=N"
            ) from error


def _greeting(settings: Serve) -> str:
    import ray

    from codex_ray.serve.app import name_of

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if settings.tls.certificate else "http"
    base, name = f"{scheme}://{host}:{settings.port}", name_of(settings)
    return (
        f"{name} answers at {base}/v1 (the OpenAI API); Ctrl-C ends it\n"
        f"  export OPENAI_BASE_URL={base}/v1\n"
        f"  curl {base}/v1/completions -H 'content-type: application/json' "
        f'-d \'{{"model": "{name}", "prompt": "def ", "max_tokens": 32}}\'\n'
        f"  codex-ray serve update MODEL address={ray.get_runtime_context().gcs_address}"
        f"{_dashboard() if settings.dashboard else ''}"
    )


def _dashboard() -> str:
    import ray

    node = ray._private.worker.global_worker.node
    if node is None or not node.webui_url:
        return ""
    token = os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")
    return f"\n  http://{node.webui_url}/#/serve is Ray's dashboard; it asks for the token in {token}"
