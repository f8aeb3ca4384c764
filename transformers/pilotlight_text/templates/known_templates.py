"""Templates that may run in the server's own process: each is linear in the conversation and has been read by us.

By the SHA-256 of the source, so that a model cannot claim one. A test computes the digests again from the sources: the
bundled demo model's, and those that vLLM's package carries.
"""

from __future__ import annotations

KNOWN_TEMPLATES = {
    "demo": "6e2d0d0e3e0fdbc7ad37257c55040fada705ea6ff6c10930c28e7072f537a53f",
    "basic": "0cc1f4d79e94300edea097a55ca50c103cc1f928a08dbc82381c48bbd3b21491",
    "chatml": "08ac4259ffca7a633f0e7b55ef41dfd3758d903bf1ce7a25c96fb4dd2249c39e",
    "deepseek_vl2": "597df6b8e67b87cff1aab5af9ac23947ee8db3c65c5d59fbe02281ec524e89f0",
    "minicpmv45": "b4dbc981fed2d237b51aa1713d443eab99d21b05e820d76a5b7f9538535e921f",
}
KNOWN_DIGESTS = frozenset(KNOWN_TEMPLATES.values())
