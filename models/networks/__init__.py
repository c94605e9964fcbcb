"""Networks that the zoo trains itself; the only modules that need torch to be imported."""
