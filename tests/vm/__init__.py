"""Tests that boot real kernels in QEMU."""
