"""A run of the whole pipeline that is watched: where it connects, what it tells of a token, what its page shows."""

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from unittest import mock

import pytest

from tests.imports import ROOT
from tests.security.guarded import CAMERAS, SOURCE, STAGES, TASKS, TOKENS, call, no_network, run_guarded

VOID = {"meta", "img", "br"}
KNOWN = {
    "html",
    "head",
    "title",
    "style",
    "body",
    "main",
    "header",
    "section",
    "p",
    "span",
    "ul",
    "li",
    "dl",
    "dt",
    "dd",
}
KNOWN |= {"h2", "h3", "div", "table", "thead", "tbody", "tr", "th", "td", "code", "strong", *VOID}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Every stage, once, with no network: that alone is a test."""
    return run_guarded(tmp_path_factory.mktemp("security") / "guarded")


def holding(folder, needles: tuple[str, ...]) -> list[str]:
    """Files under ``folder`` that hold one of these texts, but the one in which it was planted."""
    found = []
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "sigma_env":
            content = file.read_bytes()
            found += [f"{file}: {needle}" for needle in needles if needle.encode() in content]
    return found


def test_no_stage_connects_anywhere(guarded):
    assert (guarded.root / "reports/index.html").is_file() and (guarded.root / "models/published/README.md").is_file()


def test_the_guard_would_have_noticed():
    import socket

    with no_network(), pytest.raises(AssertionError, match="a connection was tried"):
        socket.create_connection(("127.0.0.1", 9))


def test_no_output_and_no_line_tells_a_token(guarded):
    assert holding(guarded.root, TOKENS) == []
    assert not any(token in guarded.printed for token in TOKENS)


def test_no_error_tells_a_token(guarded, tmp_path):
    """Of a fetch that asks the Hub, of a wrong parameter, of a broken sigma_env."""
    root = shutil.copytree(guarded.root, tmp_path / "project", ignore=shutil.ignore_patterns("data", "models"))
    text = (root / "params.yaml").read_text()
    told = ""
    with mock.patch.dict(os.environ, {"HF_TOKEN": TOKENS[0]}):
        gone = text.replace("source: base", f"source: nobody/nothing\n    revision: '{'0' * 40}'", 1)
        (root / "params.yaml").write_text(re.sub(r"(revision: '0+'\n)\s+revision: null\n", r"\1", gone))
        told += call(root, "fetch")[1]
        (root / "params.yaml").write_text(text + "wings: 1\n")
        told += call(root, "fetch")[1]
        (root / "sigma_env").write_text(f"HF_TOKEN {TOKENS[1]}\n")
        told += call(root, "fetch")[1]
    assert told.count("sigma: error:") == 3, told
    assert not any(token in told for token in TOKENS)


def test_dvc_records_no_token(guarded, tmp_path):
    root = shutil.copytree(guarded.root, tmp_path / "project")
    shutil.copytree(ROOT / "sigma", root / "sigma", ignore=shutil.ignore_patterns("embedded", "__pycache__"))
    for name in ("dvc.yaml", "uv.lock", ".dvcignore"):
        shutil.copyfile(ROOT / name, root / name)
    environment = os.environ | {"HF_TOKEN": TOKENS[0], "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(root)}
    for command in ("init --no-scm -q", "repro -q -s report"):
        subprocess.run(["dvc", *command.split()], cwd=root, env=environment, check=True, capture_output=True)
    assert "cmd: python -m sigma report" in (root / "dvc.lock").read_text()
    assert holding(root, TOKENS) == []


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would take them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def test_the_page_shows_hostile_names_and_runs_none(guarded):
    page = Page((guarded.root / "reports/index.html").read_text(encoding="utf-8"))
    assert page.tags <= KNOWN, page.tags - KNOWN
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), f"{tag} {name}"
        assert name not in ("href", "action", "srcdoc", "formaction"), f"{tag} {name}"
        if name == "src":
            assert value.startswith("data:image/"), value[:60]
    assert ("meta", "content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    assert SOURCE in page.text
    assert any(task in page.text for task in TASKS)
    shown = {value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")}
    assert set(CAMERAS) <= shown or "None: on no test window" in page.text


def test_the_pictures_are_images_in_which_nothing_runs(guarded):
    """An SVG inside an image cannot run anything; it holds no script all the same."""
    import base64

    text = (guarded.root / "reports/index.html").read_text(encoding="utf-8")
    drawn = [
        base64.b64decode(code).decode() for code in re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", text)
    ]
    assert drawn
    for svg in drawn:
        assert "<script" not in svg and "onerror=" not in re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)


def test_the_card_shows_hostile_names_as_code(guarded):
    card = (guarded.root / "models/published/README.md").read_text(encoding="utf-8")
    assert re.search(r"`[^`\n]*<script>alert\(1\)</script>[^`\n]*`", card)
    outside = re.sub(r"```.*?```|`[^`\n]*`", "", card, flags=re.DOTALL)
    assert "<script" not in outside and "<img" not in outside


@pytest.mark.parametrize("template", sorted(path.name for path in (ROOT / "sigma/report/templates").glob("*.html")))
def test_no_template_switches_escaping_off(template):
    text = (ROOT / "sigma/report/templates" / template).read_text(encoding="utf-8")
    assert "|safe" not in re.sub(r"\s", "", text) and "autoescape" not in text and "Markup" not in text
    assert "default-src 'none'" in text


def test_every_stage_was_run(guarded):
    assert {file.stem for file in (guarded.root / "logs").glob("*.json")} == {*STAGES, "finetune-training"}
