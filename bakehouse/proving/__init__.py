"""Proving: whether an image is fit for service, and whether roles do what they promise."""
