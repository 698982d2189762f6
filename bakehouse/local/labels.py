"""Name the labels that say of a thing on Docker which checkout it belongs to and what it is."""

CHECKOUT = "bakehouse.checkout"
PATH = "bakehouse.path"  # of the folder of its local EC2
HOST = "bakehouse.host"  # on which that folder is
KIND = "bakehouse.kind"
INSTANCE = "bakehouse.instance"
MACHINE = "bakehouse.machine"  # what the instance is
IMAGE = "bakehouse.image"  # what the image is
SNAPSHOT = "bakehouse.snapshot"
BASE = "bakehouse.base"
CONTENT = "bakehouse.content"  # the digest of what a container serves: another content, another container
