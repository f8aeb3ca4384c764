"""Sixty seconds of churn with real engines: fifty models on two slots, something is killed every six seconds.

The ten-minute form is benchmarks/churn.py; models, oracle, driver and judgement are the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from churn_driver import Churn, ChurnPlan, percentile
from churn_models import make_endpoints, with_answers
from churn_oracle import booted_answers
from churn_pool import ChurnPool, ThinPredictor
from component_process import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]
MODELS, AWQ_MODELS, THIN = 50, 2, 2


async def test_whatever_is_killed_every_completed_answer_is_the_models_own(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # Short, because a socket's path is.
    folder = tmp_path_factory.mktemp("churn")
    endpoints = make_endpoints(folder / "models", MODELS, AWQ_MODELS, seed=7)
    asked = [endpoints[0], *endpoints[-AWQ_MODELS:]]
    booted = await booted_answers(_pool(folder, "oracle", "--isolation", "reset"), asked)
    assert booted[endpoints[0].name] == endpoints[0].answers, "vLLM and plain torch do not agree; there is no oracle"
    endpoints = [with_answers(each, booted[each.name]) if each.answers is None else each for each in endpoints]
    assert len({each.answers for each in endpoints}) == MODELS

    pool = _pool(folder, "pool")
    await pool.start()
    thin = [ThinPredictor(each, free_port(), pool.url, folder / f"{each.name}.log") for each in endpoints[:THIN]]
    tally = await Churn(pool, thin, endpoints, ChurnPlan(duration_s=60, kill_every_s=6)).run()

    assert not tally.wrong, "\n".join([*tally.wrong[:10], pool.logs[-1].read_text()[-3000:]])
    completed = tally.completed.total()
    assert completed >= 30, tally
    assert tally.failures.total() < completed, tally
    assert set(tally.kills) >= {"engine", "agent", "predictor"}, tally.kills
    assert percentile(tally.all_waits_s(), 50) < 10.0, tally.waits_s


def _pool(folder: Path, name: str, *flags: str) -> ChurnPool:
    return ChurnPool(folder / name, free_port(), 2, flags=flags)
