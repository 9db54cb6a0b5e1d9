"""What an installed library offers, as its own Python tells it, and code that names nothing else."""
