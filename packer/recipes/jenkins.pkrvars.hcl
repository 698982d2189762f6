# What is baked. How it is configured: inventory/group_vars/jenkins.yml
recipe        = "jenkins"
base          = "debian-13"
instance_type = "t3.medium"
volume_size   = 16 # GiB
playbook      = "playbooks/jenkins.yml"
boot_budget   = 120 # seconds from launch until a machine serves

# Where the packages come from that a base doesn't have itself: by base, or by family of bases.
# Where a repository can't be reached, the local EC2 offers a package that stands in for it.
packages = {
  jenkins = { debian = "https://pkg.jenkins.io/debian-stable", redhat = "https://pkg.jenkins.io/rpm-stable" }
  java    = { debian-12 = "https://packages.adoptium.net/artifactory/deb" }
}
