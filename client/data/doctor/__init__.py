"""What is wrong with a data set, found before anybody trains on it."""
