"""Rows of one prompt as one row, in which the prompt is computed once and its completions stand behind it.

Of a group of n completions the prompt is otherwise computed n times. How many completions stand in a row is
a matter of arithmetic: with each token more the linear layers have a constant amount of work more, and
attention, which computes what the mask hides as well, as much more as the row is long. With a prompt of P
tokens, and the linear layers' work of a token equal to attention to X tokens, the work per completion is
least where the completions in a row have sqrt(P (P + X)) tokens together.

Shape legend: B rows, S sequence, G rows laid out, W their length, T tokens that count.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codex_ray.model.branches import NOTHING, SHARED, branch_mask, may_branch

if TYPE_CHECKING:
    from codex_ray.train.objectives.sequences import Sequences

LONGEST = 8192  # tokens of a row laid out: its mask takes 64 MiB


@dataclass(frozen=True)
class Laid:
    """What the model's forward takes, and where in its flattened batch the tokens that count follow."""

    inputs: dict[str, Tensor]
    places_T: Tensor


def attention_worth(model: Any) -> int:
    """Return to how many tokens' attention the linear layers' work of a token is equal, about.

    A layer of width D has some 12 D^2 weights, and attention to a token takes two products of D numbers.

    Returns:
        0 where a model cannot keep completions apart by a mask.
    """
    text = model.config.get_text_config()
    if not may_branch(model) or text._attn_implementation != "sdpa":
        return 0
    return 6 * int(text.hidden_size)


def together(rows: Sequences, most_tokens: int) -> list[tuple[list[int], int]]:
    """Group rows that have one prompt, with no more in a group than pays; by the first of each prompt.

    Args:
        rows: of which ``shared`` says what attention is worth.
        most_tokens: of a group that is more than one row.

    Returns:
        the rows of each group, and how long it is when it is laid out.
    """
    ids, lengths = rows.input_ids_BS.tolist(), rows.lengths_B.tolist()
    of_prompt: dict[tuple[int, ...], list[int]] = {}
    for row, begin in enumerate(_begins(rows)):
        of_prompt.setdefault(tuple(ids[row][:begin]), []).append(row)
    groups: list[tuple[list[int], int]] = []
    for prompt, members in of_prompt.items():
        own = len(prompt)
        most = min(own + math.isqrt(own * (own + rows.shared)), most_tokens, LONGEST)
        group, laid = [members[0]], lengths[members[0]]
        for row in members[1:]:
            if laid + lengths[row] - own <= most:
                group, laid = [*group, row], laid + lengths[row] - own
            else:
                groups.append((group, laid))
                group, laid = [row], lengths[row]
        groups.append((group, laid))
    return groups


def lay(rows: Sequences) -> Laid:
    """Lay rows out in the groups of ``rows.laid``, which follow one another."""
    begins, lengths = _begins(rows), rows.lengths_B.tolist()
    ends = list(itertools.accumulate(rows.laid))
    groups = [range(end - count, end) for end, count in zip(ends, rows.laid, strict=True)]
    width = max(sum(lengths[row] for row in group) - (len(group) - 1) * begins[group[0]] for group in groups)
    device, shape = rows.input_ids_BS.device, (len(groups), width)
    ids_GW = rows.input_ids_BS.new_zeros(shape)
    positions_GW, part_GW = torch.zeros_like(ids_GW), torch.full_like(ids_GW, NOTHING)
    place_BS = torch.zeros_like(rows.input_ids_BS)
    positions_S = torch.arange(rows.shape[1], device=device)
    for number, group in enumerate(groups):
        shared = begins[group[0]]
        end = shared
        ids_GW[number, :shared] = rows.input_ids_BS[group[0], :shared]
        positions_GW[number, :shared], part_GW[number, :shared] = positions_S[:shared], SHARED
        for part, row in enumerate(group, start=1):
            begin, end = end, end + lengths[row] - shared
            own, there = slice(shared, lengths[row]), slice(begin, end)
            ids_GW[number, there] = rows.input_ids_BS[row, own]
            positions_GW[number, there], part_GW[number, there] = positions_S[own], part
            place_BS[row, :shared] = number * width + positions_S[:shared]
            place_BS[row, own] = number * width + torch.arange(begin, end, device=device)
    before_T = rows.mask_BS.flatten().nonzero().flatten() - 1
    inputs = {"input_ids": ids_GW, "attention_mask": branch_mask(part_GW), "position_ids": positions_GW}
    return Laid(inputs, place_BS.flatten()[before_T])


def _begins(rows: Sequences) -> list[int]:
    """Where each row's first token that counts is: what is before it is its prompt; all of it without one."""
    first_B = rows.mask_BS.int().argmax(1)
    return torch.where(rows.mask_BS.any(1), first_B, rows.lengths_B).tolist()
