"""The cache of prepared cases, where a fault outside magunet may have damaged a file.

Beside `magunet.data.prepare` and not in it, for a change of that module's code prepares, and so trains, everything anew.
"""

import zipfile
import zlib

from magunet import project
from magunet.data.cohort import Case
from magunet.data.prepare import Prepared, cache_key, prepare_case
from magunet.errors import InputError
from magunet.profiles import Settings
from magunet.progress import say


def prepared_case(case: Case, settings: Settings) -> tuple[Prepared, str]:
    """`prepare_case` of a cohort's case; a stored one that is damaged is said, removed and made anew."""
    try:
        return prepare_case(case.name, case.image, case.label, settings)
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
    path = project.data() / "prepared" / f"{case.name}-{cache_key(case.image, case.label, settings)}.npz"
    path.unlink()                                           # here, where NumPy no longer holds it open
    say(f"note: {path}: damaged ({reason}), removed; preparing the case anew")
    return prepare_case(case.name, case.image, case.label, settings)
