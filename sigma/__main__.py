"""``python -m sigma``: the form that DVC uses, because it imports the checkout it runs in."""

from sigma.cli import main

main()
