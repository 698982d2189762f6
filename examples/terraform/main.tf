# A machine of the image that a channel names. Terraform reads the channel's parameter at each plan, so the first plan
# after a promotion shows that the machine is replaced.
#   terraform -chdir=examples/terraform init && terraform -chdir=examples/terraform apply -var caller=203.0.113.7/32

terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }
}

variable "channel" {
  description = "The channel's SSM parameter"
  type        = string
  default     = "/bakehouse/jenkins/stable"
}

variable "instance_type" {
  type    = string
  default = "t3.medium"
}

variable "caller" {
  description = "Who may reach Jenkins, as a CIDR block"
  type        = string
}

data "aws_ssm_parameter" "image" {
  name = var.channel
}

resource "aws_security_group" "door" {
  description = "Lets the caller in to Jenkins"

  ingress {
    from_port   = 8080
    to_port     = 8080
    protocol    = "tcp"
    cidr_blocks = [var.caller]
  }

  egress {
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_instance" "machine" {
  ami                    = nonsensitive(data.aws_ssm_parameter.image.value)
  instance_type          = var.instance_type
  vpc_security_group_ids = [aws_security_group.door.id]

  root_block_device {
    encrypted = true
  }

  tags = {
    Name = "jenkins"
  }
}

output "url" {
  value = "http://${aws_instance.machine.public_ip}:8080/login"
}
