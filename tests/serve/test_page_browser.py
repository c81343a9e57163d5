"""The page in Chromium, on a desktop and on a phone, over the whole application: clicked through as a person would."""

import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from cryptoml.models.registry import Registry
from serve.access import Access
from serve.api import create_app
from serve.keys import Role, create_key
from serve.settings import AppArgs

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
    pytest.mark.slow,
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
SIZES = {"desktop": (1280, 860, "light"), "phone": (360, 740, "dark")}
VIEWS = ("", "symbol/BTCUSDT", "graph", "adaptations", "models", "health")
HOSTILE = "<img src=x onerror=alert(1)>"
expect = playwright.expect
expect.set_options(timeout=20_000)


@dataclass(frozen=True)
class Site:
    """A served page, and its keys by role."""

    url: str
    keys: dict[str, str]
    newest: dict[str, Any]

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys['admin']}"}
        return httpx.request(method, f"{self.url}/v1/{path}", headers=headers, timeout=60, **options)


@pytest.fixture(scope="module")
def site(today: Any, launch: Callable[..., Any], columns: Any, tmp_path_factory: Any) -> Iterator[Site]:
    """A service on a registry of two versions that keeps all bars but the newest one of SOLUSDT."""
    folder = tmp_path_factory.mktemp("site")
    registry = Registry(folder / "registry")
    first = registry.add(today.bundle, reason=HOSTILE)
    registry.add(replace(today.bundle, created_at="2024-04-01T00:00:00Z"), reason="another week of bars")
    registry.promote(first)
    args = AppArgs(registry=str(folder / "registry"), state=str(folder / "state"), watch_seconds=0.2)
    keys = {role.value: create_key(folder / "keys.json", f"{role.value} desk", role) for role in Role}
    app = create_app(launch(args, folder.name), Access(str(folder / "keys.json")))
    with served(app) as url:
        site = Site(url, keys, columns(today.frames["SOLUSDT"].tail(1)))
        for symbol, frame in today.frames.items():
            kept = frame.iloc[:-1] if symbol == "SOLUSDT" else frame
            assert site.ask("PUT", f"candles/{symbol}", json=columns(kept)).status_code == 200
        yield site


@contextmanager
def served(app: Any) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def browser(site: Site) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, site: Site) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a view; afterwards nothing may have been complained about or asked of other hosts."""
    contexts, complaints = [], []

    def visited(view: str = "", size: str = "desktop", key: str | None = "admin", refusals: tuple[int, ...] = ()) -> Any:
        width, height, scheme = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=size == "phone")
        contexts.append(context)
        if key:
            context.add_init_script(f"sessionStorage.setItem('cryptoml.key', '{site.keys[key]}')")
        page = context.new_page()
        listen(page, site.url, complaints, refusals)
        page.goto(f"{site.url}/#/{view}")
        return page

    yield visited
    for context in contexts:
        context.close()
    assert complaints == []


def listen(page: Any, url: str, complaints: list[str], refusals: tuple[int, ...]) -> None:
    def heard(message: Any) -> None:
        told = re.search(r"status of (\d+)", message.text)
        if message.type in ("error", "warning") and not (told and int(told[1]) in refusals):
            complaints.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: request.url.startswith(url) or complaints.append(request.url))


@pytest.fixture(params=list(SIZES))
def size(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_view_is_drawn_and_fits(visit: Any, size: str, tmp_path: Path) -> None:
    page = visit("", size)
    for view in VIEWS:
        page.evaluate(f"location.hash = '#/{view}'")
        expect(page.locator("main h1")).to_be_visible()
        expect(page.locator(".problem")).to_have_count(0)
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view} is wider than {size}"
        assert page.locator("main h1").count() == 1
        nameless = page.locator("button, a, input:not([type=hidden]), select").evaluate_all(NAMELESS)
        assert nameless == []
        page.screenshot(path=tmp_path / f"{size}-{view.replace('/', '-') or 'symbols'}.png", full_page=True)
    assert len(list(tmp_path.glob("*.png"))) == len(VIEWS)


NAMELESS = """all => all.filter(one => !(one.textContent.trim() || one.getAttribute('aria-label') || one.labels?.length))
    .map(one => one.outerHTML)"""


def test_key_is_entered_once_and_kept_in_the_tab(visit: Any, site: Site) -> None:
    page = visit("", key=None, refusals=(401,))
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("answers to those with a key")
    expect(page.get_by_role("alert", include_hidden=True)).to_contain_text("the API key is missing")
    page.get_by_role("textbox", name="API key").fill("cml_00000000_wrong")
    page.get_by_role("button", name="Use key").click()
    expect(dialog).to_contain_text("is not one of this service")
    page.get_by_role("textbox", name="API key").fill(site.keys["read"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="BTCUSDT")).to_be_visible()
    expect(page.locator("#live")).to_have_text("Live")
    page.reload()
    expect(page.get_by_role("link", name="BTCUSDT")).to_be_visible()
    assert page.evaluate("[Object.keys(localStorage).length, document.cookie, sessionStorage.length]") == [0, "", 1]
    page.get_by_role("button", name="Key").click()
    page.get_by_role("button", name="Forget key").click()
    expect(dialog).to_contain_text("answers to those with a key")
    assert page.evaluate("sessionStorage.length") == 0


def test_symbols_are_sorted_filtered_and_found(visit: Any, site: Site, size: str) -> None:
    page = visit("", size)
    signals = {row["candles"]["symbol"]: row["signal"] for row in site.ask("GET", "symbols").json()["symbols"]}
    rows = page.locator(".symbols tbody tr")
    expect(rows).to_have_count(3)
    names = page.locator(".symbols tbody th")
    for turn in (sorted, lambda found: sorted(found, reverse=True)):
        page.get_by_role("columnheader", name="Symbol").get_by_role("button").click()
        assert [name[:7] for name in names.all_inner_texts()] == turn(signals)
    page.get_by_role("columnheader", name="Conf").get_by_role("button").click()
    assert page.get_by_role("columnheader", name="Conf").get_attribute("aria-sort") == "descending"
    by_confidence = sorted(signals, key=lambda name: -(signals[name]["confidence"] or 0))
    assert [name[:7] for name in names.all_inner_texts()] == by_confidence
    page.get_by_label("Find a symbol").fill("eth")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text(signals["ETHUSDT"]["action"])
    page.get_by_label("Find a symbol").fill("nothing")
    expect(page.get_by_text("No symbol here")).to_be_visible()
    page.get_by_label("Find a symbol").fill("")
    for action in ("BUY", "SELL", "HOLD"):
        page.get_by_role("radio", name=action.capitalize()).check()
        expect(rows).to_have_count(sum(one["action"] == action for one in signals.values()))


def test_one_symbol_in_depth(visit: Any, site: Site, size: str) -> None:
    page = visit("", size)
    page.get_by_role("link", name="BTCUSDT").click()
    expect(page.locator("h1")).to_have_text("BTCUSDT")
    told = site.ask("GET", "symbols/BTCUSDT").json()
    chart = page.locator(".chart svg").first
    bars = 120 if size == "desktop" else 60
    expect(chart.locator(".up, .down")).to_have_count(bars)
    expect(chart.locator(".fan polygon")).to_have_count(1)
    expect(chart.locator(".fan circle")).to_have_count(len(told["forecast"]["quantiles"]))
    assert chart.locator(".band").count() == 1 + sum(a != b for a, b in zip(told["regimes"], told["regimes"][1:], strict=False))
    expect(page.locator(".attention rect")).to_have_count(len(told["attention"][0]["weights"]))
    expect(page.locator(".influence tbody tr")).to_have_count(len(told["forecast"]["top_features"]))
    expect(page.locator(".verdict")).to_contain_text(told["signal"]["reasoning"].removeprefix("HOLD: "))
    page.get_by_role("radio", name="240").check()
    expect(page.locator(".chart svg").first.locator(".up, .down")).to_have_count(240)


def test_candles_are_read_by_key_and_pointer(visit: Any, site: Site) -> None:
    page = visit("symbol/ETHUSDT")
    told = site.ask("GET", "symbols/ETHUSDT").json()
    chart, line = page.locator(".chart svg").first, page.locator(".readout")
    expect(line).to_contain_text(told["timestamp"][-1][:10])
    chart.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    third = told["timestamp"][-3]
    expect(line).to_contain_text(f"{third[:10]} {third[11:16]} UTC")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(line).to_contain_text("forecast, 4 bars ahead")
    page.keyboard.press("Escape")
    expect(line).to_contain_text(told["timestamp"][-1][11:16])
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 100)
    expect(line).to_contain_text(told["timestamp"][-120][:10])
    assert f"C{told['close'][-120]:.2f}" in line.inner_text().replace("\n", "")


def test_graph_can_be_thinned_and_followed(visit: Any, site: Site, size: str) -> None:
    page = visit("graph", size)
    weights = site.ask("GET", "graph").json()["weights"]
    nodes, links = page.locator(".node"), page.locator(".links path")
    expect(nodes).to_have_count(3)
    slider = page.get_by_label("Links from")
    slider.fill("0")
    expect(links).to_have_count(
        sum(w > 0 for a, row in enumerate(weights) for b, w in enumerate(row) if a != b and w is not None)
    )
    slider.fill(slider.get_attribute("max"))
    assert links.count() <= 1
    slider.fill("0")
    nodes.first.focus()
    expect(page.locator("p", has_text="BTCUSDT listens to")).to_be_visible()
    assert page.locator(".links path.in").count() + page.locator(".links path.out").count() > 0
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("BTCUSDT")


def test_adapting_shows_losses_and_can_be_undone(visit: Any, site: Site, size: str) -> None:
    page = visit("adaptations", size)
    expect(page.get_by_text("No adaptations yet")).to_be_visible()
    page.get_by_role("button", name="Adapt", exact=True).click()
    expect(page.get_by_text("Choose one symbol at least.")).to_be_visible()
    page.get_by_role("checkbox", name="BTCUSDT").check(force=True)
    page.get_by_label("Newest bars").fill("50")
    page.get_by_role("button", name="Adapt", exact=True).click()
    entry = page.get_by_role("article")
    expect(entry).to_have_count(1)
    (made,) = site.ask("GET", "adaptations").json()["adaptations"]
    verdict = {"accepted": "Accepted", "rolled_back": "Rolled back"}[made["status"]]
    expect(entry).to_contain_text(verdict)
    expect(page.locator(".notice")).to_contain_text(verdict)
    expect(entry.locator(".loss")).to_have_count(2)
    expect(entry).to_contain_text(f"{made['loss_before']:.4g}")
    expect(entry).to_contain_text(made["reason"])
    page.get_by_role("button", name="Forget", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(entry).to_have_count(1)
    page.get_by_role("button", name="Forget", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Forget", exact=True).click()
    expect(page.get_by_text("No adaptations yet")).to_be_visible()
    assert site.ask("GET", "adaptations").json()["adaptations"] == []


def test_versions_are_promoted_and_rolled_back_by_admins(visit: Any, site: Site, size: str) -> None:
    before = site.ask("GET", "models").json()["serving"]
    page = visit("models", size)
    expect(page.get_by_text(HOSTILE)).to_be_visible()
    assert page.locator("img").count() == 0
    page.get_by_role("button", name="Promote").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert site.ask("GET", "models").json()["serving"] == before
    page.get_by_role("button", name="Promote").click()
    page.get_by_label("Reason").fill("better on the newest week")
    page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    expect(page.locator(".notice")).to_contain_text("serves now")
    assert site.ask("GET", "models").json()["serving"] != before
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page.locator("main section code")).to_have_text(before)


def test_a_reader_is_told_what_the_key_may_not_do(visit: Any, site: Site) -> None:
    before = site.ask("GET", "models").json()["serving"]
    page = visit("models", key="read", refusals=(403,))
    page.get_by_role("button", name="Promote").click()
    page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    expect(page.get_by_role("dialog")).to_contain_text("this needs a key with the role admin")
    page.get_by_role("textbox", name="API key").fill(site.keys["admin"])
    page.get_by_role("button", name="Use key").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.wait_for_function("key => sessionStorage.getItem('cryptoml.key') === key", arg=site.keys["admin"])
    serving = [one["version"] for one in site.ask("GET", "models").json()["versions"] if one["serving"]]
    assert serving == [before], "the reader's button changed the version"


def test_new_bars_and_a_lost_connection_show_by_themselves(visit: Any, site: Site) -> None:
    page = visit("symbol/SOLUSDT")
    stamp = site.newest["timestamp"][0]
    expect(page.locator("#live")).to_have_text("Live")
    expect(page.locator(".readout")).not_to_contain_text(f"{stamp[:10]} {stamp[11:16]}")
    assert site.ask("PUT", "candles/SOLUSDT", json=site.newest).status_code == 200
    expect(page.locator(".readout")).to_contain_text(f"{stamp[:10]} {stamp[11:16]}")
    assert site.ask("GET", "candles/SOLUSDT/status").json()["last_bar"][:16] == stamp[:16]


def test_a_service_out_of_reach_is_told_beside_what_was_known(visit: Any) -> None:
    page = visit("", refusals=(503,))
    expect(page.get_by_role("link", name="BTCUSDT")).to_be_visible()
    page.route("**/v1/symbols", lambda route: route.fulfill(status=503, json={"title": "Busy", "detail": "the service is busy"}))
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_role("alert")).to_contain_text("the service is busy")
    expect(page.get_by_text("what was known at")).to_be_visible()
    expect(page.get_by_role("link", name="BTCUSDT")).to_be_visible()
    page.unroute("**/v1/symbols")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert page.locator(".symbols tbody tr").count() == 3


def test_unknown_symbol_and_health(visit: Any, site: Site, size: str) -> None:
    page = visit("symbol/NOPEUSDT", size, refusals=(404,))
    expect(page.get_by_role("alert")).to_contain_text("does not know the symbol")
    page.get_by_role("link", name="Health").click()
    tiles = page.locator(".tile")
    expect(tiles).to_have_count(4)
    for text in ("Up", "Ready", "of 3", "Live"):
        expect(tiles.get_by_text(text).first).to_be_visible()
    fresh = sum(row["candles"]["fresh"] for row in site.ask("GET", "symbols").json()["symbols"])
    assert f"{fresh} of 3" in " ".join(tiles.all_inner_texts())


def test_the_interface_is_described_and_can_be_tried(visit: Any, site: Site, size: str, tmp_path: Path) -> None:
    page = visit("", size)
    page.goto(f"{site.url}/docs")
    described = site.ask("GET", "../openapi.json").json()
    operations = page.locator(".operation")
    expect(operations).to_have_count(sum(len(methods) for methods in described["paths"].values()))
    expect(page.locator("[id^=shape-]")).to_have_count(len(described["components"]["schemas"]))
    signals = page.locator("#post-v1-signals")
    signals.locator("summary").click()
    signals.get_by_role("link", name="ForecastRequest").click()
    expect(page.locator("#shape-ForecastRequest .fields")).to_be_visible()
    signals.get_by_label("JSON body").fill('{"symbols": ["BTCUSDT"]}')
    signals.get_by_role("button", name="Send").click()
    expect(signals.get_by_role("status")).to_contain_text("200")
    expect(signals.get_by_role("status")).to_contain_text('"symbol": "BTCUSDT"')
    page.screenshot(path=tmp_path / f"{size}-docs.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
