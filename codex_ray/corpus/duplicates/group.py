"""Documents that share a band: which of them are nearly equal, without comparing all with all.

A group (the documents with one band's hashes in common) is right when each pair of it was compared whose
link nothing else gives. Comparing each document with the first of the group only would lose chains
(a~b~c where a and c are too far apart) and pairs that have nothing to do with the first; comparing all
with all is quadratic in groups that a licence text or a page's frame makes large. So a group is taken in
blocks of ``BLOCK`` documents in the global order, and each document is compared with

- the *leaders*: the first document of each part of the group not yet linked, up to ``LEADERS`` of them;
- all documents of its own and of the preceding block, unless all of these are linked already.

Groups of up to two blocks thus have all the links that comparing all with all would give. In larger
groups a link is lost if it joins two documents more than two blocks apart of which neither is linked to
a leader of the other's, in each of the bands that they share. Nearly equal documents share most of their
bands, and rarely in large groups: only those bands in which a frame common to many decides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 128
LEADERS = 128

Int64 = NDArray[np.int64]
Signatures = NDArray[np.uint32]


class Group:
    """Links between the documents of one group, fed in the global order; memory does not grow with them.

    Args:
        needed: equal places of two signatures that make a link.
    """

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self._leaders: Signatures | None = None
        self._leader_roots = np.empty(0, dtype=np.int64)
        self._before: Signatures | None = None
        self._before_roots = np.empty(0, dtype=np.int64)
        self._links: list[Int64] = []

    def feed(self, documents: Int64, signatures: Signatures) -> None:
        """Take a block: ``BLOCK`` documents, fewer only in the last."""
        if self._leaders is None or self._before is None:
            self._leaders = self._before = signatures[:0]
        led, offset = len(self._leader_roots), len(self._leader_roots) + len(self._before_roots)
        # The root of a document is the smallest one that it is linked to, so far and in this group.
        roots = np.concatenate([self._leader_roots, self._before_roots, documents])
        if led:
            self._join(roots, 0, offset, matching(signatures, self._leaders) >= self.needed)
        if (roots[led:] != roots[-1]).any():
            near = np.concatenate([self._before, signatures])
            matches = matching(signatures, near) >= self.needed
            matches[np.arange(len(documents)), len(self._before) + np.arange(len(documents))] = False
            self._join(roots, led, offset, matches)
        self._leader_roots, self._before_roots, self._before = roots[:led], roots[offset:], signatures
        self._appoint(signatures)

    def links(self) -> Int64:
        """Return the links that join what belongs together: [links, 2], the later document first."""
        return np.concatenate([np.empty((0, 2), dtype=np.int64), *self._links])

    def _join(self, roots: Int64, first: int, offset: int, matches: NDArray[np.bool_]) -> None:
        """Link row i of the block, at ``offset + i`` of ``roots``, with its matches, from ``first`` on."""
        columns = roots[first : first + matches.shape[1]]
        own = roots[offset:]
        low = np.where(matches, columns, np.iinfo(np.int64).max).min(axis=1)
        high = np.where(matches, columns, -1).max(axis=1)
        found = high >= 0
        if first == 0 and offset:  # with leaders: documents that link to one part of the group, all at once
            alone = found & (low == high)
            self._links.append(np.stack([own[alone], low[alone]], axis=1))
            own[alone] = low[alone]
            found &= ~alone
        for row in np.flatnonzero(found & ((low != own) | (high != own))).tolist():
            linked = np.unique(np.append(roots[first + np.flatnonzero(matches[row])], own[row]))
            if len(linked) > 1:
                self._links.append(np.stack([linked[1:], np.full(len(linked) - 1, linked[0])], axis=1))
                roots[np.isin(roots, linked)] = linked[0]

    def _appoint(self, signatures: Signatures) -> None:
        """Make leaders of the first documents of the parts of this block that have none."""
        assert self._leaders is not None
        found, rows = np.unique(self._before_roots, return_index=True)
        new = np.sort(rows[~np.isin(found, self._leader_roots)])[: LEADERS - len(self._leader_roots)]
        if len(new):
            self._leaders = np.concatenate([self._leaders, signatures[new]])
            self._leader_roots = np.concatenate([self._leader_roots, self._before_roots[new]])


def matching(block: Signatures, others: Signatures) -> NDArray[np.uint32]:
    """Count the equal places of each signature of a block with each of others: [block, others]."""
    counts = np.zeros((len(block), len(others)), dtype=np.uint32)
    equal = np.empty(counts.shape, dtype=np.bool_)
    # Place by place: what is counted stays in the cache, and sums along short rows are slow.
    for left, right in zip(np.ascontiguousarray(block.T), np.ascontiguousarray(others.T), strict=True):
        np.equal(left[:, None], right, out=equal)
        counts += equal
    return counts
