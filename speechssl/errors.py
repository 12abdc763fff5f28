"""The one exception a user should ever see."""


class UserError(Exception):
    """A mistake that a user can cause and mend.

    The message is one line: what is wrong, where, and what to do. The command line prints it and
    exits with code 2; from Python it is an ordinary exception.
    """
