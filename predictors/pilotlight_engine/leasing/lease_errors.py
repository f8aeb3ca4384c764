"""What can go wrong between the predictor and a warm pool, on top of the protocol's classes.

Unavailable
├── PoolUnreachable   nobody answers, or not as a pool does: asked again with back-off
├── LeaseRefused      the pool's own refusal, with its reasons: told to those who wait
├── LeaseEnded        the pool does not know this lease (any more): another one is asked for
├── WrongEngine       the engine that was lent serves another model: never used, another one is asked for
└── ServedElsewhere   another pod of this endpoint has an engine and this one waits for its own: a request goes there
"""

from __future__ import annotations

from pilotlight_protocol.errors import Unavailable


class PoolUnreachable(Unavailable):
    pass


class LeaseRefused(Unavailable):
    pass


class LeaseEnded(Unavailable):
    pass


class WrongEngine(Unavailable):
    pass


class ServedElsewhere(Unavailable):
    pass
