"""Pages for people say what is there: links lead somewhere, files exist, and commands are those of the project."""

import re
from pathlib import Path

import pytest
import typer

from sigma.cli.app import app
from tests.imports import ROOT

FOLDERS = (".github/", "metrics/", "sigma/**/", "stages/**/", "tests/**/", "")
PAGES = sorted({path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in ROOT.glob(f"{folder}*.md")})
BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:sigma|stages|tests|metrics)/[\w./-]+\.(?:py|md|yaml|json))`")
# Written by a run and not committed, or a place for a name.
NOT_THERE = {
    "metrics/study.json",
    "metrics/corrections.json",
    "metrics/sigma_eval_report.json",
    "metrics/provenance.json",
    "sigma/commands/NAME.py",
}


def anchors(page: Path) -> set[str]:
    """The addresses that GitHub gives to the headings of a page."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(name):
    page, broken = ROOT / name, []
    for link in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        # Addresses elsewhere, and those of the repository's own site.
        if "://" in path or path.startswith("../../compare/") or path.startswith("../../releases/"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_a_page_names_exists(name):
    named = set(FILE.findall((ROOT / name).read_text(encoding="utf-8"))) - NOT_THERE
    assert not [file for file in named if not (ROOT / file).exists()]


@pytest.mark.parametrize("name", PAGES)
def test_every_command_that_a_page_shows_is_one_of_the_project(name):
    text = "\n".join(BLOCK.findall((ROOT / name).read_text(encoding="utf-8")))
    commands = re.findall(r"^(?:\$ )?sigma ([a-z][a-z-]*)", text, re.MULTILINE)
    targets = re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)
    made = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(commands) <= set(typer.main.get_command(app).commands)
    assert set(targets) <= set(made)


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
