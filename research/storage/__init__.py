"""What lies on a disk or in a bucket: the cache, run directories, checkpoints, whole writes, and what is printed."""
