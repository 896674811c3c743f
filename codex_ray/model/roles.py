"""Which optimizer a parameter belongs to, from its name and shape alone."""

from __future__ import annotations

# Names of input and output embeddings, and of heads that give scores, in the model families of Transformers.
_EMBEDDINGS = ("embed", "lm_head", "wte", "wpe", "value_head", "score.")


def optimizer_role(name: str, shape: tuple[int, ...]) -> str:
    """Classify a parameter for the optimizer.

    Args:
        name: dotted parameter name; prefixes that wrappers add do not matter.
        shape: its full shape (ZeRO-3 hides it from the parameter itself).

    Returns:
        ``"mixer"`` for everything of a hyper-connection, ``"vector"`` for norms, biases and gates,
        ``"embedding"`` for embeddings and the output matrix, ``"matrix"`` for hidden matrices,
        which Muon takes.
    """
    if "mixer" in name:
        return "mixer"
    if len(shape) < 2:
        return "vector"
    return "embedding" if any(word in name for word in _EMBEDDINGS) else "matrix"
