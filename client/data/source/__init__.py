"""Where cases come from: folders, archives and tables of a hospital, sorted into the files of each case."""
