"""The files of the page: what they are, that they belong together, and how they are answered."""

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from serve.headers import SecurityHeaders
from serve.routes.page import page_routes
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "serve" / "page"
FILES = sorted(path for path in PAGE.rglob("*") if path.is_file())
MODULES = [path for path in FILES if path.suffix == ".js"]
PAGES = {"index.html": "/", "docs.html": "/docs"}
HTML = "\n".join((PAGE / name).read_text() for name in PAGES)
NAMES = [path.relative_to(PAGE).as_posix() for path in FILES]


@pytest.fixture
def client(connect: Callable[..., Any]) -> Any:
    app = FastAPI(docs_url=None, redoc_url=None)
    app.add_middleware(SecurityHeaders)
    app.include_router(page_routes())
    return connect(app)


@pytest.mark.parametrize("name", NAMES)
def test_each_file_is_answered_as_what_it_is(client: Any, name: str) -> None:
    answer = client.get(PAGES.get(name, f"/{name}"))
    kinds = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    assert answer.status_code == 200
    assert answer.content == (PAGE / name).read_bytes()
    assert answer.headers["content-type"].startswith(kinds[Path(name).suffix])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"


def test_what_a_browser_has_is_not_sent_again(client: Any) -> None:
    first = client.get("/")
    again = client.get("/", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/", headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.get("/app/main.js").headers["etag"] != first.headers["etag"]


def test_nothing_but_its_files_is_answered(client: Any) -> None:
    for path in (
        "/app",
        "/app/",
        "/style/../headers.py",
        "/%2e%2e/api.py",
        "/index.html/",
        "/docs.html",
        "/redoc",
        "/app/none.js",
    ):
        assert client.get(path).status_code == 404, path


def test_the_policy_lets_nothing_in_from_elsewhere_and_no_inline_code(client: Any) -> None:
    texts = {client.get(address).headers["content-security-policy"] for address in PAGES.values()}
    assert len(texts) == 1
    policy = dict(part.strip().split(" ", 1) for part in texts.pop().split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["img-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in str(policy)


def test_the_page_has_no_inline_script_or_style() -> None:
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", HTML)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", HTML))


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_nothing_is_named_from_another_host(path: Path) -> None:
    found = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"']*", re.sub(r"//.* ", "", path.read_text()))
    assert set(found) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_says_what_it_is_and_never_writes_markup(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("/** ")
    assert text.count("\n") <= 220
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|localStorage", text)
    for imported in re.findall(r'from "([^"]+)"', text):
        assert (path.parent / imported).resolve().is_file(), imported


def test_every_file_is_used() -> None:
    used = {(PAGE / name).resolve() for name in re.findall(r'(?:href|src)="([\w/.]+\.(?:css|js|svg))"', HTML)}
    for path in MODULES:
        used |= {(path.parent / name).resolve() for name in re.findall(r'from "([^"]+)"', path.read_text())}
    assert used == {path.resolve() for path in FILES} - {(PAGE / name).resolve() for name in PAGES}


def palettes() -> dict[str, dict[str, str]]:
    light, dark = (PAGE / "style" / "tokens.css").read_text().split("@media")
    found = [dict(re.findall(r"--([a-z-]+):\s*(#[0-9a-f]{6})", part)) for part in (light, dark)]
    return {"light": found[0], "dark": found[0] | found[1]}


def luminance(colour: str) -> float:
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG 2.1, definition of contrast ratio."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


TEXT_ON = [
    *product(("text", "muted", "accent", "up", "down", "warn", "calm"), ("surface",)),
    *product(("text", "muted"), ("ground", "sunken")),
    *((name, f"{name}-soft") for name in ("accent", "up", "down", "warn", "calm")),
    ("text", "down-soft"),
    ("on-accent", "accent"),
    ("surface", "text"),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), TEXT_ON)
def test_text_can_be_read(scheme: str, text: str, ground: str) -> None:
    palette = palettes()[scheme]
    assert contrast(palette[text], palette[ground]) >= 4.5
