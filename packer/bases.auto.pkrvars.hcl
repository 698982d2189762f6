# The images that a bake can start from: how each is found, and who is its first user.
# The same name pattern and owner find it on AWS and on the local EC2.
bases = {
  debian-13 = {
    image_name  = "debian-13-amd64-*"
    owner       = "136693071363"
    user        = "admin"
    root_device = "/dev/xvda"
  }
  amazon-linux-2023 = {
    image_name  = "al2023-ami-2023.*-kernel-6.1-x86_64"
    owner       = "amazon"
    user        = "ec2-user"
    root_device = "/dev/xvda"
  }
}
