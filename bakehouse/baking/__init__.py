"""Baking: from a recipe to an image. The inputs of a bake, the decision whether it is due, and the run of Packer."""
