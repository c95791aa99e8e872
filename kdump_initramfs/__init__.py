"""Builds, arms and proves the initramfs that saves a kernel crash dump."""

__version__ = "0.1.0"
