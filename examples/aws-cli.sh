#!/bin/sh
# Launch a machine of the image that a channel names; EC2 itself reads the channel's parameter.
set -eu
aws ec2 run-instances --instance-type t3.medium --image-id "resolve:ssm:/bakehouse/jenkins/stable" "$@"
