"""The one exception for a user's mistake, and how too little memory is told from a defect."""


class InputError(ValueError):
    """Something the user provided cannot be used.

    The message is one line that says what is wrong, in which file, and what to do. The command line prints it
    on stderr and exits with status 2; in a notebook it is an ordinary exception.
    """


def require(condition: object, message: str) -> None:
    """Raises InputError with the message unless the condition is true."""
    if not condition:
        raise InputError(message)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or torch, on a GPU or not, could not get the memory it asked for."""
    phrases = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed", "bad_alloc")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in phrases))
