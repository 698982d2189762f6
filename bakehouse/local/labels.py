"""The labels by which what is on Docker is known to be a checkout's, and what it is."""

CHECKOUT = "bakehouse.checkout"
KIND = "bakehouse.kind"
INSTANCE = "bakehouse.instance"
IMAGE = "bakehouse.image"
SNAPSHOT = "bakehouse.snapshot"
BASE = "bakehouse.base"
CONTENT = "bakehouse.content"  # the digest of what a container serves: another content, another container
