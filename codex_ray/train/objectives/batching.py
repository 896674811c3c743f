"""Sharing sequences of unequal length out among ranks and micro-batches; equal lengths, equal shares."""

from __future__ import annotations

from collections.abc import Sequence


def micro_batches(lengths: Sequence[int], most_tokens: int, at_least: int = 1) -> list[list[int]]:
    """Group sequences of like length, the longest first, so that padded groups are of bounded size.

    Args:
        lengths: tokens of each sequence.
        most_tokens: sequences times the longest, per group; a longer sequence is alone in its group.
        at_least: groups wanted. Large ones are halved until there are as many, then empty ones added.

    Returns:
        indices into ``lengths``, each once.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    groups: list[list[int]] = []
    for index in order:
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= most_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    while len(groups) < at_least:
        largest = max(range(len(groups)), key=lambda g: (len(groups[g]) > 1, len(groups[g])), default=-1)
        if largest < 0 or len(groups[largest]) < 2:
            return groups + [[] for _ in range(at_least - len(groups))]
        group, half = groups[largest], (len(groups[largest]) + 1) // 2
        groups[largest : largest + 1] = [group[:half], group[half:]]
    return groups


def deal(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Deal sequences to ranks so that each gets about as many tokens: the longest first, to whom has least.

    Returns:
        each rank's indices into ``lengths``, rising.
    """
    hands: list[list[int]] = [[] for _ in range(ranks)]
    held = [0] * ranks
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        rank = min(range(ranks), key=lambda rank: (held[rank], len(hands[rank]), rank))
        hands[rank].append(index)
        held[rank] += lengths[index]
    return [sorted(hand) for hand in hands]
