"""Device numbers as the kernel gives them out in one word (new_decode_dev(), include/linux/kdev_t.h)."""


def decode(number: int) -> str:
    """Return "major:minor"."""
    return f"{(number & 0xFFF00) >> 8}:{number & 0xFF | number >> 12 & 0xFFF00}"
