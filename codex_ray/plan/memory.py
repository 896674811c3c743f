"""What training holds in memory, in bytes per worker: closed forms, from the shape and the settings alone.

The engine's state is ZeRO's (arXiv 1910.02054, section 5), with the buffers that DeepSpeed 0.19.8 makes. What
the forward pass keeps is counted operator by operator, as Korthikanti et al. do (arXiv 2205.05198, section
4), for this decoder's own operators; docs/planning.md has the formulas.

Notation: T tokens of a micro-batch, S of a row, D hidden size, F feed-forward, L layers, N streams, K mixing
logits, Q query width (heads x head size), G key and value width, V vocabulary, e bytes of a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from codex_ray.config.check import BatchPlan
from codex_ray.config.train import Pretrain
from codex_ray.model import CodexRayConfig
from codex_ray.model.inspect import BYTES, zero_shares
from codex_ray.model.operations import ATTENTION_LENGTH, ATTENTION_ROWS, LOSS_LOGITS, LOSS_TOKENS
from codex_ray.model.recomputation import best_block
from codex_ray.train.environment import LARGE_BYTES

FP32 = 4

# Parameters that ZeRO-3 keeps gathered until as many others were used (DeepSpeed's stage3_max_live_parameters
# and stage3_max_reuse_distance).
LIVE_PARAMETERS = 10**9


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker at one ZeRO stage.

    Attributes:
        weights: in the compute precision, those that ZeRO-3 gathers included.
        gradients: in the compute precision.
        masters: fp32 copies of the weights.
        moments: the optimizer's.
        activations: what the forward pass keeps for the backward pass.
        passing: the most that one operator holds beside it: logits, or one layer's gradients.
        buckets: gradients on their way to other workers.
        update: the most that the optimizer step holds beside its state; activations are free by then.
        process: the process itself, without any model.
        heap: bytes that the allocator takes for each that is asked for.
        apart: whether the optimizer step's arrays are too large for the memory that activations leave, which
            a CPU's allocator keeps.
    """

    weights: float
    gradients: float
    masters: float
    moments: float
    activations: float
    passing: float
    buckets: float
    update: float
    process: float
    heap: float = 1.0
    apart: bool = False

    @property
    def total(self) -> float:
        """The peak over a step."""
        return self.process + self.heap * self.model

    @property
    def model(self) -> float:
        """The peak over a step of what is asked for, without the process."""
        state = self.weights + self.gradients + self.masters + self.moments
        passes = self.activations + self.passing + self.buckets
        return state + (passes + self.update if self.apart else max(passes, self.update))


def memory(
    settings: Pretrain,
    config: CodexRayConfig,
    batch: BatchPlan,
    *,
    parameters: int,
    matrices: int,
    sequence_length: int,
    dtype: str,
    stage: int,
    on_cpu: bool,
    process: float = 0.0,
    heap: float = 1.0,
    recompute: str | None = None,
) -> Memory:
    """Return what one worker holds.

    Args:
        settings: of the run; optimizer, buckets, workers and (unless given) recomputation count.
        config: the decoder's.
        batch: rows per micro-batch and accumulation.
        parameters: all of the model's; ``matrices``: those that Muon would take.
        sequence_length: tokens per row.
        dtype: compute precision.
        stage: ZeRO's.
        on_cpu: whether attention over short rows keeps its weights, as ours on a CPU does.
        process: bytes of a worker without a model; ``heap``: that its allocator takes per byte asked for.
        recompute: in place of ``train.recompute``.
    """
    workers, size = settings.cluster.workers, BYTES[dtype]
    weights, gradients, masters, moments = zero_shares(parameters, dtype, stage, workers)
    tokens = batch.micro_rows * sequence_length // settings.cluster.sequence_parallel
    kept = recompute or settings.train.recompute
    bucket = min(settings.deepspeed.bucket_elements, parameters) * size if stage else 0.0
    muon = settings.optimizer.kind == "muon"
    shards = workers if stage else 1
    if muon:
        moments -= FP32 * matrices / shards
    if stage == 3:
        weights += size * min(parameters, LIVE_PARAMETERS) * (workers > 1)
    return Memory(
        weights=weights,
        gradients=gradients,
        masters=masters,
        moments=moments,
        activations=activations(config, tokens, sequence_length, size, on_cpu=on_cpu, recompute=kept),
        passing=passing(config, tokens, sequence_length, size, on_cpu=on_cpu, recompute=kept),
        buckets=bucket,
        update=update(matrices, size, stage, shards, muon=muon),
        process=process,
        heap=heap,
        apart=on_cpu and stage > 0 and FP32 * matrices / shards >= LARGE_BYTES,
    )


def activations(
    config: CodexRayConfig, tokens: int, length: int, size: int, *, on_cpu: bool, recompute: str = "none"
) -> float:
    """Bytes that the forward pass of one micro-batch keeps, up to the last norm."""
    layers, streams = config.num_hidden_layers, _streams(config, tokens, size)
    last = tokens * config.hidden_size * size + FP32 * tokens
    if recompute == "layers":
        return layers * streams + last
    each = layer_activations(config, tokens, length, size, on_cpu=on_cpu)
    if recompute == "streams" and config.mixed_streams > 1:
        sublayers = 2 * layers
        made_again = sublayers - math.ceil(sublayers / best_block(config.mixed_streams, sublayers))
        return layers * each - made_again * streams + last
    return layers * each + last


def layer_activations(config: CodexRayConfig, tokens: int, length: int, size: int, *, on_cpu: bool) -> float:
    """Bytes that one layer keeps.

    Of every sublayer: the norm's input and output and its roots (T D e twice, 4 T). Of attention: queries and
    keys before and after their norm, values and the result (T e (3 Q + 3 G)), and, over short rows on a CPU,
    its weights. Of the feed-forward: gate, its SiLU, the other half and their product (4 T F e). Of a mixer:
    the streams (T N D e), the sublayer's output (T D e), logits and the writing matrix (fp32).
    """
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    query, narrow = heads * config.head_dim, shared * config.head_dim
    width, inner = config.hidden_size, config.intermediate_size
    numbers = 2 * 2 * width + 3 * query + 3 * narrow + 4 * inner
    roots = 2 + (heads + shared if config.query_key_norm else 0)
    kept = float(tokens * (numbers * size + roots * FP32))
    if on_cpu and 1 < length <= ATTENTION_LENGTH:
        kept += tokens / length * heads * size * _attention_weights(length)
    else:
        kept += tokens * heads * FP32  # the logarithms of flash attention's sums (arXiv 2205.14135)
    if config.mixed_streams > 1:
        kept += 2 * (_streams(config, tokens, size) + tokens * width * size)
        kept += 2 * tokens * FP32 * (1 + mixing_logits(config) + _writing_numbers(config))
    return kept


def passing(
    config: CodexRayConfig, tokens: int, length: int, size: int, *, on_cpu: bool, recompute: str = "none"
) -> float:
    """Bytes of the largest thing that is held beside the activations for a moment."""
    width, vocabulary = config.hidden_size, config.vocab_size
    chunk = min(tokens, max(LOSS_TOKENS, LOSS_LOGITS // vocabulary))
    softmax = chunk * vocabulary * (size + FP32 + (size if size < FP32 else 0))
    loss = softmax + tokens * width * size + vocabulary * width * (FP32 + size)
    streams = _streams(config, tokens, size)
    layer = 3 * tokens * config.intermediate_size * size + 2 * streams
    if recompute == "layers":
        layer += layer_activations(config, tokens, length, size, on_cpu=on_cpu)
    elif recompute == "streams" and config.mixed_streams > 1:
        layer += best_block(config.mixed_streams, 2 * config.num_hidden_layers) * streams
    leaving = tokens * width * config.mixed_streams * FP32 if config.mixed_streams > 1 else 0
    return float(max(loss, layer, leaving))


def update(matrices: int, size: int, stage: int, shards: int, *, muon: bool) -> float:
    """Bytes that the optimizer step holds for its largest group, the matrices.

    AdamW: the flat gradient in both precisions and two numbers per weight. Muon: the gradient, the momentum
    of all workers, and five copies of this one's part while it is made orthogonal.
    """
    if muon:
        return float(FP32 * matrices * (1 + 5 / shards))
    narrow = size if size < FP32 else 0
    gradient = (narrow + FP32) if stage else 0
    return float((gradient + 2 * FP32) * matrices / shards)


def mixing_logits(config: CodexRayConfig) -> int:
    """K: read gates, write gates and what becomes the mixing matrix."""
    streams = config.residual_streams
    kinds = {"identity": 0, "mhc_permutation": math.factorial(streams)}
    return 2 * streams + kinds.get(config.residual_kind, streams**2)


def _writing_numbers(config: CodexRayConfig) -> int:
    streams = config.residual_streams
    return streams if config.residual_kind == "identity" else streams * (streams + 1)


def _streams(config: CodexRayConfig, tokens: int, size: int) -> float:
    return float(tokens * config.mixed_streams * config.hidden_size * size)


def _attention_weights(length: int) -> float:
    """Numbers of one head's weights over one row, kept in blocks of rows that end at the diagonal."""
    stops = [min(start + ATTENTION_ROWS, length) for start in range(0, length, ATTENTION_ROWS)]
    return float(sum((stop - start) * stop for start, stop in zip([0, *stops], stops, strict=False)))
