"""What ``neuralde`` does at the shell: train, reproduce, bench, and what they share."""
