"""Time-weighted concurrency and request rate of one revision since the last report (Knative's RequestStats). Pure."""


class RequestMeter:
    """`arrived` and `finished` bracket every request; a request that waits counts as one that runs."""

    def __init__(self, now_s: float) -> None:
        self.concurrency = 0
        self._since_s = now_s
        self._changed_s = now_s
        self._weighted = 0.0
        self._requests = 0

    def arrived(self, now_s: float) -> None:
        self._advance(now_s)
        self.concurrency += 1
        self._requests += 1

    def finished(self, now_s: float) -> None:
        self._advance(now_s)
        self.concurrency -= 1

    def report(self, now_s: float) -> tuple[float, float]:
        """(average concurrency, requests per second), and begin the next period."""
        self._advance(now_s)
        period_s = now_s - self._since_s
        if period_s <= 0:
            return float(self.concurrency), 0.0
        average, rate = self._weighted / period_s, self._requests / period_s
        self._since_s, self._weighted, self._requests = now_s, 0.0, 0
        return average, rate

    def _advance(self, now_s: float) -> None:
        self._weighted += self.concurrency * max(0.0, now_s - self._changed_s)
        self._changed_s = now_s
