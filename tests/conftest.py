"""What all tests share."""

from __future__ import annotations

import signal

# Tests that run in the background of a script ignore Ctrl-C, and so would every command that they start;
# a handler is not handed down, so with this those commands start as in a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
