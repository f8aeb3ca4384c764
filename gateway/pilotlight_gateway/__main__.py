"""`python -m pilotlight_gateway`: reads the command line and the environment, and wires the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pilotlight_engine.leasing.leased_holder import PoolAddress
from pilotlight_gateway.commands import random_key
from pilotlight_gateway.configuration.config_file import BrokenConfig
from pilotlight_gateway.configuration.config_watch import ConfigWatch
from pilotlight_gateway.configuration.current_config import CurrentConfig
from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.directory.endpoints_file import read_endpoints
from pilotlight_gateway.directory.platform_watch import watch
from pilotlight_gateway.endpoints.cold_starts import ColdStarts
from pilotlight_gateway.endpoints.endpoint_orders import EndpointOrders
from pilotlight_gateway.endpoints.endpoints_api import EndpointsApi, no_usage
from pilotlight_gateway.endpoints.news_waiter import NewsWaiter
from pilotlight_gateway.endpoints.socket_platform import SocketPlatform
from pilotlight_gateway.gateway_app import GatewayRouter, OwnRoute
from pilotlight_gateway.grpc_door.endpoints_plane import EndpointsPlane
from pilotlight_gateway.idempotency.answers_once import AnswersOnce
from pilotlight_gateway.idempotency.shared_answers import SharedAnswers
from pilotlight_gateway.jobs.job_runner import CallerAgain
from pilotlight_gateway.later_work import PLATFORM_STARTS_S, LaterWork
from pilotlight_gateway.limits.accounts import Accounts, MemoryAccounts
from pilotlight_gateway.limits.kept_budgets import KeptBudgets
from pilotlight_gateway.limits.redis_accounts import RedisAccounts
from pilotlight_gateway.limits.sqlite_budgets import FILE_NAME as BUDGETS_FILE_NAME
from pilotlight_gateway.limits.sqlite_budgets import SqliteBudgets
from pilotlight_gateway.limits.tenant_limits import TenantLimits
from pilotlight_gateway.metrics import ENDPOINTS, TEXT_WORKER_BYTES
from pilotlight_gateway.pipeline import Pipeline, Steps
from pilotlight_gateway.pods_way.pods_way import PodsWay
from pilotlight_gateway.priorities.fair_turns import FairTurns
from pilotlight_gateway.request_log import RequestLog
from pilotlight_gateway.request_steps import GatewayRequest, Limits, NoLimits, OpenDoor, Way
from pilotlight_gateway.responses.pods_responses import PodsResponses
from pilotlight_gateway.responses.shared_responses import SharedResponses
from pilotlight_gateway.rollout.rollouts import FILE_NAME as ROLLOUTS
from pilotlight_gateway.rollout.rollouts import Rollouts
from pilotlight_gateway.routing.mirrors import Mirrors
from pilotlight_gateway.routing.route_list import RouteList
from pilotlight_gateway.routing.routes import Routes
from pilotlight_gateway.routing.target_waits import EndpointFacts, TargetWaits
from pilotlight_gateway.settings import GatewaySettings, parse_settings
from pilotlight_gateway.short_way.endpoint_routes import any_endpoints_routes
from pilotlight_gateway.short_way.recorded_short_way import RecordedShortWay
from pilotlight_gateway.short_way.short_way import ShortWay
from pilotlight_gateway.short_way.text_cache import TextCache
from pilotlight_gateway.short_way.text_loader import WorkerLoader
from pilotlight_gateway.surfaces import makes_tokens
from pilotlight_gateway.tenants.admin_routes import TenantAdministration
from pilotlight_gateway.tenants.authenticators import TenantAuthenticator
from pilotlight_gateway.tenants.configured_tokens import ConfiguredTokens
from pilotlight_gateway.tenants.sqlite_store import FILE_NAME, SqliteTenants
from pilotlight_gateway.tenants.tenant_watch import TenantWatch
from pilotlight_gateway.usage.endpoint_records import EndpointRecords
from pilotlight_gateway.usage.prices import PriceTable
from pilotlight_gateway.usage.slot_time_watch import SlotTimesByEndpoint, SlotTimeWatch
from pilotlight_gateway.usage.sqlite_usage import FILE_NAME as USAGE_FILE_NAME
from pilotlight_gateway.usage.sqlite_usage import SqliteUsage
from pilotlight_gateway.usage.usage_api import UsageApi
from pilotlight_gateway.usage.usage_book import UsageBook
from pilotlight_gateway.ways import ChosenWay, WayFacts, WayName, choose_way
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.errors import PilotlightError
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter, logged_in_a_line
from pilotlight_serving.drained_server import DrainedServer, grpc_on
from pilotlight_serving.grpc_server import GrpcServer
from pilotlight_serving.http_app import HttpApp
from pilotlight_serving.log_lines import log_to_stderr
from pilotlight_serving.metrics import predict_observer
from pilotlight_serving.settings import ServerSettings
from pilotlight_text.responses_api.response_store import KeptHere, ResponseStore
from pilotlight_text.text_workers.worker_room import WorkerRoom

if TYPE_CHECKING:
    from pilotlight_gateway.redis_link import RedisLink

_BUSY_SHARE = 0.5

_log = logging.getLogger("pilotlight.gateway")


def main() -> int:
    settings = parse_settings(sys.argv[1:], os.environ)
    log_to_stderr(settings.log_level)
    try:
        return Gateway(settings).run()
    except BrokenConfig as error:
        _log.error("%s", error.message)
        return 2
    except (PilotlightError, OSError) as error:
        _log.error("%s", error)
        return 1


class Closed(Protocol):
    async def close(self) -> None: ...


class Opened(Closed, Protocol):
    async def start(self) -> None: ...


class _Chooser:
    def __init__(self, short: ShortWay) -> None:
        self._short = short

    def choose(self, request: GatewayRequest) -> ChosenWay:
        place, running = request.place, self._short.running(request.entry.key)
        tokens = makes_tokens(place.method, place.component_path)
        return choose_way(request.entry, WayFacts(running, tokens))


def _wakes(short: ShortWay, pods: PodsWay) -> Callable[[EndpointEntry, WayName, Callable[[float], None]], None]:
    def wake(entry: EndpointEntry, way: WayName, woken: Callable[[float], None]) -> None:
        if way == "short":
            short.warm(entry, woken)
        else:
            pods.wake(entry)  # which says when one of them is there, and not when the other one is

    return wake


def _redis_links(url: str) -> tuple[RedisLink, RedisLink]:
    """For limits, and for named answers: large ones must not keep limits waiting."""
    from pilotlight_gateway.redis_link import LARGE_DEADLINE_S, RedisLink  # with its client, which only replicas need

    return RedisLink(url), RedisLink(url, LARGE_DEADLINE_S)


class Gateway:
    """Everything put together; `run` once. Must be made before the event loop runs."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._known = None if settings.endpoints is None else read_endpoints(settings.endpoints)
        self._config_watch = None if settings.config is None else ConfigWatch(settings.config)
        self._config = CurrentConfig() if self._config_watch is None else self._config_watch.current
        folder = settings.state_dir
        self._rollouts = Rollouts(None if folder is None else folder / ROLLOUTS)
        self._tenants: SqliteTenants | None = None
        if settings.auth != "open" and settings.state_dir is not None:
            self._tenants = SqliteTenants(settings.state_dir / FILE_NAME)
        self._process = uuid.uuid4().hex
        self._usage = None if settings.state_dir is None else SqliteUsage(settings.state_dir / USAGE_FILE_NAME)
        self._redis = _redis_links(settings.redis_url) if settings.redis_url else None
        self._log = RequestLog(settings.request_log) if settings.request_log else None
        ended = logged_in_a_line if self._log is None else self._log.ended
        self._limiter = ConcurrencyLimiter(settings.max_concurrent_requests, ended)
        self._server_settings = ServerSettings(
            http_port=settings.port,
            host=settings.host,
            max_body_bytes=settings.max_body_bytes,
            cors=settings.cors,
            max_concurrent_requests=settings.max_concurrent_requests,
            drain_timeout_s=settings.drain_timeout_s,
        )

    def run(self) -> int:
        stored = self._responses()
        room = WorkerRoom(self._settings.text_cache_bytes * 3 // 4)
        TEXT_WORKER_BYTES.set_function(lambda: room.in_use_bytes)
        loader = WorkerLoader(room, self._settings.environment)
        texts = TextCache(loader, self._settings.text_cache_bytes // 4)
        table = EndpointTable()
        ENDPOINTS.set_function(lambda: len(table))
        short = ShortWay(PoolAddress(self._settings.pool_url, self._settings.pool_key), texts, stored, table)
        pods = PodsWay(short=short, table=table, responses=PodsResponses(stored))
        watch_tenants = None if self._tenants is None else TenantWatch(self._tenants)
        authenticator: OpenDoor | TenantAuthenticator = OpenDoor()
        limits: Limits = NoLimits()
        own: list[OwnRoute] = []
        opened: list[Opened] = [room, self._rollouts]
        if self._log is not None:
            opened.append(self._log)
        if self._config_watch is not None:
            opened.append(self._config_watch)
        if self._redis is not None:
            opened += self._redis
        if self._tenants is not None and watch_tenants is not None:
            tokens = ConfiguredTokens(watch_tenants.tenant)
            self._config.tell(lambda config: tokens.apply(config.identity_providers))
            is_open = self._settings.auth == "from-first-tenant"
            authenticator = TenantAuthenticator(watch_tenants, tokens, open_until_a_tenant=is_open)
            opened.append(watch_tenants)
            limits = TenantLimits(self._accounts(opened), watch_tenants.limits_of, self._process)
            own = TenantAdministration(self._tenants, random_key, time.time, watch_tenants.refresh).routes()
        once = AnswersOnce(shared=self._shared_answers())
        folder = self._settings.state_dir
        later = None if folder is None else self._later_work(folder, authenticator.caller_again)
        jobs = None if later is None else later.jobs
        ways: dict[WayName, Way] = {"short": short if self._redis is None else RecordedShortWay(short), "pods": pods}
        turns = FairTurns(lambda: self._config.config.queue)
        waits = TargetWaits(EndpointFacts(short.has_engine, turns.wait_s, _wakes(short, pods)))
        book = None if self._usage is None else UsageBook(self._usage, self._prices)
        records = EndpointRecords(ColdStarts(), book, waits)
        own += self._endpoints_api(table, records, watch_tenants)
        routes = Routes(table, Mirrors(self._is_busy), self._rollouts, waits)
        self._config.tell(routes.apply)
        own = [*own, *RouteList(routes).routes()]
        steps = Steps(
            authenticator, table, limits, once, _Chooser(short), ways, pods.wake, turns, routes, records, jobs
        )
        pipeline = Pipeline(steps)
        closed: list[Closed] = [once, routes, short, pods, loader]
        if later is not None:
            later.run_by(pipeline)
            own += later.routes()
            closed.insert(0, later)
        paths = any_endpoints_routes(stored)
        router = GatewayRouter(pipeline, table, routes, paths, self._limiter, own)
        app = HttpApp(router, self._limiter, self._server_settings, predict_observer("gateway"))
        plane = EndpointsPlane(pipeline, lambda: table.known, routes.names, self._limiter)
        http2 = grpc_on(GrpcServer(plane, self._limiter, self._server_settings), self._server_settings)
        server = DrainedServer(app, self._limiter, self._server_settings, http2=http2)
        opened += self._books(records, table)
        return server.run(self._lifespan(table, opened, later, closed))

    def _later_work(self, folder: Path, caller_again: CallerAgain) -> LaterWork:
        return LaterWork(folder, caller_again, lambda: self._config.config, lambda: self._limiter.draining)

    def _is_busy(self) -> bool:
        return self._limiter.in_flight > self._settings.max_concurrent_requests * _BUSY_SHARE

    def _shared_answers(self) -> SharedAnswers | None:
        if self._redis is None:
            return None
        return SharedAnswers(self._redis[1], self._settings.limits_without_redis, self._process)

    def _responses(self) -> ResponseStore:
        here = KeptHere()
        return here if self._redis is None else SharedResponses(self._redis[1], here)

    def _accounts(self, opened: list[Opened]) -> Accounts:
        """Those of this process alone, or those in Redis; what has to be started is added to `opened`."""
        assert self._settings.state_dir is not None
        memory = MemoryAccounts(budgets=KeptBudgets(SqliteBudgets(self._settings.state_dir / BUDGETS_FILE_NAME)))
        opened.append(memory)
        if self._redis is None:
            return memory
        accounts = RedisAccounts(self._redis[0], memory, self._settings.limits_without_redis, self._process)
        opened.append(accounts)
        return accounts

    def _prices(self) -> PriceTable:
        return self._config.config.prices

    def _books(self, records: EndpointRecords, table: EndpointTable) -> list[Opened]:
        if records.book is None:
            return []
        if not self._settings.pool_url:
            return [records.book]
        pool = PoolAddress(self._settings.pool_url, self._settings.pool_key)
        return [records.book, SlotTimeWatch(pool, SlotTimesByEndpoint(table, records.book).held)]

    def _endpoints_api(
        self, table: EndpointTable, records: EndpointRecords, tenants: TenantWatch | None
    ) -> list[OwnRoute]:
        routes: list[OwnRoute] = []
        usage = None if records.book is None else UsageApi(records.book, self._prices, time.time)
        if usage is not None:
            routes += usage.routes()
        if self._settings.directory is not None:
            platform, news = SocketPlatform(self._settings.directory), NewsWaiter(table)
            orders = EndpointOrders(
                platform,
                news,
                lambda name: self._config.config.endpoints.of(None if tenants is None else tenants.tenant(name)),
                table.holder_of,
            )
            usage_of = no_usage if usage is None else usage.of_endpoint
            routes += EndpointsApi(orders, table, records.cold_starts, usage_of).routes()
        return routes

    @contextlib.asynccontextmanager
    async def _lifespan(
        self, table: EndpointTable, opened: Sequence[Opened], later: LaterWork | None, closed: Sequence[Closed]
    ) -> AsyncIterator[None]:
        watching = None
        for each in opened:
            await each.start()
        if self._known is not None:
            table.apply(self._known)
        elif self._settings.directory is not None:
            watching = asyncio.create_task(watch(self._settings.directory, table.apply), name="endpoint directory")
        if later is not None:
            later.start(0.0 if self._known is not None else PLATFORM_STARTS_S)
        try:
            yield
        finally:
            if watching is not None:
                watching.cancel()
            for ended in (*closed, *reversed(opened)):
                await ended.close()


if __name__ == "__main__":
    raise SystemExit(main())
