source "amazon-ebs" "machine" {
  ami_name        = "bakehouse-${var.recipe}-${var.run}"
  ami_description = "${var.recipe} on ${var.base}, baked by Bakehouse"
  source_ami      = var.base_image
  instance_type   = var.instance_type

  launch_block_device_mappings {
    device_name           = var.bases[var.base].root_device
    volume_size           = var.volume_size
    volume_type           = "gp3"
    iops                  = 3000 # what gp3 has anyway; Packer 1.6.6 wants to be told
    throughput            = 125
    delete_on_termination = true
  }

  region                      = var.region
  custom_endpoint_ec2         = var.endpoint
  skip_region_validation      = true
  skip_metadata_api_check     = true
  skip_credential_validation  = true
  associate_public_ip_address = true

  # Both are the run's own and carry its tag from their first moment on: Packer 1.6.6 leaves its groups untagged
  # and makes RSA keys only, which the sshd of today refuses.
  security_group_id    = var.group_id
  ssh_keypair_name     = var.key_name
  ssh_private_key_file = var.key_file
  ssh_username         = local.user
  communicator         = "ssh"
  ssh_timeout          = "5m"

  # Both keys, always: with one alone some versions wait seven minutes for an image and lose it.
  aws_polling {
    delay_seconds = 1
    max_attempts  = 3600
  }

  tags            = local.tags
  snapshot_tags   = local.tags
  run_tags        = local.tags
  run_volume_tags = local.tags
}
