"""What an installed library offers, as its own Python tells it, and what code names that it does not have."""
