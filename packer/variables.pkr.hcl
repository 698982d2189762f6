# Only what Packer 1.6.6 to 1.16 understand alike: no required_plugins, no validation blocks, no metadata_options.

# The recipe: packer/recipes/<recipe>.pkrvars.hcl

variable "recipe" {
  type        = string
  description = "The recipe's name; also the Ansible group whose group_vars hold."
}

variable "base" {
  type        = string
  description = "The base that the bake starts from: a key of bases."
}

variable "instance_type" {
  type        = string
  description = "The EC2 type of the machine that is baked on."
}

variable "volume_size" {
  type        = number
  description = "The size of the root volume, in GiB."
}

variable "playbook" {
  type        = string
  description = "The recipe's own playbook, from the root of the checkout; playbooks/bake.yml runs it."
}

variable "packages" {
  type        = map(map(string))
  description = "Package to its repository, by base or family. Packer has no use for it; bakehouse/baking/orders.py looks for stand-ins."
}

variable "boot_budget" {
  type        = number
  description = "Seconds from launch until a machine of the image serves. Packer has no use for it."
}

variable "architecture" {
  type        = string
  description = "The architecture, in EC2's word; empty for the account's own. Packer has no use for it; the kit finds the base by it."
  default     = ""
}

# The bases: packer/bases.auto.pkrvars.hcl

variable "bases" {
  type        = map(object({ family = string, image_name = string, owner = string, user = string, root_device = string }))
  description = "Base to how its image is found and entered."
}

# The run: bakehouse/baking/bakes.py gives these. The defaults are what "packer validate" needs.

variable "run" {
  type        = string
  description = "The run's ID, a tag on everything that is made."
  default     = "none"
}

variable "run_folder" {
  type        = string
  description = "The run's own folder: inventory/, known_hosts, vars.json and the manifest."
  default     = "."
}

variable "root" {
  type        = string
  description = "The checkout."
  default     = "."
}

variable "scratch" {
  type        = string
  description = "The run's folder for temporary files, with a name short enough for the sockets of SSH's shared connection."
  default     = "."
}

variable "region" {
  type        = string
  description = "The AWS region."
  default     = "us-east-1"
}

variable "endpoint" {
  type        = string
  description = "The URL of another EC2 than AWS's own, or empty."
  default     = ""
}

variable "base_image" {
  type        = string
  description = "The image ID that the base was resolved to."
  default     = "ami-00000000000000000"
}

variable "group_id" {
  type        = string
  description = "The run's own security group, open to the caller's address only."
  default     = ""
}

variable "key_name" {
  type        = string
  description = "The run's own key pair."
  default     = ""
}

variable "key_file" {
  type        = string
  description = "The private key of that pair."
  default     = ""
}
