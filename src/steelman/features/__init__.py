"""Features: what a network sees in an image, made visible, cleaned, told apart and synthesised."""
