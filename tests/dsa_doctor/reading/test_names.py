"""Names: shown as they are, or refused."""

import pytest

from dsa_doctor.reading import ReadingError, check_name, one_line

BAD = ["\n", "\r", "\0", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029", "\u202e", "\u2066", "\u200f", "\udc80"]


@pytest.mark.parametrize("character", BAD, ids=lambda one: f"U+{ord(one):04X}")
def test_what_does_more_than_be_shown_is_refused(character):
    with pytest.raises(ReadingError, match=rf"^character 3 is U\+{ord(character):04X} \("):
        check_name(f"ab{character}c")
    assert one_line(f"ab{character}c") == f"ab\\u{ord(character):04x}c"


@pytest.mark.parametrize("name", ["GLM-5", "模型", "é", "e\u0301", "a b", "it's", "$(x)", "क्‍ष", "🦙"])
def test_what_people_call_things_is_accepted(name):
    check_name(name)
    assert one_line(name) == name


def test_line_breaks_are_accepted_where_asked():
    check_name('{\n\t"a": 1}', breaks=True)
    with pytest.raises(ReadingError):
        check_name("a\rb", breaks=True)
