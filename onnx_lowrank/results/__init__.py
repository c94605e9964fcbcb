"""What the commands hand back, and the saved plan."""
