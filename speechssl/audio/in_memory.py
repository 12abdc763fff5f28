"""Audio in memory: the bytes of a file, as uploads, downloads and data sets hand them over."""

from __future__ import annotations


class InMemory(str):
    """The name of a recording whose encoded bytes are at hand; it stands where a path may stand.

    Attributes:
        content: the bytes of an audio file, of any container that a file may have.
    """

    content: bytes

    def __new__(cls, content: bytes, name: str = "audio in memory") -> InMemory:
        """Return a recording.

        Args:
            content: bytes of an audio file.
            name: what messages call it; no file of that name is opened.
        """
        recording = super().__new__(cls, name)
        recording.content = content
        return recording
