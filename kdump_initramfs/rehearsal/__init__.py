"""The proof: a real panic of the real kernel with the real image, in QEMU."""
