"""Losses that more than one method needs: pure functions of tensors."""
