"""One reader for everything that comes from outside: facts, configurations, policies, manifests, indices.

Size, depth and number of values are bounded, encodings are told apart, and an error names the source, the place and
what is accepted. Standard library and zstandard alone.
"""

from dsa_doctor.reading.compression import compression_of, decompressed
from dsa_doctor.reading.documents import MOST_VALUES, parse_json, parse_toml
from dsa_doctor.reading.errors import ReadingError
from dsa_doctor.reading.files import STANDARD_INPUT, read_bytes, read_file
from dsa_doctor.reading.names import check_name, one_line
from dsa_doctor.reading.text import decode

__all__ = [
    "MOST_VALUES",
    "STANDARD_INPUT",
    "ReadingError",
    "check_name",
    "compression_of",
    "decode",
    "decompressed",
    "one_line",
    "parse_json",
    "parse_toml",
    "read_bytes",
    "read_file",
]
