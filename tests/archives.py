"""Archives of any members, as bytes, also of those that nobody should unpack."""

import io
import tarfile


def member(name, kind=tarfile.REGTYPE, content=b"", link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def tar(*members, mode="w:gz"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as made:
        for info, content in members:
            made.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return stream.getvalue()
