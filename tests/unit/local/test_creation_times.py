"""When an endpoint was first there is known over restarts, and forgotten with it; who has a name later is told so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from endpoint_entries import entry

from pilotlight_local.controller.platform_status import ComponentStatus
from pilotlight_local.embedded.control_server import with_names
from pilotlight_local.embedded.creation_times import CreationTimes
from pilotlight_local.embedded.endpoint_news import EndpointNews
from pilotlight_local.ingress.routes import EndpointName

CHAT, MAIL = EndpointName("team", "chat"), EndpointName("team", "mail")


def test_who_was_there_first_is_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "created.json"
    CreationTimes(path, lambda: 1.0).note([MAIL])
    CreationTimes(path, lambda: 2.0).note([CHAT, MAIL])
    again = CreationTimes(path, lambda: 3.0)
    again.note([MAIL, CHAT])
    assert (again.of(MAIL), again.of(CHAT)) == (1.0, 2.0)
    again.forget(MAIL)
    again.note([MAIL])
    assert CreationTimes(path).of(MAIL) == 3.0
    again.keep([CHAT])
    assert (CreationTimes(path).of(MAIL), CreationTimes(path).of(CHAT)) == (0.0, 2.0)


def test_a_name_that_an_old_endpoint_gets_later_is_its_own_since_then(tmp_path: Path) -> None:
    path = tmp_path / "created.json"
    CreationTimes(path, lambda: 1.0).note([MAIL])
    assert CreationTimes(path, lambda: 2.0).of_models(MAIL, ("base", "a")) == (1.0, 1.0)
    assert CreationTimes(path, lambda: 3.0).of_models(MAIL, ("base", "b", "a")) == (1.0, 3.0, 1.0)
    assert CreationTimes(path, lambda: 4.0).of_models(MAIL, ("base", "b")) == (1.0, 3.0)
    assert CreationTimes(path, lambda: 5.0).of_models(MAIL, ("base", "a")) == (1.0, 5.0), "it was another's to take"
    again = CreationTimes(path, lambda: 6.0)
    again.note([MAIL])
    assert again.of(MAIL) == 1.0


def test_a_file_that_cannot_be_read_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "created.json"
    path.write_text("{")
    times = CreationTimes(path, lambda: 5.0)
    times.note([CHAT])
    assert CreationTimes(path).of(CHAT) == 5.0


async def test_status_says_who_has_a_name_where_nothing_worse_is_wrong() -> None:
    news = EndpointNews("e1")
    news.tell(entry("chat", model_names=("tuned",), created_s=1.0))
    news.tell(entry("tuned", created_s=2.0))
    news.tell(entry("tuned", "other", created_s=3.0))
    held = news.held_by_others()
    assert held == {("team", "tuned"): {"tuned": "chat"}}
    row = ComponentStatus(
        *("team", "tuned", "predictor", "r1", "Ready", 1, 1, 0, 0, 100, "/serving/team/tuned/", "h", "", ())
    )
    failed, inner = replace(row, reason="it cannot start"), replace(row, path="")
    said = [each.reason for each in with_names([row, failed, inner, replace(row, namespace="other")], held)]
    assert said == ["the name 'tuned' is that of 'chat', which had it first", "it cannot start", "", ""]
