"""``codex-ray serve`` at its ingress and in its replica, beside ``transformers serve``.

    python -m benchmarks.serving [--parts streams_1 streams_4 streams_16 streams_32 requests]

A Llama of 6 layers, 256 wide, in bfloat16 on two threads, and the work of the sampler's benchmark: prompts
and completions of long-tailed lengths. So many clients ask one after the other, over loopback, for streams of
text: of the engine itself, in this process; of ``codex-ray serve``, whose front listens by itself and has the
engine in its process; and of ``transformers serve`` with continuous batching. Clients and servers share the
two cores. A first token's time is until the first event with text, a later one's between two events. With
secrets masked, which is the default, text is held back to the end of its word: the overhead of the ingress is
measured with that and without (``_unmasked``). ``requests`` is completions of one token per second by 16
clients, beside an application of FastAPI on uvicorn that answers the same bytes without doing anything.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import Figure, commit_name, machine_name, read_results, write_result
from benchmarks.samplers import peers
from benchmarks.samplers.work import POSITIONS, Work, make_model, make_tokenizer, make_work
from benchmarks.servers.asking import Asked, ask_engine, ask_server, one_token_requests
from benchmarks.servers.running import bare_app, our_server
from codex_ray.errors import CodexRayError
from codex_ray.tokenizer import Tokenizer

STREAMS = {1: 12, 4: 24, 16: 64, 32: 96}
"""Streams at a time, and how many there are."""

MAIN = 16
AIM_OVER_PEER, AIM_OVERHEAD = 3.0, 10.0
PARTS = [*(f"streams_{count}" for count in STREAMS), "requests"]


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description="codex-ray serve beside transformers serve.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    figures = _measured_before()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = make_tokenizer(folder / "tokenizer")
        make_model("llama", torch.bfloat16).save_pretrained(folder / "model")
        tokenizer.save(folder / "model")
        for part in arguments.parts:
            if part == "requests":
                figures |= _requests(folder)
            else:
                figures |= _streams(folder, tokenizer, int(part.split("_")[1]))
            print(write_result("serving", figures), flush=True)


def _measured_before() -> dict[str, Figure]:
    """Figures of this commit on this machine: parts can be measured one after the other."""
    before = [one for one in read_results() if (one.benchmark, one.machine) == ("serving", machine_name())]
    return dict(before[0].figures) if before and before[0].commit == commit_name() else {}


def _streams(folder: Path, tokenizer: Tokenizer, count: int) -> dict[str, Figure]:
    work = make_work(tokenizer, STREAMS[count], seed=count)
    warm = Work(work.prompts[:count], [8] * count)
    model, found = folder / "model", dict[str, Asked]()

    def note(way: str, asked: Asked) -> None:
        found[way] = asked
        print(f"{count:2} {way:20} {asked}", flush=True)

    note("replica", ask_engine(model, warm, work, count))
    for way, settings in (("ingress", []), ("ingress_unmasked", ["guarding.mask_secrets=false"])):
        with our_server(
            model, folder, [f"engine.slots={count}", f"engine.max_tokens={POSITIONS}", *settings]
        ) as url:
            ask_server(url, "model", tokenizer, warm, count)
            note(way, ask_server(url, "model", tokenizer, work, count))
    try:
        with peers.serving(model, folder / "peer.log") as url:
            ask_server(url, str(model), tokenizer, warm, count)
            note("transformers_serve", ask_server(url, str(model), tokenizer, work, count))
    except (CodexRayError, OSError) as error:
        print(f"transformers serve was not measured: {error}", flush=True)
    figures = dict[str, Figure]()
    for way, asked in found.items():
        figures |= {
            f"{way}_first_token_ms_{count}": Figure(statistics.median(asked.firsts) * 1e3, "ms", "lower"),
            f"{way}_inter_token_ms_{count}": Figure(statistics.median(asked.gaps) * 1e3, "ms", "lower"),
            f"{way}_tokens_per_second_{count}": Figure(asked.tokens / asked.seconds, "tokens/s", "higher"),
        }
    return figures | _compared(figures, count)


def _compared(figures: dict[str, Figure], count: int) -> dict[str, Figure]:
    def value(name: str) -> float | None:
        return figures[name].value if name in figures else None

    command = f"python -m benchmarks.serving --parts streams_{count}"
    found, suffix = {}, "" if count == MAIN else f"_{count}"
    ours, peer = (value(f"{way}_tokens_per_second_{count}") for way in ("ingress", "transformers_serve"))
    found[f"serve_over_transformers_serve{suffix}"] = Figure(
        ours / peer if ours and peer else None,
        "ratio",
        "higher",
        aim=AIM_OVER_PEER if count == MAIN else None,
        command=None if ours and peer else command,
    )
    bare = value(f"replica_first_token_ms_{count}") or 0.0
    for way in ("ingress", "ingress_unmasked"):
        name = way.replace("ingress", f"ingress_first_token_overhead_ms{'' if count == 1 else f'_{count}'}")
        over = (value(f"{way}_first_token_ms_{count}") or 0.0) - bare
        found[name] = Figure(over, "ms", "lower", aim=AIM_OVERHEAD if name.endswith("_ms") else None)
    return found


def _requests(folder: Path) -> dict[str, Figure]:
    body: dict[str, Any] = {"model": "model", "prompt": "def ", "max_tokens": 1}
    with our_server(folder / "model", folder, [f"engine.max_tokens={POSITIONS}"]) as url:
        ours, answer = one_token_requests(url, body)
    with bare_app(answer, folder) as url:
        bare, _ = one_token_requests(url, body)
    print(f"one token: {ours:.0f} requests/s, a bare application {bare:.0f}", flush=True)
    return {
        "requests_per_second": Figure(ours, "1/s", "higher"),
        "bare_app_requests_per_second": Figure(bare, "1/s", "higher"),
        "requests_over_bare_app": Figure(ours / bare, "ratio", "higher"),
    }


if __name__ == "__main__":
    main()
