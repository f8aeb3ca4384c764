"""Which ready pod takes the next request. Pure: the caller gives the loads, the cursor and the random numbers.

Source: Knative Serving's activator: containerConcurrency 0 picks the less loaded of two random pods, 1 to 3 the first
pod with room, more than 3 round-robin over pods with room.
"""

from collections.abc import Sequence
from random import Random

FIRST_AVAILABLE_UP_TO = 3


def choose_pod(in_flight: Sequence[int], container_concurrency: int, cursor: int, rng: Random) -> int | None:
    """Index of the pod to use, None when no pod has room.

    Args:
        in_flight: requests each ready pod works on, in a stable order.
        container_concurrency: most requests a pod takes at once; 0 means no limit.
        cursor: index after the pod that was used last (round-robin).
        rng: source of the random choice.
    """
    if not in_flight:
        return None
    count = len(in_flight)
    if container_concurrency == 0:
        if count == 1:
            return 0
        first, second = rng.sample(range(count), 2)
        return first if in_flight[first] <= in_flight[second] else second
    start = 0 if container_concurrency <= FIRST_AVAILABLE_UP_TO else cursor
    for offset in range(count):
        index = (start + offset) % count
        if in_flight[index] < container_concurrency:
            return index
    return None
