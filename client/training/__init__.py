"""Training and measuring on one site's cases: plain PyTorch, no Flower."""
