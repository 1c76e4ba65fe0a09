"""``sigma figures``: fill the figures in README files from the metrics files beside them."""

from pathlib import Path

from sigma.shared.errors import SigmaError


def run(*, root: Path) -> str:
    """Rewrite every Markdown file that has regions; returns one line that says which changed."""
    from sigma.shared.files import atomic_file
    from sigma.tools.readme import rendered

    files = [root / "README.md", *sorted(root.glob("stages/*/README.md"))]
    if not files[0].is_file():
        raise SigmaError(f"{files[0]}: not found; run this in the project's root")
    changed = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        new = rendered(text, root)
        if new != text:
            with atomic_file(file) as temporary:
                temporary.write_text(new, encoding="utf-8")
            changed.append(str(file.relative_to(root)))
    return f"figures: {', '.join(changed) or 'nothing'} changed"
