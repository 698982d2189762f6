locals {
  user = var.bases[var.base].user

  # What is made is a bake's own until bakehouse/baking/bakes.py says that it is an image.
  tags = {
    "Name"             = "bakehouse-${var.recipe}-${var.run}"
    "bakehouse:kind"   = "bake"
    "bakehouse:recipe" = var.recipe
    "bakehouse:run"    = var.run
  }
}
