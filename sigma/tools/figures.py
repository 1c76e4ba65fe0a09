"""``sigma figures``: fill the tables in README files from the metrics files, so that no number is typed by hand.

A table stands between ``<!-- figures: NAME -->`` and ``<!-- end -->`` and is made by ``templates/figures/NAME.md``; the
sentences around it are written by a person.
"""

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from sigma.report.html import render
from sigma.shared.errors import SigmaError
from sigma.shared.files import atomic_file, read_json

# The files that each table is made from; a template knows a file's content by the file's name.
BLOCKS = {
    "results": ("metrics/ablation.json", "metrics/rollout.json"),
    "base": ("stages/world/metrics.json",),
    "pretraining": ("stages/world/pretrain.json", "stages/world/curve.csv"),
}
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def signed(value: float) -> str:
    """One decimal with a sign, a true minus."""
    return f"{value:+.1f}".replace("-", "−")


def success(arm: Mapping[str, float]) -> str:
    """Success in percent with its interval."""
    rate, low, high = (100 * arm[key] for key in ("success", "success_lo", "success_hi"))
    return f"{rate:.0f} % ({low:.0f}–{high:.0f})"


def _read(file: Path) -> Any:
    if file.suffix == ".json":
        return read_json(file)
    with file.open(encoding="utf-8", newline="") as rows:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(rows)]


def filled(text: str, root: Path) -> str:
    """``text`` with every block filled from the metrics files under ``root``; raises :class:`SigmaError` for an unknown
    name and for a metrics file without the block's keys."""

    def fill(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name not in BLOCKS:
            raise SigmaError(f"figures: {name}: no such block; legal: {', '.join(BLOCKS)}")
        values = {Path(file).stem: _read(root / file) for file in BLOCKS[name]}
        try:
            table = render(f"figures/{name}.md", package="sigma.tools", signed=signed, success=success, **values)
        except (KeyError, UndefinedError) as error:
            raise SigmaError(
                f"figures: {name}: a metrics file lacks a key ({error}); run the stage that writes it"
            ) from None
        return f"{begin}{table.strip()}\n{end}"

    return _BLOCK.sub(fill, text)


def run(*, root: Path) -> str:
    """Rewrite README.md and every stages/*/README.md that has blocks; returns one line that says which changed."""
    files = [root / "README.md", *sorted(root.glob("stages/*/README.md"))]
    if not files[0].is_file():
        raise SigmaError(f"{files[0]}: not found; run this in the project's root")
    changed = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        if (new := filled(text, root)) != text:
            with atomic_file(file) as temporary:
                temporary.write_text(new, encoding="utf-8")
            changed.append(str(file.relative_to(root)))
    return f"figures: {', '.join(changed) or 'nothing'} changed"
