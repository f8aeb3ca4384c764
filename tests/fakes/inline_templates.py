"""Renders every template in the test's own process: a TemplateRunner without processes."""

from __future__ import annotations

import json
from datetime import datetime

import jinja2

from pilotlight_text.templates import jinja_template
from pilotlight_text.templates.chat_template import refused, too_long
from pilotlight_text.templates.template_sources import TemplateSource


class InlineTemplates:
    def __init__(self, now: datetime = datetime(2026, 11, 22)) -> None:
        self._now = now
        self._kept: dict[str, jinja2.Template] = {}
        self.rendered = 0

    async def render(self, template: TemplateSource, context: bytes, max_chars: int) -> str:
        self.rendered += 1
        try:
            compiled = self._compiled(template)
            return jinja_template.rendered(compiled, json.loads(context), max_chars)
        except jinja_template.TemplateRefused as refusal:
            raise refused(str(refusal)) from refusal
        except jinja_template.TextTooLong:
            raise too_long(max_chars) from None

    async def probe(self, template: TemplateSource, special_tokens: bytes) -> bytes:
        try:
            compiled = self._compiled(template)
        except jinja_template.TemplateRefused as refusal:
            raise refused(str(refusal)) from refusal
        return json.dumps(jinja_template.probed_template(compiled, json.loads(special_tokens))).encode()

    def _compiled(self, template: TemplateSource) -> jinja2.Template:
        if template.digest not in self._kept:
            self._kept[template.digest] = jinja_template.compiled(template.source, lambda: self._now)
        return self._kept[template.digest]
