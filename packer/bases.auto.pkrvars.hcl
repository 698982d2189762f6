# The images that a bake can start from: the family of each, the name pattern and owner that find it, and its first user.
# They find it on AWS and on the local EC2 alike. In a pattern, {debian}, {ec2} and {kernel} stand for the architecture in
# Debian's, EC2's and the kernel's word: amd64, x86_64 and x86_64, or arm64, arm64 and aarch64.
bases = {
  debian-13 = {
    family      = "debian"
    image_name  = "debian-13-{debian}-*"
    owner       = "136693071363"
    user        = "admin"
    root_device = "/dev/xvda"
  }
  debian-12 = {
    family      = "debian"
    image_name  = "debian-12-{debian}-*"
    owner       = "136693071363"
    user        = "admin"
    root_device = "/dev/xvda"
  }
  amazon-linux-2023 = {
    family      = "redhat"
    image_name  = "al2023-ami-2023.*-kernel-6.1-{ec2}"
    owner       = "amazon"
    user        = "ec2-user"
    root_device = "/dev/xvda"
  }
  "ubuntu-24.04" = {
    family      = "debian"
    image_name  = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{debian}-server-*"
    owner       = "099720109477"
    user        = "ubuntu"
    root_device = "/dev/sda1"
  }
  "ubuntu-22.04" = {
    family      = "debian"
    image_name  = "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-{debian}-server-*"
    owner       = "099720109477"
    user        = "ubuntu"
    root_device = "/dev/sda1"
  }
  rocky-10 = {
    family      = "redhat"
    image_name  = "Rocky-10-EC2-Base-10.*-*.{kernel}*"
    owner       = "792107900819"
    user        = "rocky"
    root_device = "/dev/sda1"
  }
  rocky-9 = {
    family      = "redhat"
    image_name  = "Rocky-9-EC2-Base-9.*-*.{kernel}*"
    owner       = "792107900819"
    user        = "rocky"
    root_device = "/dev/sda1"
  }
  # Only on the local EC2: Debian 13 with rpm and dnf, which presents itself as Amazon Linux 2023.
  rpm-stand-in = {
    family      = "redhat"
    image_name  = "rpm-stand-in-{ec2}-*"
    owner       = "self"
    user        = "ec2-user"
    root_device = "/dev/xvda"
  }
}
