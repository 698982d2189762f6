# Packer as in packer/, but for the provisioner: the floor's script instead of Ansible.
build {
  sources = ["source.amazon-ebs.machine"]

  provisioner "shell" {
    script          = "${var.run_folder}/floor.sh"
    execute_command = "sudo sh {{ .Path }}"
  }

  post-processor "manifest" {
    output     = "${var.run_folder}/manifest.json"
    strip_path = true
  }
}
