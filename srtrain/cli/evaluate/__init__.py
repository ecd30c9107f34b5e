"""``srtrain evaluate``: models measured on data sets, as the tables of the field do it."""
