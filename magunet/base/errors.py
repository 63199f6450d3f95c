"""The one exception for a user's mistake, and how too little memory is told from a defect."""


class InputError(ValueError):
    """What the user provided cannot be used; one line says what is wrong, in which file, and what to do."""


def require(condition: object, message: str) -> None:
    """Raises InputError with the message unless the condition is true."""
    if not condition:
        raise InputError(message)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or torch, on a GPU or not, could not get the memory it asked for."""
    phrases = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed", "bad_alloc")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in phrases))
