"""`python -m pilotlight_transformer`: reads the command line and the environment, and wires the component.

The port is bound first, so that early clients wait instead of being refused; the tokenizer loads in a thread while the
web stack is imported.
"""

from __future__ import annotations

import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pilotlight_serving.log_lines import log_to_stderr
from pilotlight_serving.settings import ServerSettings
from pilotlight_text.templates.template_workers import TemplateWorkers
from pilotlight_text.token_source import TokenSource
from pilotlight_transformer.settings import TransformerSettings, parse_settings
from pilotlight_wire.one_port import listen
from pilotlight_wire.upstream_address import UpstreamAddress, predictor_address

if TYPE_CHECKING:
    from pilotlight_text.text_model import LoadedText

_log = logging.getLogger("pilotlight.transformer")


def main() -> int:
    log_to_stderr(os.environ.get("PILOTLIGHT_LOG_LEVEL", "INFO"))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # requests are the parallelism here
    settings = parse_settings(sys.argv[1:], os.environ)
    try:
        address = predictor_address(settings.predictor_host, use_tls=settings.predictor_use_ssl)
    except ValueError as error:
        _log.error("%s", error)
        return 2
    _tell(settings, address)
    server_settings = ServerSettings(
        http_port=settings.http_port,
        max_body_bytes=settings.max_body_bytes,
        cors=settings.cors,
        max_concurrent_requests=settings.max_concurrent_requests,
        drain_timeout_s=settings.drain_timeout_s,
        model_control=settings.model_control,
    )
    listener = listen(server_settings.host, server_settings.http_port)
    loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")
    templates = TemplateWorkers()
    loading = loader.submit(_load, settings, templates)
    loader.shutdown(wait=False)
    from pilotlight_serving.server import Server  # the web stack, beside the loading
    from pilotlight_transformer.served_text_model import ServedTextModel

    model = ServedTextModel(settings, _predictor(settings, address), templates)
    server = Server(model, server_settings, listener)
    status = server.run(model.lifespan(loading, server.stop))
    return 1 if model.load_failed else status


def _load(settings: TransformerSettings, templates: TemplateWorkers) -> LoadedText:
    from pilotlight_text.tokenization.text_loading import load_text  # jinja2 and tokenizers: imported in the thread

    return load_text(
        settings.model_uri,
        settings.max_model_len,
        templates,
        settings.environment,
        settings.parsers,
        settings.adapter_uri,
    )


def _predictor(settings: TransformerSettings, address: UpstreamAddress) -> TokenSource:
    if settings.predictor_protocol == "grpc-v2":
        from pilotlight_transformer.grpc_predictor import GrpcPredictor  # only where asked for

        return GrpcPredictor(address, timeout_s=settings.predictor_request_timeout_s)
    from pilotlight_transformer.rest_predictor import RestPredictor

    return RestPredictor(
        address,
        connect_timeout_s=settings.connect_timeout_s,
        timeout_s=settings.predictor_request_timeout_s,
    )


def _tell(settings: TransformerSettings, address: UpstreamAddress) -> None:
    _log.info("model %s, predictor %s (%s)", settings.model_name, address.authority, settings.predictor_protocol)
    if settings.workers != 1:
        _log.info("--workers=%d is not needed: one process serves all requests", settings.workers)
    if settings.ignored:
        _log.info("arguments of KServe's and vLLM's that change nothing here: %s", " ".join(settings.ignored))


if __name__ == "__main__":
    raise SystemExit(main())
