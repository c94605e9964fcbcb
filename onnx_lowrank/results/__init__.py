"""The results of the commands, and the saved plan."""
