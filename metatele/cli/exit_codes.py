"""The exit codes of the commands, as shells have them."""

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130
