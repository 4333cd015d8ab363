"""The time as commands take it."""

from collections.abc import Callable
from datetime import datetime

Clock = Callable[[], datetime]
"""The time, with a time zone."""
