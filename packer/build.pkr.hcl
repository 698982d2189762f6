build {
  sources = ["source.amazon-ebs.machine"]

  provisioner "ansible" {
    command             = var.ansible_playbook
    playbook_file       = "${var.root}/playbooks/bake.yml"
    inventory_directory = "${var.run_folder}/inventory" # Packer writes a file here, beside a link to group_vars
    groups              = [var.recipe]
    host_alias          = "${var.recipe}-image" # inventory_hostname in the bake; bakehouse/recipes/inputs.py knows it
    user                = local.user
    use_proxy           = false # the proxy is five to ten times slower
    skip_version_check  = true
    extra_arguments = concat([
      "--inventory", "${var.run_folder}/connection.json", # names the connection of Packer's host, "default"
      "--extra-vars", "@${var.run_folder}/vars.json",
      "--extra-vars", jsonencode({ bakehouse_recipe = var.recipe, bakehouse_playbook = var.playbook }),
    ], var.ansible_arguments)
    ansible_env_vars = [
      "ANSIBLE_CONFIG=${var.root}/ansible.cfg",
      "ANSIBLE_LOCAL_TEMP=${var.scratch}",
      "ANSIBLE_SSH_CONTROL_PATH_DIR=${var.scratch}",
      "ANSIBLE_SSH_ARGS=-F none -o ControlMaster=auto -o ControlPersist=120s -o PreferredAuthentications=publickey -o UserKnownHostsFile=${var.run_folder}/known_hosts -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR",
      "ANSIBLE_HOST_KEY_CHECKING=true",
      "ANSIBLE_PIPELINING=true",
      # bakehouse/runs/transcripts.py reads the output. If skipped tasks were hidden, a task's name would be printed only at its end.
      "ANSIBLE_STDOUT_CALLBACK=default",
      "ANSIBLE_CALLBACK_RESULT_FORMAT=json",
      "ANSIBLE_DISPLAY_SKIPPED_HOSTS=true",
      "ANSIBLE_NOCOLOR=1",
      "PYTHONUNBUFFERED=1",
    ]
  }

  post-processor "manifest" {
    output     = "${var.run_folder}/manifest.json"
    strip_path = true
  }
}
