"""What user space may import of the kernel: calls, errors, limits of the wire and the codec."""
