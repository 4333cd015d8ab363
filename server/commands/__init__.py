"""What the commands of ``consilium-server`` do, apart from reading their words."""
