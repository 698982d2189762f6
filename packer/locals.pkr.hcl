locals {
  user = var.bases[var.base].user

  # The kind is "bake" until bakehouse/baking/bakes.py has seen that the image is complete, and makes it "image".
  tags = merge(var.fixed_tags, {
    "Name"             = var.name
    "bakehouse:kind"   = "bake"
    "bakehouse:recipe" = var.recipe
    "bakehouse:run"    = var.run
  }, var.privileged ? { "bakehouse:privileged" = "yes" } : {})
}
