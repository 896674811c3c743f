"""Models exported to ONNX, any batch and length, and run by ONNX Runtime; run by ``test_beside.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tests.unit.model.small import KINDS, build, stir, tokens


class Logits(nn.Module):
    """The part of a model that has tensors in and a tensor out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids, attention_mask=attention_mask, use_cache=False).logits
        return logits


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_gives_the_same_logits(kind: str, tmp_path: Path) -> None:
    model = stir(build(kind)).requires_grad_(False)
    ids = tokens(2, 12)
    free = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("sequence", min=2, max=64)}
    program = torch.onnx.export(
        Logits(model),
        (ids, torch.ones_like(ids)),
        dynamo=True,
        dynamic_shapes={"input_ids": free, "attention_mask": free},
    )
    assert program is not None
    program.save(str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for rows, length in ((2, 12), (1, 3), (5, 40)):
        ids = tokens(rows, length)
        mask = torch.ones_like(ids)
        mask[0, : length // 3] = 0  # padding
        given = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        expected = model(ids, attention_mask=mask).logits
        found = session.run(None, given)[0]
        seen = mask.bool().numpy()
        np.testing.assert_allclose(found[seen], expected.numpy()[seen], rtol=1e-3, atol=1e-4)
