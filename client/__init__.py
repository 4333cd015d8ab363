"""The site: everything that runs inside a hospital."""
