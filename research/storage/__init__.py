"""Storage on disks and in buckets: the cache, run directories, checkpoints, atomic writes; and console output."""
