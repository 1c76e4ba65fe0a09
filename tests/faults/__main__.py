"""``python -m tests.faults``: write the table of all faults into README.md."""

from sigma.shared.files import atomic_file
from tests.faults.catalogue import README, table

with atomic_file(README) as temporary:
    temporary.write_text(table(), encoding="utf-8")
