"""The page stands alone and shows what was measured."""

import base64
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from sigma.evaluation.references import TITLES
from sigma.report.figures import SHADE, joint_trace
from tests.commands.test_report import _parameters
from tests.predictions import CAMERAS, write_predictions


class Page(HTMLParser):
    """Collects what the page asks a browser to load, its headings and its pictures."""

    def __init__(self):
        super().__init__()
        self.tags, self.sources, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.sources += [attributes[name] for name in ("src", "href", "data", "action") if name in attributes]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    from sigma.commands import report

    root = tmp_path_factory.mktemp("run")
    write_predictions(root, test=4, skill=-0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        report.run(_parameters(worst_windows=3))
    return (root / "reports" / "index.html").read_text()


@pytest.fixture(scope="module")
def parsed(page):
    parser = Page()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_nothing_is_loaded_from_elsewhere(page, parsed):
    assert "script" not in parsed.tags and "link" not in parsed.tags and "iframe" not in parsed.tags
    assert all(source.startswith("data:image/") for source in parsed.sources)
    assert not re.search(r"url\(|@import|https?://", page)


def test_every_figure_is_a_well_formed_picture(parsed):
    figures = [source for source in parsed.sources if source.startswith("data:image/svg+xml;base64,")]
    assert len(figures) == 9
    for source in figures:
        root = ElementTree.fromstring(base64.b64decode(source.split(",", 1)[1]))
        assert root.tag.endswith("svg")


def test_the_worst_windows_show_what_each_camera_saw(page, parsed):
    pictures = [source for source in parsed.sources if source.startswith("data:image/jpeg")]
    assert len(pictures) == 3 * len(CAMERAS) + 2
    assert all(base64.b64decode(source.split(",", 1)[1]).startswith(b"\xff\xd8") for source in pictures)
    assert page.count(f'alt="{CAMERAS[1]}"') == 3


def test_the_worst_findings_of_the_audit_are_drawn(page):
    data = page.split("<h2>The data</h2>", 1)[1].split("<h2>Limits</h2>", 1)[0]
    assert 'alt="jump in episode 0: state and action, the frames in question shaded"' in data
    assert data.count('src="data:image/svg+xml;base64,') == 1
    for step in (2, 30):
        assert f'alt="{CAMERAS[1]}, frame {step}" src="data:image/jpeg;base64,' in data
    assert "column &#39;action&#39; is missing" not in data
    assert data.index("frozen_camera in episode 1") < data.index("jump in episode 0")
    row = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", data.split("<tbody>")[1]))
    assert "frozen_camera 1 0 1 6.00 5.00 episode 1, " + CAMERAS[1] in row
    assert "wrong_type 1 0 1 2.00 1.00 episode 1" in row


def test_figures_of_the_audit_have_the_same_bytes_and_bear_missing_values():
    values = np.array([0.0, np.nan, np.inf, 3.0, 2.0])
    svgs = [
        joint_trace(values, np.full(5, np.nan), "wrist_roll.pos", 10, frames) for frames in ((1, 2), (1, 2), (-1, -1))
    ]
    assert svgs[0] == svgs[1] != svgs[2]
    assert SHADE.lower() in svgs[0] and SHADE.lower() not in svgs[2]


def test_the_verdict_comes_first_and_every_row_is_there(page):
    body = page.split("<body>", 1)[1]
    assert re.sub(r"<[^>]+>", "", body).strip().startswith("On 16 windows of 4 held-out episodes")
    for title in TITLES.values():
        assert title in body
    for word in ("mse_vec", "tau_l2", "Provenance", "only a closed loop tells", "not for a physical robot"):
        assert word.lower() in body.lower()
