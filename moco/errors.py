"""The error that a user can mend. Apart, so that what reads runs need not load the schema."""


class UserError(ValueError):
    """Its text is one line for each thing that is wrong, each with the remedy."""
