"""The CO2 record of Mauna Loa: one flow cleans it, another reports on it."""
