"""Whole federations on one machine, through the real server and client code."""
