"""Records: what is written down about an image: its contents, its provenance, and the inputs of its bake."""
