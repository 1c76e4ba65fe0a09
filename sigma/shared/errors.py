"""The one exception type for faults of the user's input."""


class SigmaError(Exception):
    """A fault in what the user gave: parameters, files, data or weights.

    The message is one line that names the file, the key where there is one, and what would have been legal. The command
    line prints it without a traceback and exits with status 1.
    """
