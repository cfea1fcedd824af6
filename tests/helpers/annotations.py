"""Code as users run it, without checks of annotations at run time."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping


@contextmanager
def unchecked_annotations() -> Iterator[None]:
    """Switch off the checks of shapes inside the context."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
