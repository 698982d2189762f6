"""Records: what is kept of an image: its contents, where it comes from, and what it was baked of."""
