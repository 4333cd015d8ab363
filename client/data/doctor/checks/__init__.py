"""One small function for each thing that can be wrong with a data set: a table of cases in, findings out."""
