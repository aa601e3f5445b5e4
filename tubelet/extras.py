"""Optional packages: one clear error when an extra is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["needs"]


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Guard the late import of an optional package: `with needs("video"): import av`.

    Args:
        extra: the name of the extra of `tubelet` that brings the package.

    Raises:
        ImportError: the package is missing; the message names it and the pip line that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f'no module named {error.name!r}; install it with: pip install "tubelet[{extra}]"'
        raise ImportError(message, name=error.name) from error
