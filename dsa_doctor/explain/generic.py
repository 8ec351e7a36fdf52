"""Errors without a sign of their own: raised by the indexer's or the sparse-MLA backend's own code."""

import re

from dsa_doctor.explain.reader import Passage
from dsa_doctor.explain.sighting import Sighting

_INDEXER = re.compile(
    r"sparse_attn_indexer|sparse_mqa_indexer|(?:nsa|dsa)_indexer|mla[/\\](?:sparse_)?indexer\.py|sparse_indexer\.py"
)
_SPARSE_MLA = re.compile(r"sparse_mla|mla_sparse|flashmla_sparse|MLASparse", re.IGNORECASE)
_FRAME = re.compile(r"\s*File \"(?P<path>[^\"]{1,400})\", line \d{1,7}(?:, in (?P<function>\S{1,200}))?")
_BARE = re.compile(r"\s*[A-Z]\w{0,60}(?:Error|Exception)\s*\Z")
_LIBRARY = re.compile(r"[/\\](?:torch|triton)[/\\]")


def own_error(passage: Passage) -> list[Sighting]:
    """An exception whose innermost frame, but for torch's and Triton's, is the indexer's or the backend's."""
    line = passage.line
    if line.is_exception_line and _SPARSE_MLA.search(line.text):
        return [Sighting("DSA213", [line], {"what": line.text.strip()[:200]}, generic=True)]
    frame = _FRAME.match(line.text)
    if frame is None:
        return []
    for following in passage.after(14)[1:]:
        deeper = _FRAME.match(following.text)
        if deeper and not _LIBRARY.search(deeper.group("path")):
            return []
        if following.is_exception_line or _BARE.match(following.text):
            where = f"{frame.group('path')} {frame.group('function') or ''}"
            finding_id = "DSA308" if _INDEXER.search(where) else "DSA213" if _SPARSE_MLA.search(where) else ""
            what = following.text.strip()[:200]
            return [Sighting(finding_id, [following, line], {"what": what}, generic=True)] if finding_id else []
    return []
