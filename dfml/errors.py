"""The one exception that stands for bad input by a user."""


class InvalidInput(ValueError):
    """Something a user gave can't be used.

    The message is one sentence: what was given, what is allowed, how to mend it. The commands print it without a
    traceback and leave with exit code 2; any other exception is a defect of ours and keeps its traceback.
    """
