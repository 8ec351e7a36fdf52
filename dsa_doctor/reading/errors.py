"""What is raised for a source that cannot be used."""


class ReadingError(ValueError):
    """A source from outside cannot be used; the message says where and what is wrong, without a closing full stop.

    The caller puts the option in front and what is accepted behind: it knows both.
    """
