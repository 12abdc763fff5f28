"""Pictures: the one style of all of them, and the curves of trainings."""
