source "amazon-ebs" "machine" {
  ami_name        = var.name
  ami_description = "${var.recipe} on ${var.base}, baked by Bakehouse"
  source_ami      = var.base_image
  instance_type   = var.instance_type

  iam_instance_profile = var.instance_profile

  # metadata_options are put here for Packer 1.7 and later; 1.6.6 doesn't know them

  launch_block_device_mappings {
    device_name           = var.bases[var.base].root_device
    volume_size           = var.volume_size
    volume_type           = "gp3"
    iops                  = 3000 # gp3's own default, but Packer 1.6.6 requires it here
    throughput            = 125
    delete_on_termination = true
    encrypted             = var.encrypted
    kms_key_id            = var.kms_key_id
  }

  region                      = var.region
  custom_endpoint_ec2         = var.endpoint
  skip_region_validation      = true
  skip_metadata_api_check     = true
  skip_credential_validation  = true
  subnet_id                   = var.subnet_id
  associate_public_ip_address = var.is_public

  # The kit makes the group and the key pair for the run, with the run's tag from the beginning: Packer 1.6.6 would leave
  # its group untagged, and can make only RSA keys, which today's sshd refuses.
  security_group_ids   = var.group_ids
  ssh_keypair_name     = var.key_name
  ssh_private_key_file = var.key_file
  ssh_username         = local.user
  communicator         = "ssh"
  ssh_interface        = var.is_public ? "" : "private_ip"
  ssh_timeout          = "${var.ssh_seconds}s"

  ssh_bastion_host             = lookup(var.bastion, "host", "")
  ssh_bastion_port             = lookup(var.bastion, "port", "22")
  ssh_bastion_username         = lookup(var.bastion, "user", "")
  ssh_bastion_private_key_file = lookup(var.bastion, "key", "")

  # Always set both keys: with only one of them, some versions wait seven minutes for an image and then give up. The
  # plugin 1.8 takes the first for all but images: for these it asks after 15 s, 30 s and so on, for an hour at most.
  aws_polling {
    delay_seconds = 1
    max_attempts  = 3600
  }

  # playbooks/bake.yml looks for it before it changes anything. /run is memory: the image doesn't have it.
  user_data = "#cloud-config\nwrite_files: [{path: /run/bakehouse/run, content: '${var.run}'}]\n"

  tags            = local.tags
  snapshot_tags   = local.tags
  run_tags        = local.tags
  run_volume_tags = local.tags
}
