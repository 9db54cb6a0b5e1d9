"""selfedit: a language model that learns documents into its weights, tested, versioned and reversible."""

__version__ = "0.1.0"
