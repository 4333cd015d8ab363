"""Made-up training images with known labels, and networks that start from them."""
