"""Tables: rows of features with a class or a value, synthetic and real."""
