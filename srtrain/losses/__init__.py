"""What a generator is trained by: plain modules of ``(sr, hr)`` and their weighted sum."""
