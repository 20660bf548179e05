"""Each person's way through the package, by command lines and the documentation's own words, on models of their own."""
