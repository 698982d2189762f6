# What is baked. Its configuration is in inventory/group_vars/nginx.yml.
recipe        = "nginx"
base          = "debian-13"
instance_type = "t3.micro"
volume_size   = 8 # GiB
playbook      = "playbooks/nginx.yml"
boot_budget   = 60 # seconds within which a machine must serve
mitogen       = true
packages      = {}
