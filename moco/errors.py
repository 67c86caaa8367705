"""The error that a user can mend. Apart, so that what reads runs need not load the schema."""

import sys


class UserError(Exception):
    """Its text is one line for each thing that is wrong, each with the remedy. Anything else that is raised is a bug."""


def say(error: UserError) -> None:
    """Prints the error's lines on stderr."""
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)
