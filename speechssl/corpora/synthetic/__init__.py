"""Generated voices: a small corpus with speakers, rooms and emotions, made in seconds."""

from speechssl.corpora.synthetic.corpus import prepare

PART = prepare
__all__ = ["PART", "prepare"]
