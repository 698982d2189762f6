# For "packer init packer/plugins" with Packer 1.7 or later. Older versions contain these plugins, and refuse this block.
# The versions are exact: Packer checks what it fetches against the checksums of that release.
packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = "1.8.2"
    }
    ansible = {
      source  = "github.com/hashicorp/ansible"
      version = "1.1.6"
    }
  }
}
