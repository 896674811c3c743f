"""A spare worker's measurement: the rows and the loss that all workers would have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

from codex_ray.config.check import BatchPlan
from codex_ray.config.model import Model, Residual
from codex_ray.corpus.direct import RowReader
from codex_ray.errors import CodexRayError
from codex_ray.model import build_model
from codex_ray.tokenizer import Tokenizer
from codex_ray.train.spare import Measurement, measure
from codex_ray.train.validation import validation_rows
from tests.unit.corpus.corpora import make_corpus

WORKERS = 3


@pytest.fixture(autouse=True)
def no_group_is_left() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_measures_what_all_workers_would(tmp_path: Path, dtype: str) -> None:
    manifest = make_corpus(
        tmp_path / "corpus", length=16, sources={"a": (20, 0.5), "b": (9, 0.5)}, held_out=20
    )
    tokenizer = Tokenizer.load(manifest.folder / "tokenizer")
    shape = Model(
        hidden_size=16, intermediate_size=32, layers=2, heads=2, key_value_heads=1, head_size=8,
        residual=Residual(streams=2),
    )  # fmt: skip
    model = build_model(
        shape,
        vocabulary_size=tokenizer.vocabulary_size,
        sequence_length=16,
        seed=3,
        special_ids=tokenizer.special_ids,
    )
    measurement = Measurement(
        manifest.folder, 14, WORKERS, BatchPlan(6, 2, 2, 1), model.config, dtype, False, None, 1
    )
    with torch.no_grad():
        for parameter in model.parameters():  # large, so that it shows in the loss what is rounded
            parameter *= 30 if parameter.ndim == 2 else 1
        for name, buffer in model.named_buffers():
            if name.endswith("bias_constant"):
                buffer += 0.1234567  # which bf16 would round
    # As the engine gathers them: tied weights once, and buffers that are not saved too.
    held = [*model.named_parameters(), *model.named_buffers()]
    weights = {name: value.detach().numpy() for name, value in held}
    assert not weights.keys() <= model.state_dict().keys()
    figures = measure(measurement, weights)
    ids = [int(row) for part in validation_rows(manifest, 14, WORKERS).values() for row in part]
    assert len(ids) == 12  # a multiple of the workers of each source
    rows = torch.from_numpy(RowReader(manifest, "validation", cached_groups=1).take(ids).astype("int64"))
    for parameter in model.parameters():  # buffers stay in fp32
        parameter.data = parameter.data.to(getattr(torch, dtype))
    with torch.no_grad():
        logits = model.eval()(input_ids=rows).logits[:, :-1]
    wanted = cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten()).item()
    assert figures["validation_loss"] == pytest.approx(wanted, rel=1e-5)
    assert {"validation/a/loss", "validation/b/loss", "validation_bits_per_byte"} <= figures.keys()
    del weights["model.embed_tokens.weight"]
    with pytest.raises(CodexRayError, match=r"embed_tokens.weight is not among the weights"):
        measure(measurement, weights)
