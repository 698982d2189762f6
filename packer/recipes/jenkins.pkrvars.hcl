# What is baked. Its configuration is in inventory/group_vars/jenkins.yml.
recipe        = "jenkins"
base          = "debian-13"
instance_type = "t3.medium"
volume_size   = 16 # GiB
playbook      = "playbooks/jenkins.yml"
boot_budget   = 120 # seconds within which a machine must serve
mitogen       = true

# The repositories of packages that a base doesn't offer itself, by base or by family of bases.
# When a repository can't be reached, the local EC2 offers a package that stands in for the real one.
packages = {
  jenkins = { debian = "https://pkg.jenkins.io/debian-stable", redhat = "https://pkg.jenkins.io/rpm-stable" }
  java    = { debian-12 = "https://packages.adoptium.net/artifactory/deb" }
}
