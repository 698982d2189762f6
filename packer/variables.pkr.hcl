# These files use only what all of Packer 1.6.6 to 1.16 understand: no required_plugins, validation or metadata_options.

# The recipe: packer/recipes/<recipe>.pkrvars.hcl

variable "recipe" {
  type        = string
  description = "The recipe's name, which is also the Ansible group of its machine."
}

variable "base" {
  type        = string
  description = "The base that the bake starts from: a key of bases."
}

variable "instance_type" {
  type        = string
  description = "The EC2 instance type of the machine that the bake runs on."
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
  description = "For each package, the URL of its repository by base or family. Packer doesn't use it; bakehouse/baking/orders.py finds stand-ins with it."
}

variable "boot_budget" {
  type        = number
  description = "The seconds within which a machine of the image must serve. Packer doesn't use it."
}

variable "architecture" {
  type        = string
  description = "The architecture, in EC2's word; empty for the account's own. Packer doesn't use it; the kit finds the base by it."
  default     = ""
}

variable "privileged" {
  type        = bool
  description = "Whether the machines need rights that make their root the host's root, on the local EC2; AWS pays no heed to it."
  default     = false
}

variable "mitogen" {
  type        = bool
  description = "Whether Ansible runs with Mitogen, which runs tasks several times as fast. Packer doesn't use it."
  default     = false
}

# The bases: packer/bases.auto.pkrvars.hcl

variable "bases" {
  type        = map(object({ family = string, image_name = string, owner = string, user = string, root_device = string }))
  description = "For each base, how its image is found and who its first user is."
}

# The run: bakehouse/baking/bakes.py sets these. Only "packer validate" uses the defaults.

variable "run" {
  type        = string
  description = "The run's ID, which is a tag of everything that the run makes."
  default     = "none"
}

variable "ssh_seconds" {
  type        = number
  description = "The seconds within which the machine must let Packer in."
  default     = 300
}

variable "name" {
  type        = string
  description = "The name of the image and of the machine that it is made of."
  default     = "bakehouse"
}

variable "fixed_tags" {
  type        = map(string)
  description = "The tags that accounts.yml gives to everything on the account."
  default     = {}
}

variable "run_folder" {
  type        = string
  description = "The run's own folder, with inventory/, known_hosts, vars.json and the manifest."
  default     = "."
}

variable "root" {
  type        = string
  description = "The folder of the checkout."
  default     = "."
}

variable "ansible_playbook" {
  type        = string
  description = "The program that runs Ansible: bakehouse/baking/reads.py, which notes what it reads."
  default     = "ansible-playbook"
}

variable "ansible_arguments" {
  type        = list(string)
  description = "More arguments of ansible-playbook: what a person adds to the recipe for this bake."
  default     = []
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
  description = "The URL of the local EC2; empty on AWS."
  default     = ""
}

variable "base_image" {
  type        = string
  description = "The ID of the base's image."
  default     = "ami-00000000000000000"
}

variable "group_ids" {
  type        = list(string)
  description = "The IDs of the machine's security groups: the run's own, which is open to the caller only, or those of accounts.yml."
  default     = []
}

variable "subnet_id" {
  type        = string
  description = "The ID of the machine's subnet; empty where EC2 chooses."
  default     = ""
}

variable "is_public" {
  type        = bool
  description = "Whether the machine gets a public address. If not, it is reached at its private one."
  default     = true
}

variable "bastion" {
  type        = map(string)
  description = "The bastion through which SSH leads to the machine: host, port, user and key; empty for none."
  default     = {}
}

variable "instance_profile" {
  type        = string
  description = "The name of the machine's instance profile; empty for none."
  default     = ""
}

variable "encrypted" {
  type        = bool
  description = "Whether the machine's volume, and so the image, is encrypted."
  default     = false
}

variable "kms_key_id" {
  type        = string
  description = "The key of KMS that encrypts it; empty for AWS's own."
  default     = ""
}

variable "key_name" {
  type        = string
  description = "The name of the run's own key pair."
  default     = ""
}

variable "key_file" {
  type        = string
  description = "The path of the private key of that pair."
  default     = ""
}
