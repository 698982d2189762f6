"""Baking: from a recipe to an image. What goes into a bake, whether one is due, and Packer's run."""
