"""A registry that answers something else than a registry does: a clear error each, nothing taken for a schema."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from schemas import registry as registries
from schemas.registry import Breaks, HttpRegistry, RegistryConfig, RegistryUnavailable
from schemas.subjects import load
from schemas.writers import Writers

Answers = Callable[[web.Request], Any]
JSON = "application/vnd.schemaregistry.v1+json"


class Server:
    def __init__(self) -> None:
        self.answer: Answers = lambda request: web.Response(status=500)
        self.asked: list[tuple[str, str]] = []
        self.logins: list[str | None] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path))
        self.logins.append(request.headers.get("Authorization"))
        found = self.answer(request)
        response: web.StreamResponse = await found if asyncio.iscoroutine(found) else found
        return response


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    one = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", one.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    await runner.cleanup()


@pytest.fixture
async def registry(server: Server) -> AsyncIterator[HttpRegistry]:
    one = HttpRegistry(RegistryConfig(url=server.url, username="u", password="swordfish"))  # type: ignore[arg-type]  # made a secret
    yield one
    await one.close()


def said(body: object, status: int = 200) -> web.Response:
    return web.Response(status=status, text=json.dumps(body), content_type=JSON)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda _: web.Response(text="<html>welcome</html>", content_type="text/html"), r"with 200 \(text/html\)"),
        (lambda _: web.Response(status=404, text="<html>", content_type="text/html"), r"with 404 \(text/html\)"),
        (lambda _: web.Response(status=302, headers={"Location": "/elsewhere"}), "with 302"),
        (lambda _: web.Response(status=401), "refuses the login"),
        (lambda _: web.Response(status=403), "refuses the login"),
        (lambda _: said({"error_code": 50001, "message": "4111111111111111"}, 500), "error 50001"),
        (lambda _: said([1, 2]), "see that it is one"),
        (lambda _: web.Response(text='{"schema": "{}"', content_type=JSON), "see that it is one"),
        (lambda _: web.Response(text="[" * 100_000, content_type=JSON), "see that it is one"),
        (lambda _: said({"schema": "x" * registries.ANSWER_BYTES}), "see that it is one"),
    ],
)
async def test_what_is_no_registry_is_unavailable_with_a_reason(
    server: Server, registry: HttpRegistry, answer: Answers, says: str
) -> None:
    server.answer = answer
    with pytest.raises(RegistryUnavailable, match=says) as caught:
        await registry.schema(7)
    assert server.url in str(caught.value)
    assert "swordfish" not in str(caught.value)
    assert "4111" not in str(caught.value)


async def test_one_that_is_slow_is_given_up(
    server: Server, registry: HttpRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow() -> web.Response:
        await asyncio.sleep(30)
        return said({})

    monkeypatch.setattr(registries, "ANSWER_SECONDS", 0.2)
    server.answer = lambda _: slow()
    with pytest.raises(RegistryUnavailable, match="did not answer"):
        await registry.schema(7)


async def test_an_answer_in_many_pieces_is_read_whole(server: Server, registry: HttpRegistry) -> None:
    async def in_pieces(request: web.Request) -> web.StreamResponse:
        whole = json.dumps({"schema": json.dumps(load("event").latest.schema)}).encode()
        response = web.StreamResponse(headers={"Content-Type": JSON})
        await response.prepare(request)
        for start in range(0, len(whole), 1400):
            await response.write(whole[start : start + 1400])
            await asyncio.sleep(0.01)
        return response

    server.answer = in_pieces
    assert await registry.schema(7) == load("event").latest.schema


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_an_id_that_cannot_be_is_not_there(server: Server, registry: HttpRegistry, status: int) -> None:
    server.answer = lambda _: said({"error_code": status * 100 + 1}, status)
    assert await registry.schema(7) is None
    before = len(server.asked)
    assert await registry.schema(2**31) is None
    assert len(server.asked) == before, "asked for an id that no registry has"


async def test_a_version_that_is_older_than_what_is_there_is_not_put_behind_it(
    server: Server, registry: HttpRegistry
) -> None:
    """A producer that registered the newest version by itself came before the first worker."""
    newest = json.dumps(load("usage").latest.schema)

    async def answer(request: web.Request) -> web.Response:
        if request.method == "GET":
            return said({"schema": newest})
        assert not request.path.endswith("/versions")
        there = json.loads((await request.json())["schema"]) == load("usage").latest.schema
        return said({"id": 5}) if there else said({"error_code": 40403}, 404)

    server.answer = answer
    assert await registry.register(load("usage"), "raw.usage-value") == {3: 5}


async def test_an_id_that_is_not_there_is_none_and_the_login_is_sent(server: Server, registry: HttpRegistry) -> None:
    server.answer = lambda _: said({"error_code": 40403, "message": "Schema not found"}, 404)
    assert await registry.schema(7) is None
    assert server.asked == [("GET", "/schemas/ids/7")]
    assert server.logins == ["Basic dTpzd29yZGZpc2g="]


async def test_a_registry_that_may_not_be_written_has_its_versions_looked_up(
    server: Server, registry: HttpRegistry
) -> None:
    def answer(request: web.Request) -> web.Response:
        if request.method == "GET":
            return said({"schema": json.dumps(load("usage").latest.schema)})
        assert not request.path.endswith("/versions"), "it was written to"
        return said({"id": 41})

    server.answer = answer
    assert await registry.register(load("usage"), "raw.usage-value") == {1: 41, 2: 41, 3: 41}


async def test_a_registry_that_refuses_what_only_adds_says_what_to_set(server: Server, registry: HttpRegistry) -> None:
    def answer(request: web.Request) -> web.Response:
        missing = said({"error_code": 40401}, 404)
        return said({"error_code": 409}, 409) if request.path.endswith("/versions") else missing

    server.answer = answer
    with pytest.raises(Breaks, match="set its compatibility"):
        await registry.register(load("usage"), "raw.usage-value")


@pytest.mark.parametrize("schema", ["null", '"string"', "[]", "{}", "nonsense", '{"type":"record"}', "[" * 5000])
async def test_a_newest_version_that_is_no_record_breaks(server: Server, registry: HttpRegistry, schema: str) -> None:
    server.answer = lambda _: said({"schema": schema})
    with pytest.raises(Breaks):
        await registry.compare(load("usage"), "raw.usage-value")


@pytest.mark.parametrize(
    "schema", [None, "string", [], {}, {"type": "record"}, {"type": "record", "name": "R", "fields": 5}]
)
def test_an_id_of_what_is_no_schema_of_a_record_is_as_good_as_unknown(schema: Any) -> None:
    writers = Writers(registry=True)
    assert writers.find(7) is None
    assert writers.wanted == {7}
    writers.learn(7, schema)
    writers.wanted.clear()
    found = writers.find(7)
    assert found is None or found.name == ""
    assert not writers.wanted, "asked for again though it was answered"
    writers.forget(7)
    assert (writers.find(7), writers.wanted) == ((None, {7}) if found is None else (found, set()))


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"url": "registry:8081"}, "write https://"),
        ({"url": "https://u:swordfish@registry"}, "a login into username and password"),
        ({"url": "https://registry", "username": "u"}, "give both or none"),
        ({"url": "https://registry", "password": "swordfish"}, "give both or none"),
    ],
)
def test_a_wrong_config_says_what_to_do_and_tells_no_secret(wrong: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RegistryConfig.model_validate(wrong)
    assert remedy in str(caught.value)
    assert "swordfish" not in str(caught.value)
