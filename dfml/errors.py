"""Errors that the commands report in one sentence, without a traceback."""


class InvalidInput(ValueError):
    """Input from the user that can't be used.

    The message is one sentence: the problem, what is allowed, and how to fix it. Commands print it
    without a traceback and exit with code 2; any other exception is a bug and keeps its traceback.
    """


class RunFailed(RuntimeError):
    """Work that began with good input has failed: memory or a disk was full, all trials failed.

    The message is one sentence: what failed and what to do. The commands print it without a
    traceback and exit with code 1.
    """


def one_line(error: BaseException, limit: int = 200) -> str:
    """Return an error's text in one line of at most `limit` characters."""
    return " ".join(str(error).split())[:limit]
