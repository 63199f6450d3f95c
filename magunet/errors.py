"""The one exception that magunet raises for a user's mistake."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that says what is wrong, in which file, and what to do. The command line
    prints it on stderr and exits with status 2; in a notebook it is an ordinary exception.
    """
