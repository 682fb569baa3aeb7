"""What signatures and controlled equations cost."""
