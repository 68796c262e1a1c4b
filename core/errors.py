"""The error that is the user's to mend."""


class UsageError(ValueError):
    """Wrong usage or bad input. Its message is one sentence: what was expected and what was found."""
