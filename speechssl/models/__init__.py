"""Models that come with the package: `speechssl embed small AUDIO`, `speechssl.load("small")`.

Each is a model folder (`files.ModelFolder`) with its card, `README.md`: what it was trained on, what
it is worth, and how to make it again. `files.model_folder` finds them by name.
"""
