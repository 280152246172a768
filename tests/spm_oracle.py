"""How llama.cpp cuts a text by a sentencepiece vocabulary, in the plainest form: the truth for the library's merges."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence


def tokenize(text: str, ids: Mapping[str, int], scores: Sequence[float], unknown: int = 0) -> list[int]:
    """Merge the adjacent pair whose sum is the token of the highest score, the leftmost first, until none is left.

    `text` has its spaces replaced already. What is no token in the end is spelled in bytes, or `unknown` (a run of
    them is one) where the vocabulary has none.
    """
    parts: list[str | None] = list(text)
    n = len(parts)
    after, before = [*range(1, n + 1)], [*range(-1, n - 1)]
    queue: list[tuple[float, int, int, str]] = []

    def consider(left: int, right: int) -> None:
        if left >= 0 and right < n:
            whole = f"{parts[left]}{parts[right]}"
            if whole in ids:
                heapq.heappush(queue, (-scores[ids[whole]], left, right, whole))

    for i in range(n - 1):
        consider(i, i + 1)
    while queue:
        _, left, right, whole = heapq.heappop(queue)
        if parts[left] is None or parts[right] is None or f"{parts[left]}{parts[right]}" != whole:
            continue
        parts[left], parts[right] = whole, None
        after[left] = after[right]
        if after[right] < n:
            before[after[right]] = left
        consider(before[left], left)
        consider(left, after[left])
    found: list[int] = []
    fallback = all(f"<0x{byte:02X}>" in ids for byte in range(256))
    for part in parts:
        if part is None:
            continue
        if part in ids:
            found.append(ids[part])
        elif fallback:
            found += [ids[f"<0x{byte:02X}>"] for byte in part.encode()]
        elif not found or found[-1] != unknown:
            found.append(unknown)
    return found
