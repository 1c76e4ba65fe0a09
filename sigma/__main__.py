"""``python -m sigma``: the form that DVC uses, because it imports the checkout it runs in."""

from sigma.cli.app import main

main()
