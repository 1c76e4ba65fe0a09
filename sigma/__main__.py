"""``python -m sigma``: DVC's stages use this form, because it imports the sources of the folder that it runs in."""

from sigma.cli.app import main

main()
