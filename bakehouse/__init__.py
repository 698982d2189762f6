"""Bake golden machine images from Ansible roles, prove them, put them into service and clear them away."""

__version__ = "0.1.0"
